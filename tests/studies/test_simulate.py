"""A simulation plays the loop with a robot: the same seed gives the same rounds, and a killed one goes on."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from itertools import pairwise

import numpy as np
import pytest

from overread.domain import BadInputError, NotFoundError
from overread.studies.simulation.protocol import Protocol, Study, open_study, row_file
from overread.studies.simulation.simulate import SimulationProgress, simulate
from support.datasets import ball, write_description, write_nifti_case

STRATEGIES = ("most_uncertain", "random")
TINY = Protocol(
    "balls",
    start=2,
    protected=2,
    test=3,
    step=2,
    until=6,
    members=2,
    starter_iterations=12,
    iterations=4,
    batch=2,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """24 balls of twelve patients; `p03_1` is the second case of patient `p03`."""
    folder = tmp_path_factory.mktemp("balls")
    rng = np.random.default_rng(0)
    for index in range(24):
        image, label = ball((16, 16, 16), rng, radius=3.0 + index % 3)
        write_nifti_case(folder, f"p{index // 2:02d}_{index % 2}", [image], label)
    write_description(folder, 24)
    return folder


@pytest.fixture(scope="module")
def study(data, tmp_path_factory):
    return open_study(TINY, data, tmp_path_factory.mktemp("work"), patient_pattern=r"p\d\d")


@pytest.fixture(scope="module")
def heard() -> list[SimulationProgress]:
    return []


@pytest.fixture(scope="module")
def rows(study, heard):
    return simulate(study, STRATEGIES, seeds=1, progress=heard.append)


def comparable(rows):
    """What must be equal when a study is repeated: all but times and the hash, which holds times too."""
    return [asdict(replace(row, seconds={}, champion="")) for row in rows]


@pytest.mark.slow
def test_every_round_asks_its_step_and_the_curve_starts_at_the_shared_starter(rows):
    assert [(row.strategy, row.round, row.cases) for row in rows] == [
        (name, number, 2 + 2 * number) for name in STRATEGIES for number in range(3)
    ]
    assert rows[0].test_dice == rows[3].test_dice
    assert rows[0].champion == rows[3].champion
    for row in rows:
        assert len(row.picks) == (2 if row.round else 0)
        assert (row.promoted is None) == (row.round == 0)
        assert 0 <= row.test_dice <= 1
    asked = [pick for row in rows if row.strategy == "random" for pick in row.picks]
    assert len(set(asked)) == 4
    assert all("drawn at random" in reason for row in rows[3:] for reason in row.picks.values())
    assert all("unsure" in reason for row in rows[:3] for reason in row.picks.values())


@pytest.mark.slow
def test_nothing_that_judges_is_ever_asked_or_trained_on(study, rows):
    split = json.loads((study.folder / "seed_0" / "split.json").read_text())
    patients = {name: {case[:3] for case in ids} for name, ids in split.items()}
    assert not patients["test"] & (patients["pool"] | patients["start"] | patients["protected"])
    assert not patients["protected"] & (patients["pool"] | patients["start"])
    assert {case for row in rows for case in row.picks} <= set(split["pool"])
    central = {path.name[:5] for path in (study.folder / "seed_0" / "central" / "labelsTr").iterdir()}
    assert central == {*split["start"], *split["protected"]}
    assert set(rows[0].case_dice) == set(split["test"])


@pytest.mark.slow
def test_budgets_add_up_from_round_to_round(rows):
    for before, row in pairwise(rows[:3]):
        assert row.foreground_voxels > before.foreground_voxels
        # A case costs one minute to open, at least.
        assert row.minutes >= before.minutes + 2
        assert row.scratch_minutes >= row.minutes
    # Four cases of 16 voxels of 1 mm an edge.
    assert rows[2].labelled_mm3 == pytest.approx(4 * 16**3)
    assert rows[2].foreground_mm3 == pytest.approx(rows[2].foreground_voxels)


@pytest.mark.slow
def test_progress_counts_rounds_up_to_all_of_them(rows, heard):
    assert heard[-1].done == heard[-1].total == len(rows)
    assert [now.done for now in heard] == sorted(now.done for now in heard)


@pytest.mark.slow
def test_a_study_that_was_killed_goes_on_and_gives_the_same_rows(study, rows, tmp_path):
    """Killed in the second round of one arm, before the other arm began: what is there is kept, the rest is equal."""
    copy = Study(study.protocol, study.data, study.classes, study.patient_pattern, tmp_path / "killed")
    shutil.copytree(study.folder, copy.folder)
    killed = copy.folder / "seed_0" / "most_uncertain"
    shutil.rmtree(killed / "02")
    # The state of a finished round is given up once the next one is there; here it still was.
    shutil.copytree(study.folder / "seed_0" / "state", killed / "00" / "state")
    shutil.rmtree(killed / "01")
    (killed / ".working").mkdir()
    (killed / ".working" / "half").touch()
    shutil.rmtree(copy.folder / "seed_0" / "random")
    kept = row_file(copy, 0, "most_uncertain", 0).stat().st_mtime_ns
    again = simulate(copy, STRATEGIES, seeds=1, jobs=2)
    assert comparable(again) == comparable(rows)
    assert row_file(copy, 0, "most_uncertain", 0).stat().st_mtime_ns == kept


@pytest.mark.slow
def test_without_a_gate_every_challenger_is_promoted_also_one_that_learnt_from_patches(data, tmp_path):
    protocol = replace(TINY, until=4, with_gate=False, jitter_mm=1.0, missed_mm3=5.0, patch_mm=8.0)
    study = open_study(protocol, data, tmp_path, patient_pattern=r"p\d\d")
    rows = simulate(study, ("random",), seeds=1)
    assert rows[-1].promoted
    assert rows[-1].champion != rows[0].champion
    assert rows[-1].challenger_dice == rows[-1].test_dice
    # Two patches of 8 x 8 x 8 mm.
    assert rows[-1].labelled_mm3 == pytest.approx(1024)


def test_another_setting_or_other_data_get_a_folder_of_their_own(data, tmp_path):
    folders = {
        open_study(protocol, data, tmp_path).folder.name
        for protocol in (TINY, replace(TINY, step=4), replace(TINY, jitter_mm=1.0))
    }
    assert len(folders) == 3
    assert open_study(TINY, data, tmp_path).folder.name in folders
    assert open_study(TINY, data, tmp_path, patient_pattern=r"p\d\d").folder.name not in folders


def test_numbers_that_do_not_fit_are_refused(data, tmp_path):
    with pytest.raises(BadInputError, match="until is 7, expected 2 start cases plus one or more steps of 2"):
        replace(TINY, until=7)
    with pytest.raises(BadInputError, match="members is 0, expected at least 1"):
        replace(TINY, members=0)
    with pytest.raises(BadInputError, match="scored is 1, expected at least as many as are asked in a round"):
        replace(TINY, scored=1)
    study = open_study(TINY, data, tmp_path)
    with pytest.raises(NotFoundError, match="clairvoyant"):
        simulate(study, ("clairvoyant",), seeds=1)
    with pytest.raises(BadInputError, match="strategies are random, random, expected different names"):
        simulate(study, ("random", "random"), seeds=1)
