"""How well a set of samples speaks for a set of raters: distances between two sets of masks of one image.

Masks are bool, samples `(sample, *space)` against raters `(rater, *space)`. Two empty masks agree fully: their IoU and
Dice are 1. Numbers over images in which nobody marked anything are therefore easy; report them apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm

import numpy as np
from scipy.optimize import linear_sum_assignment

from overread.domain import BadInputError

# As QUBIQ's soft Dice is taken by MRNet (Ji et al. 2021) and MedUHIP.
SOFT_THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)
# Bounds the memory for masks of whole volumes, and lets float32 count exactly.
CHUNK_VOXELS = 2**20


@dataclass(frozen=True)
class SetDistance:
    """All of this page for one image; the functions of these names tell what they are."""

    ged_squared: float
    d_max: float
    d_max_of_samples: float
    d_match: float
    hm_iou: float
    d_soft: float


def set_distance(samples: np.ndarray, raters: np.ndarray) -> SetDistance:
    """All numbers at once; overlaps are counted once. Raises as the functions."""
    overlap = _Overlap(samples, raters)
    best = overlap.dice("samples", "raters")
    return SetDistance(
        ged_squared=_ged_squared(overlap),
        d_max=float(best.max(axis=0).mean()),
        d_max_of_samples=float(best.max(axis=1).mean()),
        d_match=_matched(best),
        hm_iou=_matched(overlap.iou("samples", "raters")),
        d_soft=d_soft(samples, raters),
    )


def ged_squared(samples: np.ndarray, raters: np.ndarray) -> float:
    """Generalised energy distance, squared: 2 E d(P, Y) - E d(P, P') - E d(Y, Y'), with d = 1 - IoU.

    Kohl et al. 2018 (arXiv:1806.05034), the expectations over all pairs, a mask with itself included (V-statistic).

    Returns:
        In [0, 2]; 0 where both sets hold the same masks in the same shares.

    Raises:
        BadInputError: no mask, masks that are not bool, or shapes that differ.
    """
    return _ged_squared(_Overlap(samples, raters))


def d_max(samples: np.ndarray, raters: np.ndarray) -> float:
    """Mean over the raters of the Dice of the sample that fits best: is everybody spoken for?

    `d_max(raters, samples)` is the reverse: does every sample speak for somebody? In [0, 1]. Raises as `ged_squared`.
    """
    return float(_Overlap(samples, raters).dice("samples", "raters").max(axis=0).mean())


def d_match(samples: np.ndarray, raters: np.ndarray) -> float:
    """Mean Dice when each rater gets as many samples as any other, in the best way.

    Both sets are repeated up to the least common multiple of their sizes and paired (Hungarian method).
    In [0, 1]; 1 where both sets hold the same masks in the same shares. Raises as `ged_squared`.
    """
    return _matched(_Overlap(samples, raters).dice("samples", "raters"))


def hm_iou(samples: np.ndarray, raters: np.ndarray) -> float:
    """Hungarian-matched IoU (Kohl et al. 2019, arXiv:1905.13077): as `d_match`, with IoU. Raises as `ged_squared`."""
    return _matched(_Overlap(samples, raters).iou("samples", "raters"))


def d_soft(samples: np.ndarray, raters: np.ndarray) -> float:
    """Mean Dice of what at least 10, 30, 50, 70 and 90 % of the samples and of the raters marked.

    In [0, 1]; a threshold that neither set reaches anywhere counts 1. Raises as `ged_squared`.
    """
    _check(samples, raters)
    sampled, rated = (np.count_nonzero(masks, axis=0) for masks in (samples, raters))
    scores = []
    for threshold in SOFT_THRESHOLDS:
        # Votes are counted: a share of 0.3 must not fall below 0.3 by rounding.
        first = sampled >= _votes(threshold, len(samples))
        second = rated >= _votes(threshold, len(raters))
        total = np.count_nonzero(first) + np.count_nonzero(second)
        scores.append(2 * np.count_nonzero(first & second) / total if total else 1.0)
    return float(np.mean(scores))


class _Overlap:
    """Voxels that masks share, within and between the two sets."""

    def __init__(self, samples: np.ndarray, raters: np.ndarray) -> None:
        _check(samples, raters)
        count = len(samples)
        flat = np.concatenate([samples.reshape(count, -1), raters.reshape(len(raters), -1)])
        shared = np.zeros((len(flat), len(flat)))
        for start in range(0, flat.shape[1], CHUNK_VOXELS):
            part = flat[:, start : start + CHUNK_VOXELS]
            part = part[:, part.any(axis=0)].astype(np.float32)
            shared += part @ part.T
        self._shared = shared
        self._size = shared.diagonal()
        self._set = {"samples": slice(count), "raters": slice(count, None)}

    def iou(self, first: str, second: str) -> np.ndarray:
        shared, total = self._counts(first, second)
        return np.divide(shared, total - shared, out=np.ones_like(shared), where=total > 0)

    def dice(self, first: str, second: str) -> np.ndarray:
        shared, total = self._counts(first, second)
        return np.divide(2 * shared, total, out=np.ones_like(shared), where=total > 0)

    def _counts(self, first: str, second: str) -> tuple[np.ndarray, np.ndarray]:
        a, b = self._set[first], self._set[second]
        return self._shared[a, b], self._size[a, None] + self._size[None, b]


def _ged_squared(overlap: _Overlap) -> float:
    between = 1 - overlap.iou("samples", "raters").mean()
    within = [1 - overlap.iou(each, each).mean() for each in ("samples", "raters")]
    # Rounding leaves about -1e-16 where both sets are the same.
    return max(float(2 * between - sum(within)), 0.0)


def _matched(score: np.ndarray) -> float:
    size = lcm(*score.shape)
    repeated = score.repeat(size // score.shape[0], axis=0).repeat(size // score.shape[1], axis=1)
    return float(repeated[linear_sum_assignment(repeated, maximize=True)].mean())


def _votes(share: float, of: int) -> int:
    """The fewest votes that are at least a share of all."""
    return int(np.ceil(round(share * of, 9)))


def _check(samples: np.ndarray, raters: np.ndarray) -> None:
    for name, masks in (("samples", samples), ("raters", raters)):
        if masks.dtype != np.bool_ or masks.ndim < 2 or len(masks) == 0:
            raise BadInputError(
                f"{name} are bool masks ({name[:-1]}, *space), got {masks.dtype} {masks.shape}"
            )
    if samples.shape[1:] != raters.shape[1:]:
        raise BadInputError(f"samples lie over {samples.shape[1:]}, raters over {raters.shape[1:]}")
