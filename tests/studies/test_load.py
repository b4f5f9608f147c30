"""Several readers at one server lose no label and meet no error: the short form of `overread.studies.load_test`.

And its checks say when something is wrong. How long requests take is told by the long form, on an idle machine.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from overread.studies.kill_reader import Sent, digest_of
from overread.studies.load_test import (
    LIGHT,
    Ledger,
    Line,
    Outcome,
    Request,
    line,
    lost_labels,
    outcome,
    run,
)
from support.labels import LabelStore, block
from support.servers import ROOT


@pytest.mark.slow
def test_readers_who_work_side_by_side_lose_no_label_and_meet_no_error(tmp_path: Path):
    found = run(ROOT / "apps" / "radiology", tmp_path, clients=6, minutes=0.15, cases=40, think_s=0.3)
    assert found.troubles == found.lost == (), found.text()
    assert found.sent == found.answered > 6
    counts = {line.kind: line.requests for line in found.lines}
    # Every reader does all of it, case after case.
    assert counts["submit"] == counts["infer"] == counts["image"] == counts["info"] == found.sent
    assert counts["train"] == counts["state"] == 2 * found.sent
    assert counts["all light ones"] == sum(counts[kind] for kind in LIGHT)
    assert (
        f"{found.sent} labels sent, {found.sent} answered with 200, {found.sent} of those found"
        in found.text()
    )


def test_labels_that_are_not_as_they_were_sent_are_noticed(tmp_path: Path):
    store = LabelStore(tmp_path)
    rows = [store.add(case) for case in ("kept", "other", "gone", "no row")]
    sent = [Sent(row.case_id, digest_of(block()), {"id": row.id, "file": row.file}) for row in rows]
    place = tmp_path / "overread.db", tmp_path / "accepted"
    assert lost_labels(sent, *place) == []
    sent[1].digest = digest_of(block(2))
    (tmp_path / "accepted" / rows[2].file).unlink()
    sent[3].accepted = {"id": 99, "file": rows[3].file}
    assert lost_labels(sent, *place) == [
        "the label other/anna-1.nii.gz is not what was sent",
        "the label gone/anna-1.nii.gz was answered with 200 and is lost",
        "the label no row/anna-1.nii.gz was answered with 200 and is lost",
    ]
    store.database.close()


def test_what_is_not_good_enough_is_told(tmp_path: Path):
    store = LabelStore(tmp_path / "studies")
    store.database.close()
    (tmp_path / "app" / "state").mkdir(parents=True)
    (tmp_path / "studies" / "overread.db").rename(tmp_path / "app" / "state" / "overread.db")
    ledger = Ledger()
    ledger.requests["info"] += [Request(0.1)] * 9 + [Request(2.1, "500 oh")]
    ledger.requests["infer"] += [Request(9.0)]
    ledger.new_label("one")
    found = outcome(ledger, tmp_path / "app", tmp_path / "studies", (1.0, 2.0))
    assert (found.sent, found.answered, found.lost) == (1, 0, ())
    assert found.troubles == ("info: 500 oh (1 x)",)
    assert found.wrong() == ["info: 500 oh (1 x)", "95 % of the light requests took up to 1.20 s, not 0.5 s"]
    assert [line.kind for line in found.lines] == ["infer", "info", "all light ones"]
    quick = replace(found, troubles=(), lines=(Line("all light ones", 1, 0.1, 0.49, 0.5, 0),))
    assert quick.wrong() == []
    assert replace(quick, lost=("a label",)).wrong() == ["a label"]
    assert isinstance(quick, Outcome)
    assert "load average of the machine: 1.0 at the beginning, 2.0 at the end" in quick.text()


def test_a_kind_without_requests_has_a_row():
    assert line("next", []) == Line("next", 0, 0.0, 0.0, 0.0, 0)


def test_no_two_labels_are_the_same():
    ledger = Ledger()
    made = [ledger.new_label("one") for _ in range(5)]
    assert len({sent.digest for sent, _ in made}) == 5
    assert all(digest_of(voxels) == sent.digest for sent, voxels in made)
