"""Picks and clicks are evidence about samples, and what they teach adds up from turn to turn."""

import pytest
import torch

from overread.meduhip.interaction import LEAST_EVIDENCE, Evidence, Round, Standing, click_evidence, taught
from overread.meduhip.network import Configuration, MedUHIP
from overread.meduhip.posterior import lineage_posterior, move_means
from overread.meduhip.prompts import Prompts, to_dense
from overread.meduhip.sampling_space import Draws, SamplingSpace

COMPONENTS, DIMENSION, SAMPLES = 3, 2, 6


@pytest.fixture(scope="module")
def model() -> MedUHIP:
    torch.manual_seed(0)
    return MedUHIP(Configuration(width=2, components=COMPONENTS, dimension=DIMENSION, prompt_width=4))


def turn_of(batch: int, seed: int = 0) -> Round:
    generator = torch.Generator().manual_seed(seed)
    space = SamplingSpace(
        torch.randn(batch, COMPONENTS, generator=generator).log_softmax(dim=1),
        torch.randn(batch, COMPONENTS, DIMENSION, generator=generator),
        torch.zeros(batch, COMPONENTS, DIMENSION),
    )
    draws = Draws(
        torch.randn(batch, SAMPLES, DIMENSION, generator=generator),
        torch.tensor([[0, 0, 0, 1, 1, 2]]).expand(batch, -1),
    )
    return Round(space, draws, torch.randn(batch, SAMPLES, 8, 6, generator=generator))


def picked(batch: int, *samples: int) -> Evidence:
    belief = torch.zeros(batch, SAMPLES)
    belief[:, list(samples)] = 1
    return Evidence(belief, torch.tensor([[3.0, 4.0]]).expand(batch, -1), torch.ones(batch))


def test_a_click_is_believed_as_much_as_each_sample_finds_its_side():
    logits = torch.zeros(2, 2, 5, 4)
    logits[0, :, 3, 1] = torch.tensor([2.0, -1.0])
    logits[1, :, 0, 2] = torch.tensor([0.5, 3.0])
    belief = click_evidence(logits, torch.tensor([[3.0, 1.0], [0.0, 2.0]]), torch.tensor([1.0, 0.0]))
    expected = torch.sigmoid(torch.tensor([[2.0, -1.0], [-0.5, -3.0]]))
    torch.testing.assert_close(belief, expected)


def test_a_click_in_a_volume():
    logits = torch.zeros(1, 2, 3, 4, 5)
    logits[0, :, 2, 3, 4] = torch.tensor([1.0, -1.0])
    belief = click_evidence(logits, torch.tensor([[2.0, 3.0, 4.0]]), torch.ones(1))
    torch.testing.assert_close(belief, torch.sigmoid(torch.tensor([[1.0, -1.0]])))


def test_a_click_never_rules_a_sample_out():
    logits = torch.full((1, 3, 2, 2), -50.0)
    belief = click_evidence(logits, torch.zeros(1, 2), torch.ones(1))
    assert belief.tolist() == [pytest.approx([LEAST_EVIDENCE] * 3)]


def test_untrained_the_next_weights_are_the_posterior(model):
    turn, evidence = turn_of(2), picked(2, 0, 3)
    standing, posterior = taught(model, Standing(Prompts.none(2, 2)), turn, evidence)
    torch.testing.assert_close(posterior, lineage_posterior(turn.space, turn.draws, evidence.belief))
    torch.testing.assert_close(standing.weights, posterior)


def test_the_click_and_the_mean_of_the_agreeing_samples_are_the_next_prompts(model):
    turn = turn_of(2)
    standing, _ = taught(model, Standing(Prompts.none(2, 2)), turn, picked(2, 1, 4))
    assert standing.prompts.places.tolist() == [[[3, 4]]] * 2
    assert standing.prompts.sides.tolist() == [[1]] * 2
    assert standing.prompts.has_dense.tolist() == [1, 1]
    torch.testing.assert_close(standing.prompts.dense, to_dense(turn.logits[:, [1, 4]].mean(dim=1)))


def test_shifts_add_up_from_turn_to_turn(model):
    first, second, evidence = turn_of(1), turn_of(1, seed=1), picked(1, 0, 1, 2)
    after_one, _ = taught(model, Standing(Prompts.none(1, 2)), first, evidence)
    after_two, _ = taught(model, after_one, second, evidence)
    moves = [
        move_means(turn.space, turn.draws, evidence.belief).means - turn.space.means
        for turn in (first, second)
    ]
    torch.testing.assert_close(after_one.shift, moves[0])
    torch.testing.assert_close(after_two.shift, moves[0] + moves[1])
    # Nothing of the other components was chosen.
    assert not after_two.shift[:, 1:].any()
    assert after_two.prompts.places.shape == (1, 2, 2)


def test_an_interaction_that_no_sample_agrees_with_stays_finite(model):
    standing, posterior = taught(model, Standing(Prompts.none(1, 2)), turn_of(1), picked(1))
    assert float(posterior.detach().sum()) == pytest.approx(1)
    assert bool(standing.weights.isfinite().all())
    assert bool(standing.prompts.dense.isfinite().all())
