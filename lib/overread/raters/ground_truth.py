"""What counts as right when raters differ: a truth fused of some of them, as MedUHIP and SPA are judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from overread.domain import BadInputError
from overread.raters.chance import generator_of

# Of the released code of SPA: how often the pixel is one that raters differ about, and the answer the majority's.
DISAGREEMENT_SHARE = 0.8
MAJORITY_SHARE = 0.8


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """A mask that counts as right.

    Attributes:
        mask: bool `(*space)`.
        raters: places of those it was fused of, ascending.
    """

    mask: np.ndarray
    raters: tuple[int, ...]


def fused(masks: np.ndarray, raters: Sequence[int]) -> GroundTruth:
    """What at least half of some raters marked; a tie is foreground.

    Args:
        masks: bool `(rater, *space)`.
        raters: places of those who are asked.

    Raises:
        BadInputError: masks that are not bool, nobody asked, or a place that is not there.
    """
    _check(masks)
    chosen = tuple(sorted({int(rater) for rater in raters}))
    if not chosen or chosen[0] < 0 or chosen[-1] >= len(masks):
        raise BadInputError(f"raters {list(raters)} cannot be fused, there are 0..{len(masks) - 1}")
    return GroundTruth(2 * np.count_nonzero(masks[list(chosen)], axis=0) >= len(chosen), chosen)


def draw_ground_truth(masks: np.ndarray, count: int, case_id: str, repetition: int = 0) -> GroundTruth:
    """GT(n): the truth of `count` raters drawn uniformly, without putting back.

    Case, count and repetition decide the draw, so that every method is judged by the same truths.

    Args:
        masks: bool `(rater, *space)`.
        count: number of raters, 1 to all.
        case_id: name of the case.
        repetition: a number of at least 0; draws of different numbers are independent.

    Raises:
        BadInputError: masks that are not bool, or more raters wanted than there are.
    """
    _check(masks)
    if not 1 <= count <= len(masks) or repetition < 0:
        raise BadInputError(
            f"case {case_id} has {len(masks)} raters, a truth of {count} cannot be drawn (repetition {repetition})"
        )
    drawn = generator_of(case_id, count, repetition).choice(len(masks), size=count, replace=False)
    return fused(masks, drawn.tolist())


def agree_at_pixel(masks: np.ndarray, generator: np.random.Generator) -> GroundTruth:
    """The truth of all raters who say the same about one pixel: as the released code of SPA draws it.

    For comparison with its numbers. In 8 of 10 draws the pixel is one that raters differ about, where there is any,
    else any pixel; in 8 of 10 the raters are those of its majority (a tie is foreground), else the others, where
    there are any. The number of raters follows from that, and large ones are frequent.

    Args:
        masks: bool `(rater, *space)`.
        generator: source of randomness.

    Raises:
        BadInputError: masks that are not bool.
    """
    _check(masks)
    votes = np.count_nonzero(masks, axis=0).ravel()
    differ = np.flatnonzero((votes > 0) & (votes < len(masks)))
    at_disagreement, with_majority = generator.random(2) < (DISAGREEMENT_SHARE, MAJORITY_SHARE)
    pixel = generator.choice(differ) if at_disagreement and len(differ) else generator.integers(votes.size)
    answers = masks.reshape(len(masks), -1)[:, pixel]
    majority = 2 * votes[pixel] >= len(masks)
    side = np.flatnonzero(answers == (majority if with_majority else not majority))
    # Where all agree there is no other side.
    return fused(masks, (side if len(side) else np.arange(len(masks))).tolist())


def _check(masks: np.ndarray) -> None:
    if masks.dtype != np.bool_ or masks.ndim < 2 or len(masks) == 0:
        raise BadInputError(f"masks of raters are bool (rater, *space), got {masks.dtype} {masks.shape}")
