"""Raters made up for data that one person labelled: each has a style, and keeps it in every case.

A model that is to offer several plausible masks learns nothing about them from one mask a case. A pseudo-rater says
what somebody with a habit (generous, smooth, only the main part …) would have made of that mask. It is decided by the
style alone, without chance: the same through all slices of a volume, and the same in the next case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from overread.domain import BadInputError, Registry

# How far the boundaries of careful raters lie apart; the usual tolerance for organs.
LARGEST_OFFSET_MM = 2.0
# An erosion leaves at least the core that lies deeper than this share of the thickest place's depth.
DEEPEST_EROSION = 0.5


@dataclass(frozen=True)
class Style:
    """A habit of labelling.

    Attributes:
        name: of the kind it was drawn from.
        offset_mm: how far outside the reference's boundary this rater draws; inside where negative. What erosion would
            make vanish keeps its core.
        smoothing_mm: standard deviation of the blur before the threshold; 0: none.
        threshold: of the blurred mask, in (0, 1): below a half, hollows fill; above, thin parts go.
        smallest_share: parts with less than this share of the largest part's size are left out, in [0, 1].
    """

    name: str = "reference"
    offset_mm: float = 0.0
    smoothing_mm: float = 0.0
    threshold: float = 0.5
    smallest_share: float = 0.0

    def __post_init__(self) -> None:
        if not np.isfinite(self.offset_mm) or not (np.isfinite(self.smoothing_mm) and self.smoothing_mm >= 0):
            raise BadInputError(
                f"style {self.name} has offset {self.offset_mm} mm and smoothing {self.smoothing_mm} mm, expected "
                "finite ones, smoothing at least 0"
            )
        if not 0 < self.threshold < 1 or not 0 <= self.smallest_share <= 1:
            raise BadInputError(
                f"style {self.name} has threshold {self.threshold} and smallest share {self.smallest_share}, expected "
                "(0, 1) and [0, 1]"
            )

    def label(self, mask: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
        """What this rater makes of a reference: parts are left out, then it is blurred, then its boundary moved.

        Args:
            mask: bool `(*space)`.
            spacing_mm: between neighbours, along each axis.

        Returns:
            bool `(*space)`; empty only where the reference is.

        Raises:
            BadInputError: a mask that is not bool, or not one spacing above 0 for each axis.
        """
        if mask.dtype != np.bool_:
            raise BadInputError(f"a style works on a bool mask, got {mask.dtype}")
        if len(spacing_mm) != mask.ndim or not all(spacing > 0 for spacing in spacing_mm):
            raise BadInputError(f"{mask.ndim} axes need as many spacings above 0, got {tuple(spacing_mm)}")
        said = mask.copy()
        if not mask.any():
            return said
        # Nothing happens far from the structure: leave the rest of the scan out.
        reach_mm = abs(self.offset_mm) + 4 * self.smoothing_mm
        box = tuple(
            slice(max(int(hit.min()) - margin, 0), int(hit.max()) + margin + 1)
            for hit, margin in zip(
                np.nonzero(mask), [int(np.ceil(reach_mm / s)) + 1 for s in spacing_mm], strict=True
            )
        )
        inside = _without_small(mask[box], self.smallest_share)
        inside = _blurred(inside, self.smoothing_mm, self.threshold, spacing_mm)
        said[box] = _moved(inside, self.offset_mm, spacing_mm)
        return said


Draw = Callable[[np.random.Generator], Style]

STYLES: Registry[Draw] = Registry("style")


@STYLES.register("offset")
def offset(generator: np.random.Generator) -> Style:
    """Draws up to 2 mm inside or outside the boundary."""
    return Style("offset", offset_mm=generator.uniform(-LARGEST_OFFSET_MM, LARGEST_OFFSET_MM))


@STYLES.register("threshold")
def threshold(generator: np.random.Generator) -> Style:
    """Fills hollows, or leaves thin parts out."""
    return Style("threshold", smoothing_mm=1.5, threshold=generator.uniform(0.25, 0.75))


@STYLES.register("smooth")
def smooth(generator: np.random.Generator) -> Style:
    """Draws rounder than the boundary is, in the middle of it."""
    return Style("smooth", smoothing_mm=generator.uniform(1.0, 3.0))


@STYLES.register("main_part")
def main_part(generator: np.random.Generator) -> Style:
    """Leaves small parts out, and draws up to 1 mm inside or outside."""
    return Style(
        "main_part",
        offset_mm=generator.uniform(-LARGEST_OFFSET_MM / 2, LARGEST_OFFSET_MM / 2),
        smallest_share=generator.uniform(0.1, 1.0),
    )


def draw_styles(
    count: int, generator: np.random.Generator, names: Sequence[str] | None = None
) -> tuple[Style, ...]:
    """Styles of so many pseudo-raters, to be kept over all cases.

    Args:
        count: number of raters.
        generator: source of randomness.
        names: kinds to draw from, in turn; None takes all of them.

    Raises:
        BadInputError: not at least one rater. NotFoundError: no such kind.
    """
    kinds = tuple(STYLES) if names is None else tuple(names)
    if count < 1 or not kinds:
        raise BadInputError(f"{count} styles of {len(kinds)} kinds cannot be drawn")
    return tuple(STYLES[kinds[index % len(kinds)]](generator) for index in range(count))


def pseudo_masks(mask: np.ndarray, spacing_mm: Sequence[float], styles: Sequence[Style]) -> np.ndarray:
    """What each style makes of a reference, bool `(rater, *space)`. Raises as `Style.label`."""
    if not styles:
        raise BadInputError("there is no style to label with")
    return np.stack([style.label(mask, spacing_mm) for style in styles])


def _without_small(mask: np.ndarray, smallest_share: float) -> np.ndarray:
    if smallest_share == 0:
        return mask
    parts = np.empty(mask.shape, np.int32)
    ndimage.label(mask, structure=np.ones((3,) * mask.ndim), output=parts)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return (sizes >= smallest_share * sizes.max())[parts] & mask


def _blurred(
    mask: np.ndarray, smoothing_mm: float, threshold: float, spacing_mm: Sequence[float]
) -> np.ndarray:
    if smoothing_mm == 0:
        return mask
    blurred = ndimage.gaussian_filter(
        mask.astype(np.float32), [smoothing_mm / spacing for spacing in spacing_mm], mode="nearest"
    )
    # A part thinner than the blur keeps its ridge.
    return blurred >= min(threshold, float(blurred.max()))


def _moved(mask: np.ndarray, offset_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """The mask with its boundary moved outwards."""
    if offset_mm == 0:
        return mask
    # The boundary runs halfway between the voxels of both sides.
    half_mm = min(spacing_mm) / 2
    if offset_mm > 0:
        outside_mm = np.asarray(ndimage.distance_transform_edt(~mask, sampling=tuple(spacing_mm)))
        return outside_mm - half_mm <= offset_mm
    # What lies beyond the scan's edge is not known to be background.
    depth_mm = np.asarray(ndimage.distance_transform_edt(mask, sampling=tuple(spacing_mm))) - half_mm
    if mask.all():
        return mask
    return mask & (depth_mm >= min(-offset_mm, DEEPEST_EROSION * float(depth_mm.max())))
