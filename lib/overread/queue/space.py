"""Where cases lie among each other: standardised features, distances, novelty."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from overread.queue.cases import Cases

# Centre and spread of the features are taken from so many cases, evenly spaced, which is exact enough and fast.
SAMPLE = 1000
# A single odd feature must not decide what is near; in units of the spread.
FARTHEST = 4.0
# Cases nearer than this share of the distance between two ordinary cases are near duplicates.
NEAR = 0.3
# Rows of one block of distances.
BLOCK = 256


@dataclass(frozen=True, eq=False)
class FeatureSpace:
    """The waiting and the asked cases in one standardised space.

    Attributes:
        waiting: `(waiting case, feature)` float32; rows of NaN where nothing is known of the image.
        asked: `(asked case, feature)` float32, known rows only.
        typical: median distance between two ordinary cases; 0 where all are alike or too few are known.
    """

    waiting: np.ndarray
    asked: np.ndarray
    typical: float

    @classmethod
    def of(cls, waiting: Cases, asked: Cases) -> FeatureSpace:
        """Every feature moved to its median and divided by its spread over the cases (see `standardised`)."""
        width = waiting.features.shape[1]
        # Rows of another length come from another version of the features: nothing is known of those.
        fits = asked.features.shape[1] == width
        others = asked.features[_known(asked.features)] if fits else np.empty((0, width))
        known = _known(waiting.features)
        sample = np.concatenate([evenly_spaced(waiting.features[known]), evenly_spaced(others)])
        centre, spread = _centre_and_spread(sample)
        placed = _standardised(sample, centre, spread)
        half = len(placed) // 2
        apart = np.linalg.norm(placed[:half] - placed[half : 2 * half], axis=1)
        typical = float(np.median(apart)) if half else 0.0
        return cls(
            _standardised(waiting.features, centre, spread),
            _standardised(others, centre, spread),
            typical or float(apart.max(initial=0.0)),
        )

    @property
    def known(self) -> np.ndarray:
        """Indices of the waiting cases whose features are known."""
        return np.flatnonzero(_known(self.waiting))

    def novelty(self, rows: np.ndarray) -> np.ndarray:
        """How unlike everything asked the waiting cases `rows` are: 0 for a copy, 1 for a case like no other.

        `1 - exp(-(d / r)²)` with d the distance to the nearest asked case and r the radius of near duplicates. 1 where
        nothing was asked, or nothing is known of the image.
        """
        if not len(self.asked) or self.typical == 0:
            return np.ones(len(rows))
        novelty = np.ones(len(rows))
        known = np.flatnonzero(_known(self.waiting[rows]))
        nearest = nearest_distances(self.waiting[rows[known]], self.asked)
        novelty[known] = -np.expm1(-np.square(nearest / (NEAR * self.typical)))
        return novelty


def nearest_distances(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distance of each row to the nearest of the others, `(row,)`; block by block, to bound memory."""
    blocks = [distances(rows[at : at + BLOCK], others).min(axis=1) for at in range(0, len(rows), BLOCK)]
    return np.concatenate(blocks) if blocks else np.empty(0)


def distances(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Euclidean distances `(row, other)` of finite rows."""
    square = np.einsum("ij,ij->i", rows, rows)[:, None] + np.einsum("ij,ij->i", others, others)
    square -= 2 * (rows @ others.T)
    return np.sqrt(np.maximum(square, 0))


def farthest_first(rows: np.ndarray, count: int) -> list[int]:
    """The first `count` rows so that each lies as far as possible from those before; begins in the middle.

    Gonzalez 1985 (k-centre). Rows must be finite.
    """
    nearest = np.linalg.norm(rows - np.median(rows, axis=0), axis=1) if len(rows) else np.empty(0)
    order: list[int] = []
    at = int(nearest.argmin()) if len(rows) else 0
    nearest = np.full(len(rows), np.inf)
    while len(order) < min(count, len(rows)):
        order.append(at)
        nearest = np.minimum(nearest, np.linalg.norm(rows - rows[at], axis=1))
        nearest[at] = -1
        at = int(nearest.argmax())
    return order


def standardised(features: np.ndarray) -> np.ndarray:
    """Features `(case, feature)` moved to their median and divided by their spread, cut at `FARTHEST`.

    The spread is half the distance from the 16th to the 84th percentile (the standard deviation of a normal
    distribution), but at least 1, the unit of the features.
    """
    known = features[_known(features)]
    return _standardised(features, *_centre_and_spread(evenly_spaced(known)))


def evenly_spaced(rows: np.ndarray, count: int = SAMPLE) -> np.ndarray:
    """At most `count` of the rows, from all over."""
    if len(rows) <= count:
        return rows
    return rows[np.linspace(0, len(rows) - 1, count).astype(int)]


def _known(features: np.ndarray) -> np.ndarray:
    return np.isfinite(features).all(axis=1) & (features.shape[1] > 0)


def _centre_and_spread(sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not len(sample):
        return np.zeros(sample.shape[1]), np.ones(sample.shape[1])
    low, centre, high = np.percentile(sample, (16, 50, 84), axis=0)
    # One unit of a feature is a difference that does not count; where cases differ by less, it is not blown up.
    return centre, np.maximum((high - low) / 2, 1.0)


def _standardised(features: np.ndarray, centre: np.ndarray, spread: np.ndarray) -> np.ndarray:
    return np.clip((features - centre) / spread, -FARTHEST, FARTHEST).astype(np.float32)
