"""The simulated clinicians of the study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch

from overread.meduhip.choosers import NOISY, ORACLE, Chooser, choose, click_at, last_wrong
from overread.meduhip.prompts import Click
from overread.meduhip.vote import sample_dice

Acts = Literal["either", "picks", "clicks"]
Aims = Literal["errors", "anywhere", "disagreement"]
# `anywhere` is about what any rater marked, and so far beyond (the paper says no more than that places are random).
MARGIN_VOXEL = 10
# A candidate is picked rather than an error clicked when it makes up for this share of the Dice that what is shown
# lacks: for less, a click does more (chosen on validation cases).
WORTH_PICKING = 0.2


@dataclass(frozen=True)
class Clinician:
    """Somebody with a mask in mind.

    Attributes:
        name: in tables.
        chooser: how they err.
        acts: `picks` candidates only, while one is better than what is shown; `clicks` on errors only; or `either`: a
            candidate where one is clearly better than what is shown, else a click.
        worth_picking: share of the missing Dice (1 - Dice of what is shown) that a candidate must make up for to be
            clearly better.
        aims: where they click, by the strategies of the paper's Table 1: on what is wrong (`Last Wrong` there),
            `anywhere` about the structure (`Random Select`), or where those whose opinion is wanted and the other
            raters differ (`Clinician Disagreement`). All but the first need `before`.
        places: how likely each voxel is clicked, `(*space)`; of a case (see `before`).
    """

    name: str
    chooser: Chooser
    acts: Acts = "either"
    worth_picking: float = WORTH_PICKING
    aims: Aims = "errors"
    places: np.ndarray | None = field(default=None, compare=False)

    def before(self, masks: np.ndarray, raters: Sequence[int]) -> Clinician:
        """The same one before a case that raters marked as `masks` `(rater, *space)`, of whom some are wanted."""
        if self.aims == "errors":
            return self
        disputed = self.aims == "disagreement"
        return replace(self, places=places_in_dispute(masks, raters) if disputed else places_about(masks))

    def reacts(
        self, shown: torch.Tensor, candidates: torch.Tensor, wanted: torch.Tensor, rng: np.random.Generator
    ) -> int | Click | None:
        """The candidate that is picked, or the click; None where no candidate is worth it and nothing else is done.

        Args:
            shown: mask `(*space)`.
            candidates: masks `(candidate, *space)`; none where nothing can be picked.
            wanted: what they have in mind.
        """
        if self.acts != "clicks" and len(candidates):
            scores = sample_dice(candidates[None].float(), wanted[None].float())[0]
            now = float(sample_dice(shown[None, None].float(), wanted[None].float())[0, 0])
            worth = 0.0 if self.acts == "picks" else self.worth_picking
            if float(scores.max()) > now + worth * (1 - now):
                return choose(self.chooser, scores.numpy(), rng)
            if self.acts == "picks":
                return None
        if self.places is None:
            return Click(*last_wrong(self.chooser, shown, wanted, rng))
        index = rng.choice(self.places.size, p=self.places.ravel())
        place = tuple(int(n) for n in np.unravel_index(index, self.places.shape))
        return Click(*click_at(self.chooser, place, wanted, rng))


def places_about(masks: np.ndarray) -> np.ndarray:
    """Even chance within a box about what any rater marked; within the whole image where nobody marked anything.

    Args:
        masks: bool `(rater, *space)`.

    Returns:
        `(*space)`, with sum 1.
    """
    marked = np.argwhere(masks.any(axis=0))
    likely = np.zeros(masks.shape[1:])
    box = ...
    if len(marked):
        first, last = np.maximum(marked.min(axis=0) - MARGIN_VOXEL, 0), marked.max(axis=0) + MARGIN_VOXEL + 1
        box = tuple(slice(start, stop) for start, stop in zip(first, last, strict=True))
    likely[box] = 1
    return likely / likely.sum()


def places_in_dispute(masks: np.ndarray, raters: Sequence[int]) -> np.ndarray:
    """Chance by how far some raters and the others differ; as `places_about` where they do not, or are all.

    Args:
        masks: bool `(rater, *space)`.
        raters: places of the some.

    Returns:
        `(*space)`, with sum 1.
    """
    wanted = np.isin(np.arange(len(masks)), raters)
    if wanted.all():
        return places_about(masks)
    apart = np.abs(masks[wanted].mean(axis=0) - masks[~wanted].mean(axis=0))
    return apart / apart.sum() if apart.any() else places_about(masks)


EITHER = Clinician("oracle", ORACLE)
PICKS = Clinician("oracle, picks only", ORACLE, "picks")
CLICKS = Clinician("oracle, clicks only", ORACLE, "clicks")
NOISY_EITHER = Clinician("noisy", NOISY)
NOISY_PICKS = Clinician("noisy, picks only", NOISY, "picks")
NOISY_CLICKS = Clinician("noisy, clicks only", NOISY, "clicks")
RANDOM_SELECT = Clinician("oracle, Random Select", ORACLE, "clicks", aims="anywhere")
CLINICIAN_DISAGREEMENT = Clinician("oracle, Clinician Disagreement", ORACLE, "clicks", aims="disagreement")
