"""A simulation divides cases by patient, counts a label's cost as stated, and its statistics say who won."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from overread.domain import BadInputError, NotFoundError
from overread.imaging.dataset import read_dataset
from overread.studies.sheets import markdown
from overread.studies.simulation.annotation_cost import (
    CostModel,
    border_cm2,
    cost_of,
    doubtful_box,
    only_inside,
)
from overread.studies.simulation.cases import Labelled, read_labelled, split_by_patient, write_raw
from overread.studies.simulation.report import sheets, write_report
from overread.studies.simulation.statistics import (
    GateRecord,
    Row,
    aubc,
    compare,
    complete_seeds,
    first_reaching,
    gate_record,
    mean_interval,
    summarise,
)
from support.datasets import write_balls, write_description, write_nifti_case


def of_patients(patients: int, cases_each: int) -> Labelled:
    """Cases `p03_1`, whose files are never looked at."""
    from overread.imaging.dataset import Case

    names = [f"p{p:02d}_{c}" for p in range(patients) for c in range(cases_each)]
    cases = tuple(Case(name, (), None) for name in names)  # type: ignore[arg-type]
    return Labelled("made", ("background", "ball"), ("CT",), cases, {name: name[:3] for name in names})


def test_no_patient_is_in_two_groups_and_the_numbers_are_kept():
    labelled = of_patients(patients=30, cases_each=3)
    split = split_by_patient(labelled, np.random.default_rng(0), start=4, protected=3, test=10)
    groups = [{name[:3] for name in ids} for ids in (split.start, split.protected, split.pool, split.test)]
    assert sum(len(group) for group in groups) == len(set().union(*groups))
    assert (len(split.start), len(split.protected), len(split.test)) == (4, 3, 10)
    # Ten test cases are of four patients, start and protected cases of one each: the other 19 wait with all they have.
    assert len(split.pool) == 19 * 3


def test_the_same_seed_draws_the_same_split_and_another_seed_another():
    labelled = of_patients(patients=20, cases_each=2)
    drawn = [
        split_by_patient(labelled, np.random.default_rng(seed), start=2, protected=2, test=5, pool=6)
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0].pool) == 6


def test_too_few_patients_are_refused_by_number():
    with pytest.raises(
        BadInputError, match="made has 6 patients: too few for 2 test, 2 start and 2 protected"
    ):
        split_by_patient(of_patients(6, 1), np.random.default_rng(0), start=2, protected=2, test=2)


def test_images_and_labels_side_by_side_are_read_and_written_as_nnunet_raw(tmp_path):
    write_balls(tmp_path / "raw", 4)
    for part, source in (("images", "imagesTr"), ("labels", "labelsTr")):
        (tmp_path / "plain" / part).mkdir(parents=True)
        for path in (tmp_path / "raw" / source).iterdir():
            path.rename(tmp_path / "plain" / part / path.name.replace("_0000", ""))
    labelled = read_labelled(tmp_path / "plain", patient_pattern=r"ball_(\d)\d")
    assert labelled.classes == ("background", "class_1")
    assert labelled.patients == {f"ball_0{index}": "0" for index in range(4)}
    dataset = read_dataset(write_raw(labelled, ("ball_00", "ball_03"), tmp_path / "central"))
    assert [case.id for case in dataset.cases] == ["ball_00", "ball_03"]
    assert dataset.classes == ("background", "class_1")
    assert dataset.patient_of("ball_03") == "0"
    named = read_labelled(tmp_path / "plain", ("background", "ball"))
    assert named.classes == ("background", "ball")
    assert named.patients["ball_01"] == "ball_01"


def test_what_cannot_be_simulated_is_refused_in_words(tmp_path):
    with pytest.raises(NotFoundError, match=r"neither dataset\.json"):
        read_labelled(tmp_path)
    for part in ("images", "labels"):
        (tmp_path / "empty" / part).mkdir(parents=True)
    with pytest.raises(NotFoundError, match=r"holds no image that ends in \.nii"):
        read_labelled(tmp_path / "empty")
    (tmp_path / "empty" / "images" / "lonely.nii.gz").touch()
    with pytest.raises(BadInputError, match="lonely has no image or no label"):
        read_labelled(tmp_path / "empty")
    write_balls(tmp_path / "balls", 2)
    with pytest.raises(BadInputError, match=r"patient pattern '\(' is not a regular expression"):
        read_labelled(tmp_path / "balls", patient_pattern="(")
    with pytest.raises(BadInputError, match="patient pattern 'LIDC' is not found in case ball_00"):
        read_labelled(tmp_path / "balls", patient_pattern="LIDC")
    image = np.zeros((4, 4, 4), np.float32)
    write_nifti_case(tmp_path / "two", "a", [image, image], image)
    write_description(tmp_path / "two", 1, channel_names={"0": "T1", "1": "T2"})
    with pytest.raises(BadInputError, match=r"case a of .* has several image files"):
        read_labelled(tmp_path / "two")


def cube(edge: int) -> np.ndarray:
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[5 : 5 + edge, 5 : 5 + edge, 5 : 5 + edge] = 1
    return labels


NOTHING = np.zeros((20, 20, 20), np.uint8)


def test_the_border_of_a_cube_is_its_faces_over_the_excess_of_faces():
    # 10 x 10 x 10 voxels of 2 mm: six faces of 20 x 20 mm, 24 cm²; as voxel faces of a smooth surface 16 cm².
    assert border_cm2(cube(10), NOTHING, (2.0, 2.0, 2.0), 1.0) == pytest.approx(16.0)
    assert border_cm2(cube(10), cube(10), (2.0, 2.0, 2.0), 1.0) == 0.0
    assert border_cm2(NOTHING, cube(10), (2.0, 2.0, 2.0), 1.0) == 0.0


def test_a_border_that_is_one_voxel_off_is_left_and_one_that_is_three_off_is_drawn():
    one_off, three_off = np.roll(cube(10), 1, axis=0), np.roll(cube(10), 3, axis=0)
    assert border_cm2(cube(10), one_off, (2.0, 2.0, 2.0), 1.0) == 0.0
    # The end that sticks out; the other end but for its rim, which lies by the sides of the other cube; and two of the
    # three layers by which the four sides stick out.
    drawn = border_cm2(cube(10), three_off, (2.0, 2.0, 2.0), 1.0)
    assert drawn == pytest.approx((10 * 10 + 6 * 6 + 4 * 2 * 10) * 0.04 / 1.5)


def test_a_label_costs_opening_and_what_must_be_drawn_and_never_more_than_from_scratch():
    model = CostModel(opening_minutes=1.0, drawing_minutes_per_cm2=0.5, erasing_minutes_per_cm2=0.1)
    right = cost_of(cube(10), cube(10), (2.0, 2.0, 2.0), model)
    assert (right.minutes, right.scratch_minutes) == (1.0, pytest.approx(9.0))
    assert (right.foreground_voxels, right.foreground_mm3) == (1000, pytest.approx(8000.0))
    nothing = cost_of(cube(10), NOTHING, (2.0, 2.0, 2.0), model)
    assert nothing.minutes == nothing.scratch_minutes
    # Nothing there, but much was proposed: it is faster to throw it away.
    assert cost_of(NOTHING, cube(10), (2.0, 2.0, 2.0), model).minutes == 1.0
    # A proposal in another corner: all is drawn, and erasing it is spared by starting over.
    elsewhere = cost_of(cube(4), np.roll(cube(4), 8, axis=0), (2.0, 2.0, 2.0), model)
    assert elsewhere.minutes == elsewhere.scratch_minutes
    # A second object that is not there has to be erased: 4 x 4 faces, six times, of 2 x 2 mm.
    both = cube(4) | np.roll(cube(4), 8, axis=0)
    assert cost_of(cube(4), both, (2.0, 2.0, 2.0), model).minutes == pytest.approx(1 + 0.1 * 96 * 0.04 / 1.5)


def test_borders_between_classes_and_in_pictures_count_once():
    labels = np.zeros((4, 4), np.uint8)
    labels[:, :2] = 1
    labels[:, 2:] = 2
    # One line of four pixels of 10 mm: 4 cm, as pixel edges of a smooth line over 4/pi.
    assert border_cm2(labels, np.zeros_like(labels), (10.0, 10.0), 1.0) == pytest.approx(4.0 * np.pi / 4)
    # The right place under the wrong name is drawn anew.
    assert border_cm2(labels, np.where(labels == 1, 3, 4).astype(np.uint8), (10.0, 10.0), 1.0) > 3


def test_a_patch_is_the_box_with_the_most_doubt_and_costs_only_what_is_in_it():
    doubt = np.zeros((20, 20, 20), np.float32)
    doubt[12, 3, 8] = 1.0
    doubt[13:15, 4, 8] = 1.0
    box = doubtful_box(doubt, (2.0, 2.0, 2.0), 8.0)
    assert doubt[box].sum() == 3.0
    assert doubt[box].shape == (4, 4, 4)
    assert doubt[doubtful_box(doubt, (2.0, 2.0, 2.0), 999.0)].shape == doubt.shape
    # A box that cuts 4 x 4 voxel faces out of the top of the cube.
    partial = only_inside(cube(10), (slice(3, 7), slice(8, 12), slice(8, 12)))
    assert set(np.unique(partial)) == {0, 1, 255}
    drawn = border_cm2(partial, NOTHING, (10.0, 10.0, 10.0), 1.0)
    assert drawn == pytest.approx(16.0 / 1.5)
    cost = cost_of(partial, cube(10), (10.0, 10.0, 10.0))
    assert (cost.minutes, cost.labelled_mm3, cost.foreground_mm3) == (1.0, 64_000.0, 32_000.0)


def row(
    strategy: str, seed: int, number: int, dice: float, *, minutes: float = 10.0, central: float = 0.9
) -> Row:
    return Row(
        seed=seed,
        strategy=strategy,
        round=number,
        cases=5 + 5 * number,
        labelled_mm3=9000.0 * number,
        foreground_mm3=1000.0 * number,
        foreground_voxels=1000 * number,
        minutes=minutes * number,
        scratch_minutes=2 * minutes * number,
        test_dice=dice,
        class_dice={"ball": dice},
        case_dice={"t": dice},
        challenger_dice=None if number == 0 else dice,
        central_dice=central,
        promoted=None if number == 0 else True,
        reason="",
        picks={} if number == 0 else {f"case {seed} {number}": "drawn by chance"},
        champion="c",
    )


def rows_of(curves: dict[str, list[list[float]]], **more: float) -> list[Row]:
    return [
        row(name, seed, number, dice, **more)
        for name, seeds in curves.items()
        for seed, values in enumerate(seeds)
        for number, dice in enumerate(values)
    ]


def test_the_area_under_the_curve_is_a_mean_dice_over_the_budget():
    rounds = rows_of({"a": [[0.5, 0.7, 0.7]]})
    assert aubc(rounds, "cases") == pytest.approx((0.6 + 0.7) / 2)
    # Minutes 0, 10, 20, cut at 15.
    assert aubc(rounds, "minutes", up_to=15.0) == pytest.approx((0.6 * 10 + 0.7 * 5) / 15)
    assert aubc(rounds, "minutes", up_to=0.0) == 0.5


def test_the_first_budget_that_reaches_a_target_is_told_or_none():
    assert first_reaching([5, 10, 15], [0.5, 0.7, 0.6], 0.6) == 10
    assert first_reaching([5, 10, 15], [0.5, 0.7, 0.6], 0.71) is None


def test_student_interval_of_five_seeds_is_known_by_hand():
    interval = mean_interval(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    # t(0.975, 4) = 2.776, standard error sqrt(2.5 / 5).
    assert interval.estimate == 3.0
    assert interval.high - 3.0 == pytest.approx(2.7764 * np.sqrt(0.5), rel=1e-4)
    assert mean_interval(np.array([0.8])).low == 0.8


def test_wins_ties_and_losses_are_counted_seed_by_seed():
    pair = compare("a", "b", np.array([0.80, 0.80, 0.80]), np.array([0.70, 0.8005, 0.90]))
    assert (pair.wins, pair.ties, pair.losses) == (1, 1, 1)


def test_a_strategy_that_is_better_by_construction_is_reported_as_better():
    better = [[0.5, 0.7 + s / 100, 0.8] for s in range(5)]
    chance = [[0.5, 0.6 + s / 100, 0.7] for s in range(5)]
    summary = summarise(rows_of({"oracle": better, "random": chance}))
    oracle, random = summary.standings
    assert summary.chance == "random"
    assert summary.target == pytest.approx(0.7)
    assert (oracle.enough, random.enough) == (10, 15)
    assert oracle.enough_by_seed == (10, 10, 10, 10, 10)
    pair = summary.pairs[0]
    assert (pair.wins, pair.ties, pair.losses) == (5, 0, 0)
    assert pair.difference.estimate == pytest.approx(0.075)
    assert "| oracle against random | 5 / 0 / 0 | +0.075 [+0.075, +0.075] | better |" in markdown(
        sheets(summary)
    )


def test_the_gate_is_held_against_the_test_cases():
    start = row("a", 0, 0, 0.50)
    right = replace(row("a", 0, 1, 0.60), promoted=True, challenger_dice=0.60)
    too_careful = replace(row("a", 0, 2, 0.60), promoted=False, challenger_dice=0.70)
    rightly_careful = replace(row("a", 0, 3, 0.60), promoted=False, challenger_dice=0.40)
    wrong = replace(row("a", 0, 4, 0.55), promoted=True, challenger_dice=0.55)
    assert gate_record([[start, right, too_careful, rightly_careful, wrong]]) == GateRecord(1, 1, 1, 1)
    assert gate_record([[start]]) is None


def test_bad_news_is_printed_the_same_way():
    worse = [[0.5, 0.55, 0.6], [0.5, 0.56, 0.61]]
    chance = [[0.5, 0.6, 0.7], [0.5, 0.6, 0.7]]
    text = markdown(sheets(summarise(rows_of({"clever": worse, "random": chance}, central=0.9))))
    assert "| clever against random | 0 / 0 / 2 |" in text
    assert "| worse |" in text
    assert "| never | never, never |" in text


def test_without_an_arm_of_chance_nothing_is_measured_by_it():
    summary = summarise(rows_of({"a": [[0.5, 0.6]], "b": [[0.5, 0.6]]}))
    assert summary.chance is None
    assert summary.target is None
    assert not any("cases to" in column for column in sheets(summary)[0].columns)
    assert sheets(summary)[1].rows[0][-1] == "one seed shows nothing"


def test_a_seed_that_is_not_finished_is_left_out_and_none_at_all_is_an_error():
    rows = rows_of({"a": [[0.5, 0.6], [0.5, 0.6]], "b": [[0.5, 0.6], [0.5]]})
    assert complete_seeds(rows) == (0,)
    assert summarise(rows).seeds == (0,)
    with pytest.raises(BadInputError, match="no seed was finished"):
        summarise([replace(r, seed=1) for r in rows if r.seed == 1])


def test_the_report_holds_every_row_a_table_and_a_picture(tmp_path):
    rows = rows_of({"most_uncertain": [[0.5, 0.7, 0.8]] * 2, "random": [[0.5, 0.6, 0.7]] * 2})
    write_report(rows, {"step": 5}, tmp_path)
    facts = json.loads((tmp_path / "simulation.json").read_text())
    assert len(facts["rows"]) == 12
    assert facts["settings"] == {"step": 5}
    lines = (tmp_path / "simulation.csv").read_text().splitlines()
    assert len(lines) == 13
    assert lines[0].startswith("seed,strategy,round,cases,")
    assert (tmp_path / "simulation.png").read_bytes().startswith(b"\x89PNG")
    assert "most_uncertain" in (tmp_path / "simulation.md").read_text()
