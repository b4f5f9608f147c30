"""`kill -9` at any moment loses no accepted label, leaves the champion loadable and the database consistent.

The short form of `python -m overread.studies.kill_test`; and what its checks say when something is wrong.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from overread.learning.process import REQUEST
from overread.state.database import Database
from overread.state.decisions import add_decision, decisions
from overread.state.labels import labels
from overread.studies.kill_checks import INDEX, labels_kept, memories_agree, while_dead
from overread.studies.kill_moments import PROMOTING
from overread.studies.kill_place import RECIPE, make_place, read_json
from overread.studies.kill_reader import SUBMITTING, Sent
from overread.studies.kill_test import PHASES, SERVER, KillTest, draw_aims
from support.servers import ROOT

# Many times what it takes on an idle machine.
pytestmark = pytest.mark.timeout(1800)
# While readers submit, while it trains, and where most is at stake; the command aims at every phase. The promotion is
# last, so that the training before it is carried on through the others.
KILLS = (SUBMITTING, "training", PROMOTING)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> KillTest:
    """All kills, and the folders as they are afterwards."""
    place = make_place(ROOT / "apps" / "radiology", tmp_path_factory.mktemp("kill") / "place", 20, seed=1)
    test = KillTest(place, seed=1)
    test.run(KILLS)
    return test


@pytest.fixture
def played_copy(played: KillTest, tmp_path: Path) -> KillTest:
    """A test with a copy of the folders, to be damaged."""
    folder = tmp_path / "place"
    shutil.copytree(played.place.folder, folder)
    place = type(played.place)(folder, played.place.cases, played.place.seed, played.place.starter)
    copy = KillTest(place, seed=1)
    copy.ledger.sent = [Sent(label.case, label.digest, label.accepted) for label in played.ledger.sent]
    return copy


@pytest.mark.slow
def test_killed_at_random_moments_it_loses_nothing_and_carries_on(played):
    report = played.report
    assert report.wrong == [], report.text(PHASES)
    assert report.kills == len(KILLS)
    assert sum(report.reached.values()) == len(KILLS)
    assert any(SERVER in killed for _, killed in report.hits)
    assert report.answered > len(KILLS)
    assert report.decisions > 0
    assert (
        report.text(PHASES)
        .splitlines()[-1]
        .startswith(f"{len(KILLS)} kills; {report.answered} labels answered")
    )


@pytest.mark.slow
def test_afterwards_everything_is_in_order(played):
    assert labels_kept(played.place, played.ledger) == []
    assert memories_agree(played.place) == []
    assert while_dead(played.place) == ([], [])
    assert not (played.place.training / REQUEST).exists()


def one_label(test: KillTest) -> Path:
    """File of the newest label of the last case that got one."""
    database = Database.open(test.place.database)
    with database.reading() as c:
        row = labels(c)[-1]
    database.close()
    return test.place.studies / "accepted" / row.file


def lose_file(test: KillTest) -> None:
    one_label(test).unlink()


def change_file(test: KillTest) -> None:
    file = one_label(test)
    other = next(path for path in sorted(file.parents[1].glob("*/*.nii.gz")) if path != file)
    shutil.copyfile(other, file)


def send_what_never_arrived(test: KillTest) -> None:
    test.ledger.sent.append(Sent("study 00", "0" * 64, {"id": 10_000}))


def forget_what_was_sent(test: KillTest) -> None:
    test.ledger.sent.pop(next(i for i, label in enumerate(test.ledger.sent) if label.accepted))


def leave_a_file_without_row(test: KillTest) -> None:
    file = one_label(test)
    shutil.copyfile(file, file.with_name("carla-1.nii.gz"))


def show_another(test: KillTest) -> None:
    case = one_label(test).parent.name
    shown = test.place.studies / "labels" / "final"
    shutil.copyfile(
        next(path for path in sorted(shown.iterdir()) if path.stem != f"{case}.nii"), shown / f"{case}.nii.gz"
    )


def show_none(test: KillTest) -> None:
    (test.place.studies / "labels" / "final" / f"{one_label(test).parent.name}.nii.gz").unlink()


def halve_index(test: KillTest) -> None:
    index = test.place.studies / INDEX
    index.write_text(index.read_text()[:-100])


def forget_study(test: KillTest) -> None:
    index = test.place.studies / INDEX
    content = json.loads(index.read_text())
    del content["objects"]["study 00"]
    index.write_text(json.dumps(content))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lose_file, "or its sidecar is gone"),
        (change_file, "is not what was accepted"),
        (change_file, "are the same"),
        (send_what_never_arrived, "that was answered with {'id': 10000} is lost"),
        (forget_what_was_sent, "was never sent"),
        (leave_a_file_without_row, "files without a row: "),
        (show_another, "that is shown is not its newest"),
        (show_none, "is not shown"),
        (halve_index, f"{INDEX} cannot be read"),
        (forget_study, f"{INDEX} lacks study 00"),
    ],
)
def test_a_label_that_is_not_as_it_should_be_is_noticed(
    played_copy, damage: Callable[[KillTest], None], words: str
):
    damage(played_copy)
    assert any(words in sentence for sentence in labels_kept(played_copy.place, played_copy.ledger))


@pytest.mark.slow
def test_a_damaged_champion_and_memories_that_differ_are_noticed(played_copy):
    place = played_copy.place
    database = Database.open(place.database)
    with database.writing() as c:
        known = decisions(c, RECIPE)[-1]
        add_decision(
            c,
            recipe=RECIPE,
            champion=known.champion,
            challenger="c0ffee",
            promoted=True,
            applied=False,
            reason="made up",
            report={},
            now=0.0,
        )
    database.close()
    assert while_dead(place)[1] == ["a decision that was not applied"]
    store = place.store
    manifest = store.recipe_folder(RECIPE) / "champion.json"
    content = read_json(manifest)
    content["champion"] = place.starter if store.current(RECIPE).name != place.starter else known.challenger
    content["history"].append({"champion": "facade", "since": "2026-01-01T00:00:00+00:00"})
    manifest.write_text(json.dumps(content))
    weights = next(store.current(RECIPE).glob("member_0*"))
    weights.write_bytes(weights.read_bytes()[:-1])
    wrong = " ".join(memories_agree(place))
    assert "the champion cannot be loaded" in wrong
    assert "the decision for c0ffee is not applied" in wrong
    assert "promoted, but never in service: ['c0ffee']" in wrong
    assert "in service without a decision: ['facade']" in wrong
    assert f"for champion, the manifest {content['champion']}" in wrong


@pytest.mark.slow
def test_what_the_killed_left_unfinished_is_told(played_copy):
    place = played_copy.place
    (place.training / REQUEST).write_text('{"model": "ba')
    file = one_label(played_copy)
    shutil.copyfile(file, file.with_name(".draft.nii.gz"))
    shutil.copyfile(file, file.with_name("carla-1.nii.gz"))
    store = place.store.recipe_folder(RECIPE)
    (store / ".incoming-1").mkdir()
    (store / "c0ffee").mkdir()
    wrong, unfinished = while_dead(place)
    assert len(wrong) == 1
    assert wrong[0].startswith(f"{REQUEST} is half written")
    assert unfinished == [
        "a half-written label",
        "a label without its row",
        "a half-copied challenger",
        "a challenger without its decision",
    ]


def test_every_phase_is_aimed_at_equally_often_and_in_another_order_for_another_seed():
    aims = draw_aims(18, 0)
    assert sorted(aims[:9]) == sorted(aims[9:]) == sorted(set(PHASES) & set(aims))
    assert aims == draw_aims(18, 0) != draw_aims(18, 1)
    assert len(draw_aims(4, 0)) == 4
