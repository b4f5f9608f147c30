"""Simulated clinicians: who picks which candidate, and who clicks where (methods of the study and of training)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from overread.meduhip.candidates import Candidate, telling_voxels
from overread.meduhip.clustering import CLUSTERERS, DEFAULT_CLUSTERING
from overread.meduhip.interaction import Evidence, click_evidence
from overread.meduhip.vote import majority_vote, sample_dice

# Of the voxels that tell a candidate best, one is clicked at random.
TELLING = 20


@dataclass(frozen=True)
class Chooser:
    """How a simulated clinician errs.

    Attributes:
        temperature: of the softmax over candidates' Dice with what the clinician has in mind; 0 takes the best.
        lapse: share of interactions that say something at random: another candidate, the wrong side.
        jitter_voxel: standard deviation of the place of a click.
    """

    temperature: float = 0.0
    lapse: float = 0.0
    jitter_voxel: float = 0.0


ORACLE = Chooser()
NOISY = Chooser(temperature=0.05, lapse=0.1, jitter_voxel=2.0)


def pick(
    chooser: Chooser,
    probabilities: torch.Tensor,
    candidates: list[Candidate],
    wanted: torch.Tensor,
    rng: np.random.Generator,
) -> Evidence:
    """The clinician picks one of the candidates of one image by clicking into what tells it from the others.

    Args:
        probabilities: samples `(sample, *space)`.
        candidates: of `propose`.
        wanted: what the clinician has in mind, boolean `(*space)`.

    Returns:
        Evidence of a batch of one. The click's side is the picked candidate's, not that of `wanted`.
    """
    masks = torch.stack([(probabilities[c.medoid] > 0.5).float() for c in candidates])
    scores = sample_dice(masks[None], wanted[None].float())[0].cpu().numpy()
    index = choose(chooser, scores, rng)
    members = candidates[index].members
    places = telling_voxels(probabilities, members, TELLING)
    place = places[int(rng.integers(len(places)))]
    side = probabilities[members].mean(dim=0)[tuple(place)] > 0.5
    return Evidence(members.float()[None], place.float()[None], side.float()[None])


def last_wrong(
    chooser: Chooser, shown: torch.Tensor, wanted: torch.Tensor, rng: np.random.Generator
) -> tuple[tuple[int, ...], bool]:
    """Where a clinician clicks who corrects what is shown: the middle of the largest error, with its true side.

    With even chance the innermost voxel of the largest wrong component, or any voxel of it. Where nothing is wrong,
    any voxel is confirmed.

    Args:
        shown, wanted: boolean `(*space)`.
    """
    wrong = (shown != wanted).cpu().numpy()
    if not wrong.any():
        place = tuple(int(rng.integers(size)) for size in shown.shape)
    else:
        components, _ = ndimage.label(wrong)  # pyright: ignore[reportGeneralTypeIssues]
        largest = components == 1 + np.bincount(components[wrong])[1:].argmax()
        if rng.random() < 0.5:
            depth = np.asarray(ndimage.distance_transform_edt(np.pad(largest, 1)))
            inner = np.unravel_index(int(np.argmax(depth)), depth.shape)
            place = tuple(int(n) - 1 for n in inner)
        else:
            inside = np.argwhere(largest)
            place = tuple(int(n) for n in inside[int(rng.integers(len(inside)))])
    return click_at(chooser, place, wanted, rng)


def click_at(
    chooser: Chooser, place: tuple[int, ...], wanted: torch.Tensor, rng: np.random.Generator
) -> tuple[tuple[int, ...], bool]:
    """Where a click meant for a voxel lands, and the side that it says: the voxel's, but for lapses."""
    side = bool(wanted[place])
    if chooser.jitter_voxel > 0:
        moved = np.array(place) + rng.normal(0, chooser.jitter_voxel, len(place))
        place = tuple(int(n) for n in np.clip(np.rint(moved), 0, np.array(wanted.shape) - 1))
    if rng.random() < chooser.lapse:
        side = not side
    return place, side


def simulated_evidence(
    chooser: Chooser,
    logits: torch.Tensor,
    wanted: torch.Tensor,
    picks: bool,
    groups: int,
    rng: np.random.Generator,
    clustering: str = DEFAULT_CLUSTERING,
) -> Evidence:
    """One interaction for each image of a training batch: a pick, or a click on an error.

    Args:
        logits: `(batch, sample, *space)`, without gradients.
        wanted: `(batch, *space)` in [0, 1].
        picks: whether they pick or click.
        clustering: name in `CLUSTERERS`.
    """
    # Grouping takes many small steps, each of which would wait for a GPU.
    here, target = logits.cpu(), wanted.cpu() > 0.5
    if picks:
        found = [
            _quick_pick(chooser, probabilities, mask, groups, rng, clustering)
            for probabilities, mask in zip(here.sigmoid(), target, strict=True)
        ]
        return Evidence(*(torch.cat(parts).to(logits.device) for parts in zip(*found, strict=True)))
    clicks = [last_wrong(chooser, s, w, rng) for s, w in zip(majority_vote(here), target, strict=True)]
    places = torch.tensor([place for place, _ in clicks], dtype=torch.float32, device=logits.device)
    sides = torch.tensor([float(side) for _, side in clicks], device=logits.device)
    return Evidence(click_evidence(logits, places, sides), places, sides)


def _quick_pick(
    chooser: Chooser,
    probabilities: torch.Tensor,
    wanted: torch.Tensor,
    groups: int,
    rng: np.random.Generator,
    clustering: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    step = (slice(None), *[slice(None, None, 2)] * (probabilities.ndim - 1))
    assigned = CLUSTERERS[clustering](probabilities[step], groups)
    count = int(assigned.max()) + 1
    means = torch.stack([probabilities[assigned == group].mean(dim=0) for group in range(count)])
    scores = sample_dice((means > 0.5).float()[None], wanted[None].float())[0].cpu().numpy()
    members = assigned == choose(chooser, scores, rng)
    places = telling_voxels(probabilities, members, TELLING)
    place = places[int(rng.integers(len(places)))]
    side = probabilities[members].mean(dim=0)[tuple(place)] > 0.5
    return members.float()[None], place.float()[None], side.float()[None]


def choose(chooser: Chooser, scores: np.ndarray, rng: np.random.Generator) -> int:
    """Which of several things is chosen, given the Dice of each with what is wanted."""
    if rng.random() < chooser.lapse:
        return int(rng.integers(len(scores)))
    if chooser.temperature <= 0:
        return int(scores.argmax())
    shares = np.exp((scores - scores.max()) / chooser.temperature)
    return int(rng.choice(len(scores), p=shares / shares.sum()))
