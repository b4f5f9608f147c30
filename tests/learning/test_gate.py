"""A challenger is promoted only if it is better here and no worse there, judged by whoever has not seen the case."""

from __future__ import annotations

import json
import math
import shutil
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from overread.domain import BadInputError
from overread.ensemble.prediction import predict
from overread.ensemble.storage import load_ensemble, read_description, write_description
from overread.ensemble.threshold import write_threshold_ensemble
from overread.ensemble.training import StoppedError
from overread.imaging.dataset import Case, Dataset
from overread.imaging.volumes import read_labelmap, read_volume
from overread.learning.central import CentralData
from overread.learning.champions import ChampionStore
from overread.learning.comparison import CaseComparison, Comparison, compare
from overread.learning.gate import CROSS_VALIDATION, PROTECTED, Decision, GateOptions, decide, judge
from overread.learning.judging import overlaps
from overread.learning.options import RetrainingOptions
from overread.learning.retraining import retrain
from overread.learning.training_set import LocalCase, TrainingSet, training_set
from support.datasets import write_nifti_case
from support.loop import GOOD, RECIPE, publish_champion, write_central, write_local

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"central_margin": -0.1}, "central_margin is -0.1"),
        ({"centre_margin": 2}, "centre_margin is 2, expected a Dice"),
        ({"confidence": 1.0}, r"confidence is 1\.0"),
        ({"fewest_cases": 0}, "fewest_cases is 0, expected at least 1"),
        ({"central": "no"}, "central is 'no', expected required or unjudged"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(changes: dict, message: str):
    with pytest.raises(BadInputError, match=message):
        GateOptions(**changes)


def thresholds(
    folder: Path, cut: float, classes: tuple[str, ...] = ("background", "organ"), members: int = 2
) -> Path:
    """Members that call organ what is brighter than `cut`."""
    write_threshold_ensemble(folder, "organ", classes, [cut], [0.0] * members)
    return folder


def blocks(folder: Path, local: int = 3, central: int = 2) -> TrainingSet:
    """Images whose left half is 60 and labelled organ; every member may judge all of them."""
    names = [*(f"local-{i}" for i in range(local)), *(f"central-{i}" for i in range(central))]
    image = np.zeros((16, 16, 16), np.float32)
    image[:8] = 60
    cases = []
    for name in names:
        write_nifti_case(folder, name, [image], (image > 0).astype(np.uint8))
        files = folder / "imagesTr" / f"{name}_0000.nii.gz", folder / "labelsTr" / f"{name}.nii.gz"
        cases.append(Case(name, files[:1], files[1]))
    dataset = Dataset("blocks", ("background", "organ"), ("CT",), tuple(cases), len(cases))
    return TrainingSet(
        dataset=dataset,
        local=frozenset(names[:local]),
        central=frozenset(names[local:]),
        protected=frozenset(names[local:]),
        unseen=dict.fromkeys(names, (0, 1)),
        patients={name: name for name in names},
    )


def test_a_challenger_that_sees_what_the_champion_missed_is_promoted(tmp_path: Path):
    cases = blocks(tmp_path)
    decision = judge(thresholds(tmp_path / "old", 90), thresholds(tmp_path / "new", 30), cases)
    assert decision.promoted
    assert decision.local is not None
    assert (decision.local.mean_before, decision.local.mean_after) == (0.0, 1.0)
    assert decision.local.cases[0].after == {"organ": 1.0}
    assert decision.champion == read_description(tmp_path / "old")["identity"][:12]


def test_a_decision_is_plain_json_and_can_be_read_back(tmp_path: Path):
    decision = judge(thresholds(tmp_path / "old", 90), thresholds(tmp_path / "new", 30), blocks(tmp_path))
    text = json.dumps(decision.to_json(), allow_nan=False)
    assert Decision.from_json(json.loads(text)) == decision
    row = json.loads(text)["local"]["cases"][0]
    assert (row["case"], row["patient"], row["members"], row["difference"]) == (
        "local-0",
        "local-0",
        [0, 1],
        1.0,
    )


def test_with_too_few_patients_nothing_is_promoted_and_the_missing_are_counted(tmp_path: Path):
    old, new = thresholds(tmp_path / "old", 90), thresholds(tmp_path / "new", 30)
    decision = judge(old, new, blocks(tmp_path, local=1))
    assert not decision.promoted
    assert decision.reason == "not promoted: there are accepted labels of 1 patient, the gate needs 3: 2 more"
    assert (decision.local, decision.judged_on) == (None, "")


def test_without_a_central_case_nothing_is_promoted_unless_that_is_accepted(tmp_path: Path):
    old, new = thresholds(tmp_path / "old", 90), thresholds(tmp_path / "new", 30)
    cases = blocks(tmp_path, central=0)
    refused = judge(old, new, cases)
    assert not refused.promoted
    assert "nobody can tell whether central Dice fell" in refused.reason
    assert judge(old, new, cases, GateOptions(central="unjudged")).promoted


def of_centres(cases: TrainingSet, *names: str) -> TrainingSet:
    return replace(cases, centres=dict(zip(sorted(cases.local), names, strict=True)))


def test_each_centre_is_told_apart_and_a_decision_of_before_is_still_read(tmp_path: Path):
    cases = of_centres(blocks(tmp_path, local=4), "east", "east", "west", "")
    cases = replace(cases, centres={case: name for case, name in cases.centres.items() if name})
    decision = judge(thresholds(tmp_path / "old", 90), thresholds(tmp_path / "new", 30), cases)
    assert decision.promoted
    assert {name: table.patients for name, table in decision.centres.items()} == {"east": 2, "west": 1}
    assert decision.centres["west"].cases[0].case == "local-2"
    assert "centre east 0.000 → 1.000 (+1.000, interval +1.000 to +1.000; 2 patients)" in decision.reason
    stored = json.loads(json.dumps(decision.to_json()))
    assert Decision.from_json(stored) == decision
    del stored["centres"]
    assert Decision.from_json(stored) == replace(decision, centres={})


def table(case: str, before: Sequence[float], after: Sequence[float]) -> Comparison:
    rows = [
        CaseComparison(f"{case}-{i}", f"{case}-{i}", (0,), {"organ": one}, {"organ": other})
        for i, (one, other) in enumerate(zip(before, after, strict=True))
    ]
    return compare(rows, confidence=0.9, draws=200, generator=np.random.default_rng(0))


@pytest.mark.parametrize(
    ("after", "refused"),
    [
        ((0.7, 0.7, 0.7), True),
        # Too few slides to tell.
        ((0.7, 0.7), False),
        # A loss that may be none.
        ((0.7, 0.7, 0.9), False),
        # A loss within the margin.
        ((0.79, 0.79, 0.79), False),
    ],
)
def test_a_centre_that_surely_loses_refuses_whatever_the_others_gain(after: tuple[float, ...], refused: bool):
    local, central = table("all", (0.5,) * 8, (0.7,) * 8), table("central", (0.8,) * 3, (0.8,) * 3)
    centres = {
        "east": table("east", (0.5,) * 5, (0.9,) * 5),
        "west": table("west", (0.8,) * len(after), after),
    }
    promoted, reason = decide(local, central, PROTECTED, 8, GateOptions(), centres)
    assert promoted is not refused
    assert ("because Dice of centre west falls by more than 0.02" in reason) is refused


def test_cases_that_everybody_learnt_from_cannot_judge(tmp_path: Path):
    cases = blocks(tmp_path)
    seen = replace(cases, unseen={name: who for name, who in cases.unseen.items() if name in cases.central})
    decision = judge(thresholds(tmp_path / "old", 90), thresholds(tmp_path / "new", 30), seen)
    assert not decision.promoted
    assert "every accepted case was learnt from" in decision.reason


def test_accepted_labels_of_the_control_arm_alone_are_nothing_to_learn_from(tmp_path: Path):
    cases = blocks(tmp_path)
    control = replace(cases, protected=cases.local | cases.central)
    decision = judge(thresholds(tmp_path / "old", 90), thresholds(tmp_path / "new", 30), control)
    assert "all 3 accepted labels belong to the control arm" in decision.reason


def test_ensembles_of_another_make_are_not_compared(tmp_path: Path):
    old, cases = thresholds(tmp_path / "old", 90), blocks(tmp_path)
    with pytest.raises(
        BadInputError, match="challenger has classes background, liver, the champion background, organ"
    ):
        judge(old, thresholds(tmp_path / "a", 30, ("background", "liver")), cases)
    other = thresholds(tmp_path / "b", 30)
    (other / "member.bin").write_bytes(b"1")
    write_description(other, {**read_description(other), "members": ["member.bin"]})
    with pytest.raises(BadInputError, match="has 1 members, the champion 0"):
        judge(old, other, cases)


def test_a_label_on_another_grid_is_named(tmp_path: Path):
    cases = blocks(tmp_path)
    write_nifti_case(tmp_path, "local-1", [], np.ones((16, 16, 8)))
    with pytest.raises(
        BadInputError,
        match=r"case local-1 cannot be judged: .*local-1\.nii\.gz lies on another grid than its image",
    ):
        judge(thresholds(tmp_path / "old", 90), thresholds(tmp_path / "new", 30), cases)


def test_an_interrupted_comparison_goes_on_and_asks_nobody_twice(tmp_path: Path):
    cases, work = blocks(tmp_path), tmp_path / "work"
    old, new = thresholds(tmp_path / "old", 90), thresholds(tmp_path / "new", 30)
    stop, shares = threading.Event(), []

    def until_the_third(share: float) -> None:
        shares.append(share)
        if len(shares) == 3:
            stop.set()

    with pytest.raises(StoppedError, match="nothing is lost"):
        judge(old, new, cases, progress=until_the_third, work=work, stop=stop)
    kept = {path.name: path.stat().st_mtime_ns for path in work.iterdir()}
    assert len(kept) == 3
    decision = judge(old, new, cases, work=work)
    assert decision.promoted
    now = {path.name: path.stat().st_mtime_ns for path in work.iterdir()}
    assert len(now) == 10
    assert all(now[name] == changed for name, changed in kept.items())
    assert judge(old, new, cases, work=work) == decision


def test_a_label_that_was_replaced_is_judged_anew(tmp_path: Path):
    cases, work = blocks(tmp_path), tmp_path / "work"
    folder, case = thresholds(tmp_path / "new", 30), cases.dataset.cases[0]
    first = overlaps(folder, [(case, (0,))], work=work)[case.id]
    image = np.zeros((16, 16, 16))
    image[:4] = 1
    write_nifti_case(tmp_path, case.id, [], image)
    second = overlaps(folder, [(case, (0,))], work=work)[case.id]
    assert (first.labelled, second.labelled) == ((8 * 256,), (4 * 256,))


class World:
    """A champion that was trained on central data, and challengers from it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        models = folder / "model"
        self.central: CentralData = publish_champion(
            models, write_central(folder / "central"), folder / "work"
        )
        self.champion = ChampionStore(models).current(RECIPE)

    def challenge(
        self, name: str, local: list[LocalCase], options: RetrainingOptions
    ) -> tuple[Path, TrainingSet]:
        cases = training_set(self.champion, self.central, local)
        return retrain(self.champion, cases, self.folder / name, options), cases

    def judge(self, challenger: Path, cases: TrainingSet) -> Decision:
        return judge(self.champion, challenger, cases, work=self.folder / "judged")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def good(world: World) -> tuple[Path, TrainingSet]:
    return world.challenge("good", write_local(world.folder / "local", 6), GOOD)


def test_a_good_challenger_is_promoted_by_cross_validation(world: World, good: tuple[Path, TrainingSet]):
    decision = world.judge(*good)
    assert decision.promoted, decision.reason
    assert decision.judged_on == CROSS_VALIDATION
    assert "because only 0 of 5 protected control cases exist yet" in decision.reason
    assert decision.local is not None
    assert decision.local.mean_before < 0.2
    assert decision.local.mean_after > 0.7
    # Each was judged by the one member that did not learn from it.
    assert {len(case.members) for case in decision.local.cases} == {1}


def test_the_table_says_what_the_unseen_member_alone_says(world: World, good: tuple[Path, TrainingSet]):
    challenger, cases = good
    decision = world.judge(challenger, cases)
    assert decision.local is not None
    row = decision.local.cases[0]
    ensemble = load_ensemble(challenger)
    case = next(case for case in cases.dataset.cases if case.id == row.case)
    said = predict(
        replace(ensemble, members=[ensemble.members[row.members[0]]]), read_volume(case.channels)
    ).labels
    truth, _ = read_labelmap(case.label)
    assert row.after["ball"] == pytest.approx(2 * (said & truth).sum() / (said.sum() + truth.sum()))


def test_the_same_weights_once_more_are_not_promoted(world: World, good: tuple[Path, TrainingSet]):
    twin = world.folder / "twin"
    shutil.copytree(world.champion, twin)
    write_description(twin, {**read_description(twin), "parent": "the same"})
    decision = world.judge(twin, good[1])
    assert not decision.promoted
    assert decision.reason.startswith("not promoted because local Dice does not rise: ")
    assert decision.central is not None
    assert decision.central.difference == 0


def test_a_challenger_that_forgot_the_central_data_is_rejected_for_that(world: World):
    local = write_local(world.folder / "local", 6)
    decision = world.judge(*world.challenge("forgetful", local, replace(GOOD, replay_share=0.0)))
    assert not decision.promoted
    assert decision.reason.startswith(
        "not promoted because central Dice may fall by more than the margin of 0.02: "
    )
    assert decision.local is not None
    assert decision.local.low > 0.5


def test_a_challenger_of_shuffled_labels_is_rejected(world: World):
    local = write_local(world.folder / "shuffled", 6, shuffled=True)
    decision = world.judge(*world.challenge("misled", local, GOOD))
    assert not decision.promoted
    assert "local Dice does not rise" in decision.reason


def test_five_protected_patients_judge_alone_and_were_never_learnt_from(world: World):
    local = write_local(world.folder / "control", 8, protected=range(5))
    challenger, cases = world.challenge("controlled", local, GOOD)
    decision = world.judge(challenger, cases)
    assert decision.promoted, decision.reason
    assert decision.judged_on == PROTECTED
    assert decision.local is not None
    assert {case.case for case in decision.local.cases} == {f"local-study_{i:02d}" for i in range(5)}
    assert {case.members for case in decision.local.cases} == {(0, 1)}
    for member in range(2):
        assert {f"local-study_{i:02d}" for i in range(5)}.isdisjoint(cases.learnt_by(member, cases.local))
    assert math.isfinite(decision.local.low)
