"""Whatever is done to the audit log afterwards, `verify` names the row."""

from __future__ import annotations

import hashlib
import math

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from overread.domain.errors import BadInputError, OverreadError
from overread.state import audit
from overread.state.database import Database


@pytest.fixture
def log(database: Database) -> Database:
    """Five rows."""
    for number in range(1, 6):
        with database.writing() as c:
            audit.append(
                c,
                actor="Ä. Müller",
                action="label accepted",
                subject=f"case {number}",
                details={"dice": 0.1 * number, "clicks": [[1, 2, 3]]},
                now=1_700_000_000.1 + number,
            )
    return database


def tamper(database: Database, *statements: str) -> list[str]:
    """What `verify` says after somebody with all rights has had a hand in it."""
    with database.writing() as c:
        if c.dialect.name == "sqlite":
            c.execute(text("DROP TRIGGER audit_refuses_update"))
            c.execute(text("DROP TRIGGER audit_refuses_delete"))
        else:
            c.execute(text("ALTER TABLE audit DISABLE TRIGGER audit_refuses"))
        for statement in statements:
            c.execute(text(statement))
    with database.reading() as c:
        return audit.verify(c)


def test_rows_come_back_as_they_were_written(log: Database):
    with log.reading() as c:
        rows = list(audit.rows(c))
        assert audit.verify(c) == []
        assert audit.last_row(c) == (5, rows[-1].hash)
    assert [row.seq for row in rows] == [1, 2, 3, 4, 5]
    assert rows[2].actor == "Ä. Müller"
    assert rows[2].details == {"dice": 0.1 * 3, "clicks": [[1, 2, 3]]}
    assert rows[2].at == 1_700_000_003.1
    assert rows[0].previous == audit.GENESIS
    assert [row.previous for row in rows[1:]] == [row.hash for row in rows[:-1]]


def test_append_answers_with_the_row_that_is_kept(database: Database):
    with database.writing() as c:
        row = audit.append(c, actor="a", action="b", subject="c", details={"d": (1, 2)}, now=3)
    with database.reading() as c:
        assert list(audit.rows(c)) == [row]


def test_the_hash_is_sha256_over_the_canonical_row(database: Database):
    with database.writing() as c:
        row = audit.append(c, actor="a", action="b", subject="c", details={"z": 1, "y": None}, now=2)
    written = (
        '{"action":"b","actor":"a","at":2.0,"details_json":"{\\"y\\":null,\\"z\\":1}",'
        f'"previous":"{"0" * 64}","seq":1,"subject":"c"}}'
    )
    # echo -n "$written" | sha256sum
    assert row.hash == "c7b478794d1034e96fa0ea7c20c17836b96283a7fb0a9d36f371ad9f5f296dc2"
    assert hashlib.sha256(written.encode()).hexdigest() == row.hash


def test_an_empty_log_is_intact(database: Database):
    with database.reading() as c:
        assert audit.verify(c) == []
        assert audit.last_row(c) == (0, audit.GENESIS)


@pytest.mark.parametrize(
    "column",
    [
        "actor = 'another'",
        "details_json = '{}'",
        "at = 1",
        "subject = 'case 9'",
        "action = 'label withdrawn'",
    ],
)
def test_a_changed_row_is_named(log: Database, column: str):
    assert tamper(log, f"UPDATE audit SET {column} WHERE seq = 3") == [
        "row 3 of the audit log is not what was written: its hash does not fit"
    ]


def test_a_row_with_another_hash_breaks_the_chain(log: Database):
    found = tamper(log, f"UPDATE audit SET hash = '{'f' * 64}' WHERE seq = 3")
    assert found == [
        "row 3 of the audit log is not what was written: its hash does not fit",
        "row 4 of the audit log does not continue row 3: one of the two was replaced, inserted or moved",
    ]


def test_a_first_row_that_continues_something_is_named(log: Database):
    found = tamper(log, f"UPDATE audit SET previous = '{'f' * 64}' WHERE seq = 1")
    assert found[0] == (
        "row 1 of the audit log does not continue nothing, as the first row does: "
        "one of the two was replaced, inserted or moved"
    )


def test_a_removed_row_is_named(log: Database):
    assert tamper(log, "DELETE FROM audit WHERE seq = 2") == ["row 2 is missing from the audit log"]


def test_removed_rows_at_the_start_are_named(log: Database):
    assert tamper(log, "DELETE FROM audit WHERE seq < 4") == ["rows 1 to 3 are missing from the audit log"]


def test_a_removed_row_whose_gap_was_closed_is_named(log: Database):
    found = tamper(
        log,
        "DELETE FROM audit WHERE seq = 3",
        "UPDATE audit SET seq = 3 WHERE seq = 4",
        "UPDATE audit SET seq = 4 WHERE seq = 5",
    )
    assert found[0].startswith("row 3 of the audit log does not continue row 2")


def test_an_inserted_row_is_named(log: Database):
    found = tamper(
        log,
        "INSERT INTO audit SELECT 6, at, actor, action, 'another', details_json, hash, hash FROM audit WHERE seq = 5",
    )
    assert "row 6 of the audit log is not what was written: its hash does not fit" in found
    assert "the audit log was last appended to at row 5, but ends with row 6" in found


def test_rows_in_another_order_are_named(log: Database):
    found = tamper(
        log,
        "UPDATE audit SET seq = 99 WHERE seq = 2",
        "UPDATE audit SET seq = 2 WHERE seq = 3",
        "UPDATE audit SET seq = 3 WHERE seq = 99",
    )
    assert any(sentence.startswith("row 2 of") for sentence in found)
    assert any(sentence.startswith("row 3 of") for sentence in found)


def test_rows_removed_from_the_end_are_missed(log: Database):
    assert tamper(log, "DELETE FROM audit WHERE seq >= 4") == [
        "rows 4 to 5 are missing from the end of the audit log"
    ]


def test_a_log_that_was_emptied_is_noticed(log: Database):
    assert tamper(log, "DELETE FROM audit") == ["rows 1 to 5 are missing from the end of the audit log"]


def test_a_last_row_that_was_written_anew_is_named(log: Database):
    found = tamper(log, f"UPDATE audit SET hash = '{'f' * 64}' WHERE seq = 5")
    assert found == [
        "row 5 of the audit log is not what was written: its hash does not fit",
        "row 5, the last of the audit log, is not the one that was appended last",
    ]


def test_a_missing_mark_is_noticed(log: Database):
    assert tamper(log, "DELETE FROM audit_head") == ["the mark of the audit log's last row is missing"]


def test_a_log_cut_off_together_with_its_mark_betrays_itself_only_to_who_noted_the_hash(log: Database):
    with log.reading() as c:
        noted = audit.last_row(c)[1]
        assert audit.verify(c, expect=noted) == []
    assert (
        tamper(
            log,
            "DELETE FROM audit WHERE seq = 5",
            "UPDATE audit_head SET seq = 4, hash = (SELECT hash FROM audit WHERE seq = 4)",
        )
        == []
    )
    with log.reading() as c:
        assert audit.verify(c, expect=noted) == [
            f"no row of the audit log has the expected hash {noted}: rows were removed or written anew"
        ]


def test_an_earlier_hash_is_still_expected_after_more_was_appended(log: Database):
    with log.writing() as c:
        noted = audit.last_row(c)[1]
        audit.append(c, actor="a", action="b", subject="c", details={}, now=1)
        assert audit.verify(c, expect=noted) == []


@pytest.mark.parametrize("deed", ["UPDATE audit SET actor = 'x'", "DELETE FROM audit"])
def test_the_database_refuses_to_change_or_remove_rows(log: Database, deed: str):
    with pytest.raises(DBAPIError, match="never changed or removed"), log.writing() as c:
        c.execute(text(deed))


def test_details_that_are_no_finite_numbers_are_refused(database: Database):
    with pytest.raises(BadInputError, match=r"details of gate decided .* finite"), database.writing() as c:
        audit.append(c, actor="a", action="gate decided", subject="c", details={"dice": math.nan}, now=1)


def test_details_that_were_made_unreadable_are_named_by_row(log: Database):
    tamper(log, "UPDATE audit SET details_json = '{' WHERE seq = 4")
    with pytest.raises(OverreadError, match="row 4 of the audit log"), log.reading() as c:
        list(audit.rows(c))
