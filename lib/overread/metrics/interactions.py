"""How soon a person gets what they want: Dice over the turns of a session."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from overread.domain import BadInputError

# As MedUHIP's Table 3 counts: six interactions, and 10 for an image that does not get there.
MOST_INTERACTIONS = 6
NOT_REACHED = 10


@dataclass(frozen=True)
class Interactions:
    """Sessions of several images, and one threshold of Dice.

    Attributes:
        threshold: Dice that was to be reached.
        mean: interactions, over all images (NoC).
        failed: share of the images that did not get there.
        auc: mean over the images of `normalised_auc`.
    """

    threshold: float
    mean: float
    failed: float
    auc: float


def summarise(dice: np.ndarray, threshold: float, **counting: int) -> Interactions:
    """All numbers of this page; arguments as `interactions_to`. Raises as it does."""
    count = interactions_to(dice, threshold, **counting)
    not_reached = counting.get("not_reached", NOT_REACHED)
    return Interactions(
        threshold=threshold,
        mean=float(count.mean()),
        failed=float((count == not_reached).mean()),
        auc=float(normalised_auc(dice).mean()),
    )


def interactions_to(
    dice: np.ndarray,
    threshold: float,
    *,
    first: int = 0,
    most: int = MOST_INTERACTIONS,
    not_reached: int = NOT_REACHED,
) -> np.ndarray:
    """Fewest interactions after which Dice is at least `threshold` (NoC_q).

    Args:
        dice: `(case, turn)`; column t is the answer after t interactions, the first without any.
        threshold: in [0, 1].
        first: the fewest interactions that count; 0 rewards an answer that is right unasked, 1 is as papers have it
            whose first answer needs a click.
        most: what comes later is not looked at.
        not_reached: stands for cases that do not get there; above `most`.

    Returns:
        `(case)`, whole numbers.

    Raises:
        BadInputError: Dice outside [0, 1] or NaN, a threshold outside it, or turns that are not there.
    """
    scores = _checked(dice)
    if not 0 <= threshold <= 1:
        raise BadInputError(f"a threshold of Dice lies in 0..1, got {threshold}; was it a percentage?")
    if not 0 <= first <= most < not_reached or most >= scores.shape[1]:
        raise BadInputError(
            f"interactions {first}..{most} (else {not_reached}) cannot be counted in {scores.shape[1]} turns, which "
            f"are 0..{scores.shape[1] - 1}"
        )
    reached = scores[:, first : most + 1] >= threshold
    return np.where(reached.any(axis=1), first + reached.argmax(axis=1), not_reached)


def normalised_auc(dice: np.ndarray) -> np.ndarray:
    """Area under Dice over interactions, divided by their number: Dice on the way, in [0, 1].

    By the trapezoid rule, from no interaction to the last; equal to Dice where it does not change.

    Args:
        dice: `(case, turn)`, at least two turns.

    Returns:
        `(case)`.

    Raises:
        BadInputError: Dice outside [0, 1] or NaN, or a single turn.
    """
    scores = _checked(dice)
    if scores.shape[1] < 2:
        raise BadInputError("an area needs Dice of at least two turns, got one")
    return (scores[:, 1:] + scores[:, :-1]).mean(axis=1) / 2


def _checked(dice: np.ndarray) -> np.ndarray:
    scores = np.asarray(dice, dtype=np.float64)
    if scores.ndim != 2 or 0 in scores.shape:
        raise BadInputError(f"Dice is given as (case, turn), got {scores.shape}")
    if not ((scores >= 0) & (scores <= 1)).all():
        raise BadInputError("Dice lies in 0..1 and is never NaN; leave out cases without a reference")
    return scores
