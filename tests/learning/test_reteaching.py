"""A MedUHIP champion learns from accepted labels: a child of it, that has never seen what judges it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch

from overread.domain import BadInputError, Grid
from overread.domain.labels import IGNORE
from overread.ensemble.storage import load_ensemble, read_description, write_description
from overread.ensemble.training import StoppedError, TrainingProgress
from overread.imaging.volumes import read_array, write_nifti
from overread.learning.accepted import Submission
from overread.learning.central import read_central
from overread.learning.champions import ChampionStore
from overread.learning.cycle import run_cycle
from overread.learning.gate import GateOptions
from overread.learning.options import RetrainingOptions
from overread.learning.reteaching import reteach
from overread.learning.training_set import LocalCase, TrainingSet, training_set
from overread.meduhip.rated_store import RatedStore
from overread.meduhip.storage import MEMBERS, load_reader
from overread.state.decisions import decisions
from overread.state.servings import CONTROL, serve
from support.champions import publish_taught
from support.loop import RECIPE, Place, dark_ball, write_central, write_local

pytestmark = pytest.mark.slow

SHORT = RetrainingOptions(iterations=3, device="cpu", threads=1, checkpoint_every_s=1e9)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A champion store with a MedUHIP champion that learnt from bright balls."""
    folder = tmp_path_factory.mktemp("reteaching")
    publish_taught(folder / "model", RECIPE, write_central(folder / "central"), folder / "work")
    return folder / "model"


def cases_of(trained: Path, local: Sequence[LocalCase]) -> tuple[Path, TrainingSet]:
    store = ChampionStore(trained)
    champion = store.current(RECIPE)
    return champion, training_set(champion, read_central(store.recipe_folder(RECIPE)), local)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_reader(folder).model.state_dict())


def is_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def prepared(work: Path) -> RatedStore:
    (folder,) = (work / "cases").iterdir()
    return RatedStore(folder / "cases")


def test_a_challenger_is_the_champions_child_and_has_not_seen_what_is_protected(
    trained: Path, tmp_path: Path
):
    champion, cases = cases_of(trained, write_local(tmp_path / "local", 4, protected=(0, 3)))
    told: list[TrainingProgress] = []
    challenger = reteach(champion, cases, tmp_path / "work", SHORT, told.append)
    parent, child = read_description(champion), read_description(challenger)
    assert (child["kind"], child["parent"], child["classes"]) == (
        "meduhip",
        parent["identity"],
        parent["classes"],
    )
    assert child["plan"]["meduhip"] == parent["plan"]["meduhip"]
    assert child["plan"]["training"]["pseudo_raters"] == parent["plan"]["training"]["pseudo_raters"]
    assert sorted(child["data"]["local"]) == [f"local-study_{n:02d}" for n in range(4)]
    kept = sorted([*parent["plan"]["held_out"][0], "local-study_00", "local-study_03"])
    assert child["plan"]["held_out"] == [kept] * MEMBERS
    assert child["plan"]["training"]["held_out"] == kept
    learnt = {file.name.partition(".")[0] for file in prepared(tmp_path / "work").folder.glob("*.raters.npy")}
    assert learnt == {case.id for case in cases.dataset.cases} - set(kept)
    assert not is_same(weights_of(challenger), weights_of(champion))
    assert len(load_ensemble(challenger).members) == MEMBERS
    assert list(dict.fromkeys(now.stage for now in told)) == ["checking", "preparing", "training"]
    assert reteach(champion, cases, tmp_path / "work", SHORT) == challenger, "done already"


def test_a_training_that_was_stopped_goes_on_where_it_was(trained: Path, tmp_path: Path):
    champion, cases = cases_of(trained, write_local(tmp_path / "local", 3, protected=(0,)))
    whole = reteach(champion, cases, tmp_path / "whole", SHORT)
    stop = Event()

    def heard(now: TrainingProgress) -> None:
        if now.stage == "training":
            stop.set()

    with pytest.raises(StoppedError):
        reteach(champion, cases, tmp_path / "parts", SHORT, heard, stop)
    assert (tmp_path / "parts" / "model.checkpoint.pt").exists()
    assert is_same(weights_of(reteach(champion, cases, tmp_path / "parts", SHORT)), weights_of(whole))
    # With other options nothing of it counts.
    other = reteach(champion, cases, tmp_path / "parts", replace(SHORT, start="scratch"))
    assert not is_same(weights_of(other), weights_of(whole))


def test_several_readers_labels_are_several_opinions_and_one_readers_those_of_pseudo_raters(
    trained: Path, tmp_path: Path
):
    local = write_local(tmp_path / "local", 3, protected=(0,))
    label, grid = read_array(local[1].label)
    empty = tmp_path / "empty.nii.gz"
    write_nifti(empty, np.zeros_like(label), grid)
    local[1] = replace(local[1], ratings=(local[1].label, empty))
    champion, cases = cases_of(trained, local)
    reteach(champion, cases, tmp_path / "work", SHORT)
    store = prepared(tmp_path / "work")
    styles = len(read_description(champion)["plan"]["training"]["pseudo_raters"])
    raters = {
        file.name.partition(".")[0]: np.load(file).shape[1] for file in store.folder.glob("*.raters.npy")
    }
    assert raters.pop("local-study_01") == 2
    assert set(raters.values()) == {styles}
    (key,) = {file.name[: -len(".raters.npy")] for file in store.folder.glob("local-study_01.*.raters.npy")}
    _, said = store.whole(key)
    assert said[0].sum() == (label > 0).sum()
    assert not said[1].any()


def test_what_nobody_labelled_fully_is_left_out(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    local = write_local(tmp_path / "local", 3, protected=(0,))
    label, grid = read_array(local[1].label)
    partial = label.astype(np.uint8)
    partial[:4] = IGNORE
    write_nifti(local[1].label, partial, grid)
    champion, cases = cases_of(trained, local)
    reteach(champion, cases, tmp_path / "work", SHORT)
    learnt = {file.name.partition(".")[0] for file in prepared(tmp_path / "work").folder.glob("*.raters.npy")}
    assert {case for case in learnt if case.startswith("local-")} == {"local-study_02"}
    assert "case local-study_01 has voxels that nobody labelled; it is not trained on" in caplog.text
    champion, cases = cases_of(trained, local[:2])
    with pytest.raises(BadInputError, match="no accepted case is labelled fully"):
        reteach(champion, cases, tmp_path / "none", SHORT)


def test_what_cannot_be_retrained_is_refused_in_words(trained: Path, tmp_path: Path):
    champion, cases = cases_of(trained, write_local(tmp_path / "local", 3))
    with pytest.raises(BadInputError, match="which only labels of the control arm can judge"):
        reteach(champion, cases, tmp_path / "work", SHORT)
    champion, cases = cases_of(trained, write_local(tmp_path / "local", 3, protected=(0,)))
    with pytest.raises(BadInputError, match="retrain it without adabn"):
        reteach(champion, cases, tmp_path / "work", replace(SHORT, adabn=True))
    rated = tmp_path / "rated"
    shutil.copytree(champion, rated)
    description = read_description(rated)
    del description["plan"]["training"]["pseudo_raters"]
    write_description(rated, description)
    with pytest.raises(BadInputError, match="knows no style in which one person's label becomes several"):
        reteach(rated, cases, tmp_path / "work", SHORT)
    assert not (tmp_path / "work").exists()


def test_a_champion_that_began_with_weights_of_sam_goes_on_and_does_not_begin_anew(
    trained: Path, tmp_path: Path
):
    champion, cases = cases_of(trained, write_local(tmp_path / "local", 1, protected=(0,)))
    on_sam = tmp_path / "on_sam"
    shutil.copytree(champion, on_sam)
    description = read_description(on_sam)
    description["plan"]["meduhip"] |= {"backend": "sam", "size": "vit_b"}
    write_description(on_sam, description)
    with pytest.raises(BadInputError, match="began with weights of SAM, which are not kept: retrain it with"):
        reteach(on_sam, cases, tmp_path / "work", replace(SHORT, start="scratch"))
    assert not (tmp_path / "work").exists()


def test_a_turn_of_the_loop_ends_in_a_decision(trained: Path, tmp_path: Path):
    place = Place.found(tmp_path, trained)
    before = place.store.current(RECIPE).name
    place.accept(3)
    database, accepted = place.open()
    rng = np.random.default_rng(5)
    for number in range(3, 6):
        image, label = dark_ball(rng)
        name, grid = f"study_{number:02d}", Grid(image.shape, np.eye(4))
        write_nifti(place.studies / f"{name}.nii.gz", image, grid)
        with database.writing() as c:
            serving = serve(
                c, case_id=name, patient=f"patient {number}", client_id="ada", recipe=RECIPE, champion=before,
                strategy="foreground_random", arm=CONTROL, reason="drawn at random", score=None, now=1500.0,
                lease_s=1800,
            )  # fmt: skip
        for rater in ("ada", "bea"):
            submission = Submission(
                case_id=name,
                patient=f"patient {number}",
                rater=rater,
                recipe=RECIPE,
                classes=("background", "ball"),
                serving=serving,
            )
            accepted.add(label, grid, submission, 2000.0 + number)
    decision = run_cycle(
        RECIPE, place.store, accepted, database, place.work, SHORT, GateOptions(), place.image_of
    )
    with database.reading() as c:
        (row,) = decisions(c)
    database.close()
    assert (row.challenger, row.promoted) == (decision.challenger, decision.promoted)
    assert decision.champion == before
    assert place.store.current(RECIPE).name == (decision.challenger if decision.promoted else before)
    # Three patients of the control arm judged, and those held out centrally.
    assert decision.local.patients == 3
    assert [path.name for path in (place.work / "retraining").iterdir()] == ["cases"]
