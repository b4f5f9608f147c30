"""A database of any version is brought up to date or refused in words; migrations make just the code's tables."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect, text

from overread.state import audit
from overread.state.database import Database
from overread.state.engines import make_engine, url_of
from overread.state.failures import StateError
from overread.state.migration import SCRIPTS, VERSION_TABLE, upgrade, version_of
from overread.state.preferences import PreferenceRow, preferences, put_preference
from overread.state.schema import METADATA, VERSION

ALL_TABLES = {
    "scores",
    "doubt_parts",
    "servings",
    "turns",
    "labels",
    "models",
    "decisions",
    "preferences",
    "preference_examples",
    "audit",
    "audit_head",
    "overread_schema",
}


@contextmanager
def bare(place: str) -> Iterator[Connection]:
    """A transaction on the database without opening it as ours."""
    url = url_of(place)
    if url.drivername == "sqlite":
        Path(place).parent.mkdir(parents=True, exist_ok=True)
    engine = make_engine(url)
    with engine.connect() as c, c.begin():
        yield c
    engine.dispose()


def test_migrations_make_what_the_code_expects(database: Database):
    with database.reading() as c:
        context = MigrationContext.configure(c, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, METADATA) == []
        assert set(inspect(c).get_table_names()) == ALL_TABLES


def test_on_sqlite_they_make_it_to_the_letter_also_the_partial_index(tmp_path: Path):
    def statements(c: Connection) -> set[str]:
        query = "SELECT sql FROM sqlite_master WHERE type != 'trigger' AND name != 'overread_schema'"
        return {" ".join(sql.split()) for (sql,) in c.execute(text(query)) if sql}

    database = Database.open(tmp_path / "migrated.db")
    with database.reading() as c:
        migrated = statements(c)
    database.close()
    engine = create_engine(f"sqlite:///{tmp_path / 'made.db'}")
    METADATA.create_all(engine)
    with engine.connect() as c:
        made = statements(c)
    engine.dispose()
    assert any("WHERE ended_at IS NULL" in sql for sql in made)
    # The overread_schema table's own index is made by alembic.
    assert {sql for sql in migrated if "overread_schema" not in sql} == made


def test_the_version_of_the_code_is_that_of_the_newest_migration():
    assert ScriptDirectory(str(SCRIPTS)).get_current_head() == VERSION


def test_a_new_database_has_the_newest_version(database: Database):
    with database.reading() as c:
        assert version_of(c) == VERSION


def test_an_older_database_is_upgraded_and_keeps_its_rows(place: str):
    with bare(place) as c:
        upgrade(c, place, to="0001")
        audit.append(c, actor="a", action="b", subject="old", details={}, now=1)
        assert version_of(c) == "0001"
        # Nothing refused to do this yet.
        c.execute(text("UPDATE audit SET actor = actor"))
    database = Database.open(place)
    with database.reading() as c:
        assert version_of(c) == VERSION
        assert [row.subject for row in audit.rows(c)] == ["old"]
    with pytest.raises(Exception, match="never changed or removed"), database.writing() as c:
        c.execute(text("UPDATE audit SET actor = actor"))
    database.close()


def test_a_database_from_before_preferences_learns_to_keep_them(place: str):
    with bare(place) as c:
        upgrade(c, place, to="0002")
        audit.append(c, actor="a", action="b", subject="old", details={}, now=1)
        assert "preferences" not in inspect(c).get_table_names()
    database = Database.open(place)
    with database.writing() as c:
        put_preference(
            c,
            PreferenceRow(
                person="anna",
                recipe="liver",
                purpose="",
                structure="liver",
                champion="c",
                values={},
                cases=0,
                updated_at=1,
            ),
        )
        assert [row.person for row in preferences(c)] == ["anna"]
        assert [row.subject for row in audit.rows(c)] == ["old"]
    database.close()


def test_a_migration_that_fails_leaves_nothing_behind(place: str):
    with bare(place) as c:
        upgrade(c, place, to="0001")
        # What the second migration is about to make is there already.
        if c.dialect.name == "sqlite":
            c.execute(text("CREATE TRIGGER audit_refuses_delete BEFORE DELETE ON audit BEGIN SELECT 1; END"))
        else:
            c.execute(text("CREATE FUNCTION audit_refuses() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'"))
    with pytest.raises(Exception, match="already exists"):
        Database.open(place)
    with bare(place) as c:
        assert version_of(c) == "0001"
        c.execute(text("UPDATE audit SET actor = actor"))


def test_a_database_of_a_newer_overread_is_refused(place: str):
    Database.open(place).close()
    with bare(place) as c:
        c.execute(text("UPDATE overread_schema SET version_num = '0999'"))
    with pytest.raises(
        StateError, match=f"has schema 0999 and this Overread knows none newer than {VERSION}"
    ):
        Database.open(place)


def test_a_database_with_tables_of_another_program_is_refused(place: str):
    with bare(place) as c:
        c.execute(text("CREATE TABLE labels (name TEXT)"))
    with pytest.raises(StateError, match="holds tables called labels and no schema version"):
        Database.open(place)


def test_a_database_that_is_up_to_date_opens_without_alembic(tmp_path: Path):
    Database.open(tmp_path / "overread.db").close()
    code = (
        "import sys; from overread.state.database import Database;"
        f"Database.open({str(tmp_path / 'overread.db')!r}).close(); sys.exit('alembic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
