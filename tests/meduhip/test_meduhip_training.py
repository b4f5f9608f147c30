"""Training MedUHIP: it learns, it goes on where it was stopped to the same weights, and it says what does not fit."""

from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch

from overread.domain import BadInputError, Grid
from overread.ensemble.member_training import DivergedError
from overread.ensemble.plan import Normalisation, Plan
from overread.ensemble.training import StoppedError
from overread.imaging.volumes import Volume
from overread.meduhip.episode import EpisodeOptions
from overread.meduhip.network import Configuration, MedUHIP
from overread.meduhip.prompts import Prompts
from overread.meduhip.rated_store import RatedStore
from overread.meduhip.session import begin
from overread.meduhip.training import MedUHIPOptions, MedUHIPProgress, PatchSource, train_meduhip, warm
from overread.studies.meduhip.players import MedUHIPPlayer

SIZE = 32
PLAN = Plan(
    (1.0, 1.0),
    (SIZE, SIZE),
    2,
    ((3, 3),) * 3,
    ((1, 1), (2, 2), (2, 2)),
    (8, 16, 16),
    (Normalisation("zscore"),),
    (0, 1),
    3,
)
SMALL = Configuration(width=6, structures=2, components=4, dimension=4, prompt_width=16)
BRIEF = EpisodeOptions(turns=2, samples=3)
CASES = ("a", "b", "c")


def square(low: int, high: int) -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), dtype=np.uint8)
    mask[low:high, low:high] = 1
    return mask


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cases: a bright square that three raters draw differently, one of whom sees a second class."""
    folder = tmp_path_factory.mktemp("work")
    store, rng = RatedStore(folder / "cases"), np.random.default_rng(0)
    for index, case in enumerate(CASES):
        low = 8 + index
        labels = np.stack([square(low, 20), square(low - 1, 21), square(low, 22)])
        labels[2, 1:4, 1:4] = 2
        image = rng.normal(size=(1, SIZE, SIZE)) + 4 * labels.mean(axis=0)
        store.add_rated(
            case, Volume(image.astype(np.float32), Grid((SIZE, SIZE), np.eye(4))), labels, PLAN, rng
        )
    return folder


def options(iterations: int = 4, **changes: object) -> MedUHIPOptions:
    return MedUHIPOptions(iterations=iterations, device="cpu", episode=BRIEF, **changes)  # type: ignore[arg-type]


def test_what_the_raters_said_comes_back_from_the_store(work: Path) -> None:
    store = RatedStore(work / "cases")
    image, first = store.whole("a")
    assert image.shape == (1, SIZE, SIZE)
    assert np.array_equal(first.numpy(), np.stack([square(8, 20), square(7, 21), square(8, 22)]) > 0)
    _, codes = store.sample("a", PLAN.patch, torch.Generator().manual_seed(0), on_foreground=False)
    assert int((store.raters("a", codes)[2] == 2).sum()) == 9
    assert store.holds("a")
    assert not store.holds("z")


def test_batches_are_the_same_whenever_they_are_asked(work: Path) -> None:
    source = PatchSource(work, CASES, PLAN, seed=3)
    images, raters = source.batch(5, 0)
    again, _ = source.batch(5, 0)
    assert torch.equal(images, again)
    assert raters.shape == (2, 3, SIZE, SIZE)
    assert set(raters.unique().tolist()) <= {0.0, 1.0}
    assert not torch.equal(images, source.batch(6, 0)[0])


def test_raters_are_repeated_where_cases_have_different_numbers_of_them(work: Path, tmp_path: Path) -> None:
    store, rng = RatedStore(tmp_path / "cases"), np.random.default_rng(0)
    grid = Grid((SIZE, SIZE), np.eye(4))
    image = rng.normal(size=(1, SIZE, SIZE)).astype(np.float32)
    store.add_rated("one", Volume(image, grid), square(8, 20)[None], PLAN, rng)
    store.add_rated("two", Volume(image, grid), np.stack([square(8, 20), square(9, 22)]), PLAN, rng)
    shapes = {PatchSource(tmp_path, ("one", "two"), PLAN, 0).batch(i, 0)[1].shape[1] for i in range(8)}
    assert shapes <= {1, 2}
    assert 2 in shapes


def test_a_training_that_was_stopped_goes_on_to_the_same_weights(work: Path, tmp_path: Path) -> None:
    at_once, parts, stop = tmp_path / "at_once", tmp_path / "parts", Event()
    at_once.mkdir()
    parts.mkdir()
    whole = train_meduhip(at_once, CASES, PLAN, SMALL, options(), prepared=work)

    def heard(now: MedUHIPProgress) -> None:
        if now.iteration >= 1:
            stop.set()

    with pytest.raises(StoppedError, match="goes on from there"):
        train_meduhip(parts, CASES, PLAN, SMALL, options(), heard, stop, prepared=work)
    assert (parts / "model.checkpoint.pt").exists()
    resumed = train_meduhip(parts, CASES, PLAN, SMALL, options(), prepared=work)
    for name, value in whole.state_dict().items():
        assert torch.allclose(value, resumed.state_dict()[name], atol=1e-6), name


def test_training_teaches_the_square(work: Path, tmp_path: Path) -> None:
    plain = EpisodeOptions(turns=1, samples=1, set_weight=0.0, coverage_weight=0.0, sampler="nothing")
    one = Configuration(width=6, components=4, dimension=4, prompt_width=16)
    model = train_meduhip(
        tmp_path,
        CASES,
        PLAN,
        one,
        MedUHIPOptions(iterations=40, device="cpu", episode=plain, warm_share=0.0, learning_rate=1e-2),
        prepared=work,
    )
    image, masks = RatedStore(work / "cases").whole("b")
    player = MedUHIPPlayer(model, sampler="nothing")
    shown = player.answers(player.opened(image), begin(model, "", "")).logits > 0
    agreed = masks.float().mean(dim=0) >= 0.5
    overlap = 2 * int((shown & agreed).sum()) / (int(shown.sum()) + int(agreed.sum()))
    assert overlap > 0.7


def test_after_learning_what_clicks_mean_the_weights_still_follow_what_is_chosen(
    work: Path, tmp_path: Path
) -> None:
    learning = options(40, warm_share=0.0, click_share=0.8, learning_rate=1e-2)
    model = train_meduhip(tmp_path, CASES, PLAN, SMALL, learning, prepared=work)
    for structure in range(2):
        network = model.sampling(structure).weights
        assert not network.is_deaf()
        with torch.no_grad():
            said = network(0.8 * torch.eye(4) + 0.05)
        assert said.argmax(dim=1).tolist() == [0, 1, 2, 3]


def test_a_start_is_gone_on_from(work: Path, tmp_path: Path) -> None:
    start = MedUHIP(SMALL)
    model = train_meduhip(
        tmp_path, CASES, PLAN, SMALL, options(1, learning_rate=1e-9), start=start, prepared=work
    )
    assert torch.allclose(model.sampling().mean_variance.bank, start.sampling().mean_variance.bank, atol=1e-4)


def test_the_first_part_plays_no_interaction_and_draws_no_samples() -> None:
    assert warm(BRIEF).turns == 1
    assert warm(BRIEF).sampler == "nothing"
    assert warm(BRIEF).coverage_weight == 0


def test_a_loss_that_is_not_finite_ends_the_training(work: Path, tmp_path: Path) -> None:
    start = MedUHIP(SMALL)
    with torch.no_grad():
        start.sampling().mean_variance.bank.fill_(float("nan"))
        start.sampling(1).mean_variance.bank.fill_(float("nan"))
    with pytest.raises(DivergedError, match="at episode 3"):
        train_meduhip(tmp_path, CASES, PLAN, SMALL, options(), start=start, prepared=work)


def test_no_cases_and_impossible_options_are_refused(work: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no case to train on"):
        train_meduhip(tmp_path, (), PLAN, SMALL, options(), prepared=work)
    with pytest.raises(BadInputError, match="iterations is 0"):
        options(0)
    with pytest.raises(BadInputError, match="warm_share is 1"):
        options(warm_share=1.0)
    with pytest.raises(BadInputError, match="clock 'sun'"):
        options(clock="sun")


def test_prompts_of_no_click_are_those_that_training_begins_with() -> None:
    assert Prompts.none(2, 3).dense.shape == (2, 1, 32, 32, 32)
