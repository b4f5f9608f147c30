"""Simulated clinicians pick the candidate that is nearest to what they have in mind, and err as often as they say."""

import numpy as np
import pytest
import torch

from overread.meduhip.candidates import propose
from overread.meduhip.choosers import NOISY, ORACLE, Chooser, last_wrong, pick, simulated_evidence
from overread.meduhip.clustering import CLUSTERERS

SHAPE = (16, 18)
PLACES = ((1, 1), (9, 2), (3, 10))


def square(corner: tuple[int, int]) -> torch.Tensor:
    mask = torch.zeros(SHAPE)
    mask[corner[0] : corner[0] + 5, corner[1] : corner[1] + 5] = 1
    return mask


def samples() -> torch.Tensor:
    """Three of the first square, two of the second, one of the third."""
    return torch.stack([square(PLACES[n]) for n in (0, 0, 0, 1, 1, 2)]) * 0.98 + 0.01


def picks(chooser: Chooser, wanted: torch.Tensor, count: int, seed: int = 0) -> list[list[float]]:
    probabilities, rng = samples(), np.random.default_rng(seed)
    candidates = propose(probabilities, 3)
    assert len(candidates) == 3
    return [pick(chooser, probabilities, candidates, wanted, rng).belief[0].tolist() for _ in range(count)]


# picks


@pytest.mark.parametrize(
    ("place", "members"),
    [(0, [1, 1, 1, 0, 0, 0]), (1, [0, 0, 0, 1, 1, 0]), (2, [0, 0, 0, 0, 0, 1])],
)
def test_the_oracle_picks_the_candidate_nearest_to_what_is_wanted(place, members):
    assert picks(ORACLE, square(PLACES[place]) > 0, 3) == [members] * 3


def test_the_place_of_a_pick_tells_it_and_its_side_is_the_candidates():
    probabilities, rng = samples(), np.random.default_rng(0)
    candidates = propose(probabilities, 3)
    wanted = square(PLACES[2]) > 0
    for _ in range(20):
        evidence = pick(ORACLE, probabilities, candidates, wanted, rng)
        x, y = evidence.places[0].long().tolist()
        assert evidence.belief.shape == (1, 6)
        assert float(evidence.sides[0]) == float(probabilities[5, x, y] > 0.5)
        # Where the picked sample and the mean of the others are at different sides.
        assert float((probabilities[5, x, y] - probabilities[:5, x, y].mean()).abs()) > 0.5


def test_the_side_of_a_pick_is_not_what_is_wanted_but_what_was_picked():
    # Only one candidate, and it is empty; the clinician wants everything.
    probabilities = torch.full((3, *SHAPE), 0.1)
    evidence = pick(
        ORACLE,
        probabilities,
        propose(probabilities, 2),
        torch.ones(SHAPE, dtype=torch.bool),
        np.random.default_rng(0),
    )
    assert evidence.sides.tolist() == [0]


def test_a_clinician_who_lapses_picks_at_random():
    wanted = square(PLACES[0]) > 0
    best = [1, 1, 1, 0, 0, 0]
    share = picks(Chooser(lapse=0.3), wanted, 300).count(best) / 300
    # 0.7, and a third of the 0.3.
    assert share == pytest.approx(0.8, abs=0.06)


def test_a_warm_clinician_picks_by_softmax_of_dice():
    # Equally far from the first two squares, so that either is picked as often; the third does not touch it.
    wanted = (square(PLACES[0]) + square(PLACES[1])) > 0
    found = picks(Chooser(temperature=0.02), wanted, 200)
    first, second = found.count([1, 1, 1, 0, 0, 0]), found.count([0, 0, 0, 1, 1, 0])
    assert first + second == 200
    assert first == pytest.approx(100, abs=25)


def test_the_same_seed_picks_the_same():
    wanted = square(PLACES[1]) > 0
    assert picks(NOISY, wanted, 30, seed=4) == picks(NOISY, wanted, 30, seed=4)
    assert picks(NOISY, wanted, 30, seed=4) != picks(NOISY, wanted, 30, seed=5)


# clicks on errors


def errors() -> tuple[torch.Tensor, torch.Tensor]:
    """A missed 7 x 5 block with its middle at (5, 4), and a smaller false one."""
    shown, wanted = (torch.zeros(20, 20, dtype=torch.bool) for _ in range(2))
    wanted[2:9, 2:7] = True
    shown[14:17, 14:17] = True
    return shown, wanted


def test_clicks_lie_in_the_largest_error_with_its_true_side():
    shown, wanted = errors()
    rng = np.random.default_rng(0)
    clicks = [last_wrong(ORACLE, shown, wanted, rng) for _ in range(40)]
    assert all(wanted[place] and side for place, side in clicks)
    # About half of them at an innermost voxel, the others anywhere inside.
    assert 10 <= sum(place[1] == 4 and 4 <= place[0] <= 6 for place, _ in clicks) <= 32
    assert len({place for place, _ in clicks}) > 8


def test_a_false_part_is_clicked_as_background():
    wanted, shown = errors()
    assert all(not last_wrong(ORACLE, shown, wanted, np.random.default_rng(n))[1] for n in range(10))


def test_an_error_at_the_border_is_clicked_inside():
    shown = torch.zeros(6, 6, dtype=torch.bool)
    wanted = shown.clone()
    wanted[0, 0] = True
    assert last_wrong(ORACLE, shown, wanted, np.random.default_rng(0)) == ((0, 0), True)


def test_an_error_in_a_volume():
    wanted = torch.zeros(5, 6, 7, dtype=torch.bool)
    wanted[1:4, 2:5, 3:6] = True
    clicks = [
        last_wrong(ORACLE, torch.zeros_like(wanted), wanted, np.random.default_rng(n)) for n in range(8)
    ]
    assert all(wanted[place] and side for place, side in clicks)
    assert ((2, 3, 4), True) in clicks


def test_where_nothing_is_wrong_what_is_shown_is_confirmed():
    _, wanted = errors()
    clicks = [last_wrong(ORACLE, wanted, wanted, np.random.default_rng(n)) for n in range(20)]
    assert all(bool(wanted[place]) == side for place, side in clicks)


def test_a_hand_that_shakes_stays_in_the_image():
    shown, wanted = errors()
    rng = np.random.default_rng(0)
    places = [last_wrong(Chooser(jitter_voxel=30.0), shown, wanted, rng)[0] for _ in range(60)]
    assert all(0 <= n < 20 for place in places for n in place)
    assert any(not wanted[place] for place in places)


def test_a_lapse_says_the_wrong_side():
    shown, wanted = errors()
    rng = np.random.default_rng(0)
    sides = [last_wrong(Chooser(lapse=0.2), shown, wanted, rng)[1] for _ in range(300)]
    assert sides.count(False) / 300 == pytest.approx(0.2, abs=0.06)


# batches


def logits_of_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Two images with the same samples; the second square is wanted in one and the third in the other."""
    wanted = torch.stack([square(PLACES[1]), square(PLACES[2])])
    return torch.logit(samples()).expand(2, -1, -1, -1), wanted


@pytest.mark.parametrize("clustering", CLUSTERERS)
def test_each_image_of_a_batch_is_picked_for_itself(clustering):
    logits, wanted = logits_of_batch()
    evidence = simulated_evidence(ORACLE, logits, wanted, True, 3, np.random.default_rng(0), clustering)
    assert evidence.belief.tolist() == [[0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 1]]
    assert evidence.places.shape == (2, 2)
    for image, sample in ((0, 3), (1, 5)):
        x, y = evidence.places[image].long().tolist()
        assert float(evidence.sides[image]) == float(logits[image, sample, x, y] > 0)


def test_each_image_of_a_batch_is_clicked_for_itself():
    logits, wanted = logits_of_batch()
    evidence = simulated_evidence(ORACLE, logits, wanted, False, 3, np.random.default_rng(0))
    # The vote is empty (no square has more than half), so that what is wanted was missed.
    for image, members in ((0, [3, 4]), (1, [5])):
        x, y = evidence.places[image].long().tolist()
        assert bool(wanted[image, x, y])
        assert (evidence.belief[image] > 0.5).nonzero().flatten().tolist() == members
    assert evidence.sides.tolist() == [1, 1]


@pytest.mark.parametrize("picked", [True, False])
def test_volumes_are_answered_as_pictures_are(picked):
    logits, wanted = logits_of_batch()
    logits, wanted = logits[..., None].expand(-1, -1, -1, -1, 5), wanted[..., None].expand(-1, -1, -1, 5)
    evidence = simulated_evidence(NOISY, logits, wanted, picked, 3, np.random.default_rng(0))
    assert evidence.belief.shape == (2, 6)
    assert evidence.places.shape == (2, 3)
    assert bool((evidence.places >= 0).all())
    assert bool((evidence.places < torch.tensor([16, 18, 5])).all())
