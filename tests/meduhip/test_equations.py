"""An episode's gradients are those of equations 3, 6 and 7, computed one after the other, each with the rest frozen.

The slow version below does what the paper writes: masks from samples that are held still teach the Segmentation Net
(eq. 3), masks of a Segmentation Net that is held still teach prompt encoder and Mean-Variance Network (eq. 6), and the
squared error of the weights teaches the Weight Network (eq. 7). What ours does otherwise is tested part by part.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch

from overread.meduhip.backend import Cache
from overread.meduhip.choosers import simulated_evidence
from overread.meduhip.episode import FUSED, EpisodeOptions, fused_of_some, play
from overread.meduhip.interaction import Round, Standing, taught
from overread.meduhip.network import Configuration, MedUHIP
from overread.meduhip.prompts import Prompts
from overread.meduhip.sampling_space import Draws, draw
from overread.meduhip.set_loss import coverage_loss, set_loss
from overread.meduhip.unet import halved

TINY = Configuration(width=4, components=3, dimension=2, prompt_width=4)
# The equations alone: what is added at the first turn is tested by itself.
EQUATIONS = EpisodeOptions(turns=3, samples=4, candidates=2, set_weight=0.0, coverage_weight=0.0)
SEED = 3

Gradients = dict[str, torch.Tensor]


@pytest.fixture
def model() -> MedUHIP:
    """As after some training: samples differ, and the weights are not the posterior any more."""
    torch.manual_seed(0)
    model = MedUHIP(TINY)
    for decoder in model.backend.decoders:  # type: ignore[attr-defined]
        torch.nn.init.normal_(decoder.last.weight)
    torch.nn.init.normal_(model.sampling().weights.layers[-1].weight, std=0.1)  # type: ignore[arg-type]
    return model


@pytest.fixture
def case() -> tuple[torch.Tensor, torch.Tensor]:
    """Two images of a block, and two raters of whom the second draws it larger."""
    raters = torch.zeros(2, 2, 32, 34)
    for rater, margin in enumerate((10, 6)):
        raters[:, rater, margin:-margin, margin:-margin] = 1
    noise = torch.randn(2, 1, 32, 34, generator=torch.Generator().manual_seed(0))
    return raters[:, :1] + 0.3 * noise, raters


def of_network(model: MedUHIP, which: str) -> Gradients:
    """The parameters theta_Seg, theta_MVP or theta_W, by name."""
    net = model.sampling()
    wanted = {
        "Seg": model.segmentation_parameters(),
        "MVP": net.moving_parameters(),
        "W": list(net.weights.parameters()),
    }[which]
    ids = {id(parameter) for parameter in wanted}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in ids}


def descend(loss: torch.Tensor, model: MedUHIP, which: str) -> Gradients:
    """Gradients of a loss for the parameters of one network alone; all others are frozen."""
    named = of_network(model, which)
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(named.items(), found, strict=True)
    }


def vote_loss(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the soft prediction, with the Dice that ours adds, written down as it is read."""
    soft = logits.double().sigmoid().mean(dim=1)
    truth = truth.double()
    cross_entropy = -(truth * soft.log() + (1 - truth) * (1 - soft).log()).mean()
    both = (soft * truth).flatten(1).sum(dim=1)
    sizes = (soft + truth).flatten(1).sum(dim=1)
    return cross_entropy + (1 - (2 * both + 1) / (sizes + 1)).mean()


def literal(
    model: MedUHIP, images: torch.Tensor, raters: torch.Tensor, options: EpisodeOptions, seed: int
) -> dict[str, Gradients]:
    """Gradients by eq. 3 (`Seg`), eq. 6 (`MVP`) and eq. 7 (`W`), and `context`: see below."""
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    wanted = fused_of_some(raters, rng)
    standing = Standing(Prompts.none(len(images), 2))
    sums: dict[str, Gradients] = defaultdict(dict)

    def add(which: str, gradients: Gradients, share: float) -> None:
        for name, gradient in gradients.items():
            sums[which][name] = sums[which].get(name, torch.zeros_like(gradient)) + share * gradient

    for turn in range(options.turns):
        truth = raters.mean(dim=1) if turn == 0 else wanted
        said = (standing.prompts, standing.weights, standing.shift)
        noise = generator.get_state()
        with torch.no_grad():
            frozen = model.encode(images)
            space = model.space(frozen, *said)
            draws = draw(space, options.samples, generator)

        # Eq. 3: the sampling space is frozen.
        masks = model.decode(model.encode(images), draws.samples, standing.prompts)
        add("Seg", descend(vote_loss(masks, truth), model, "Seg"), 1 / options.turns)

        # Eq. 6: the Segmentation Net is frozen, what is drawn moves with means and variances.
        generator.set_state(noise)
        moved = draw(model.space(frozen, *said), options.samples, generator)
        masks = model.decode(frozen, moved.samples, standing.prompts)
        add("MVP", descend(vote_loss(masks, truth), model, "MVP"), 1 / options.turns)

        # No equation: the space is given what the encoder says of the image as a whole.
        generator.set_state(noise)
        cache = model.encode(images)
        heard = Cache(frozen.features, cache.context, cache.shape)
        moved = draw(model.space(heard, *said), options.samples, generator)
        masks = model.decode(heard, moved.samples, standing.prompts)
        add("context", descend(vote_loss(masks, truth), model, "Seg"), 1 / options.turns)

        if turn + 1 == options.turns:
            break
        with torch.no_grad():
            logits = model.decode(frozen, draws.samples, standing.prompts)
            picks = rng.random() < options.pick_share
            evidence = simulated_evidence(options.chooser, logits, wanted, picks, options.candidates, rng)
            seen = Round(space, Draws(draws.samples, draws.components), logits)
            following, posterior = taught(model, standing, seen, evidence)
        # Eq. 7: P(Z = m | GT) as the share of samples of m, each by its likeness to what is wanted.
        target = torch.zeros(len(images), TINY.components)
        for b in range(len(images)):
            likeness = []
            for mask in logits[b].sigmoid():
                both, sizes = (mask * wanted[b]).sum(), (mask + wanted[b]).sum()
                likeness.append((2 * both + 1) / (sizes + 1))
            weights = (torch.stack(likeness) / 0.1).softmax(dim=0)
            for weight, component in zip(weights, draws.components[b], strict=True):
                target[b, component] += weight
        error = (model.sampling().weights(posterior) - target).square().mean()
        add("W", descend(error, model, "W"), 1.0)
        assert following.weights is not None
        standing = Standing(following.prompts, following.weights.detach(), following.shift)
    return sums


def ours(
    model: MedUHIP, images: torch.Tensor, raters: torch.Tensor, options: EpisodeOptions, seed: int
) -> dict[str, Gradients]:
    """The gradients of one backward pass through an episode."""
    total = play(model, images, raters, options, np.random.default_rng(seed)).total
    model.zero_grad()
    total.backward()
    return {
        which: {
            name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
            for name, parameter in of_network(model, which).items()
        }
        for which in ("Seg", "MVP", "W")
    }


def assert_same(one: Gradients, other: Gradients) -> None:
    assert one.keys() == other.keys()
    largest = max(float(gradient.abs().max()) for gradient in other.values())
    assert largest > 0
    for name, gradient in one.items():
        torch.testing.assert_close(gradient, other[name], rtol=2e-3, atol=2e-4 * largest, msg=name)


@pytest.mark.parametrize("pick_share", [0.0, 1.0], ids=["clicks", "picks"])
def test_one_pass_gives_the_gradients_of_the_three_equations(model, case, pick_share):
    options = replace(EQUATIONS, pick_share=pick_share)
    one, three = ours(model, *case, options, SEED), literal(model, *case, options, SEED)
    assert_same(one["MVP"], three["MVP"])
    assert_same(one["W"], three["W"])

    def of(part: str, gradients: Gradients) -> Gradients:
        return {name: value for name, value in gradients.items() if f".{part}" in name}

    # The Segmentation Net's decoder learns by eq. 3 alone.
    assert_same(of("decoders", one["Seg"]), of("decoders", three["Seg"]))
    # Its encoder learns by eq. 3, and besides from what it tells the sampling space of the image as a whole.
    encoder, context = of("encoder", three["Seg"]), of("encoder", three["context"])
    assert_same(of("encoder", one["Seg"]), {name: encoder[name] + context[name] for name in encoder})
    assert any(bool(value.any()) for value in context.values())


def test_the_first_turn_adds_set_loss_and_coverage_by_their_weights(model, case):
    images, raters = case
    options = replace(EQUATIONS, turns=1)

    def voting(**weights: float) -> float:
        losses = play(model, images, raters, replace(options, **weights), np.random.default_rng(SEED))
        return float(losses.voting.detach())

    rng = np.random.default_rng(SEED)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    fused_of_some(raters, rng)
    with torch.no_grad():
        cache, prompts = model.encode(images), Prompts.none(2, 2)
        samples = draw(model.space(cache, prompts), options.samples, generator).samples
        small, masks = halved(model.decode(cache, samples, prompts)), halved(raters)
    fused = [halved(fused_of_some(raters, rng)[:, None]) for _ in range(FUSED)]
    spread = float(set_loss(small.sigmoid(), masks))
    covered = float(coverage_loss(small, torch.cat([masks, *fused], dim=1)))
    plain = voting()
    assert voting(set_weight=0.5) == pytest.approx(plain + 0.5 * spread, rel=1e-5)
    assert voting(coverage_weight=3.0) == pytest.approx(plain + 3 * covered, rel=1e-5)
    assert voting(set_weight=0.5, coverage_weight=3.0) == pytest.approx(
        plain + 0.5 * spread + 3 * covered, rel=1e-5
    )
