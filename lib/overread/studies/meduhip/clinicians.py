"""The simulated clinicians of the study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from overread.meduhip.choosers import NOISY, ORACLE, Chooser, choose, last_wrong
from overread.meduhip.prompts import Click
from overread.meduhip.vote import sample_dice

Acts = Literal["either", "picks", "clicks"]
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
    """

    name: str
    chooser: Chooser
    acts: Acts = "either"
    worth_picking: float = WORTH_PICKING

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
        place, foreground = last_wrong(self.chooser, shown, wanted, rng)
        return Click(place, foreground)


EITHER = Clinician("oracle", ORACLE)
PICKS = Clinician("oracle, picks only", ORACLE, "picks")
CLICKS = Clinician("oracle, clicks only", ORACLE, "clicks")
NOISY_EITHER = Clinician("noisy", NOISY)
NOISY_CLICKS = Clinician("noisy, clicks only", NOISY, "clicks")
