"""The cases that a strategy may choose from, and the one it took."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Cases:
    """Cases side by side in arrays; NaN where nothing is known yet.

    Attributes:
        ids: of the cases.
        patients: whose they are; a case without a known patient is its own.
        classes: foreground classes, the columns of `class_doubt` and `foreground_mm3`.
        doubt: `(case,)` how much the champion doubts in and near the structures: the acquisition score, in nat.
        quality: `(case,)` 1 - mean pairwise Dice of the members: worst predictions highest.
        class_doubt: `(case, class)` doubt weighted by the class's probability, in nat.
        foreground_mm3: `(case, class)` predicted volume.
        features: `(case, feature)` where the case lies among others; near duplicates lie close together.
    """

    ids: tuple[str, ...]
    patients: tuple[str, ...]
    classes: tuple[str, ...]
    doubt: np.ndarray
    quality: np.ndarray
    class_doubt: np.ndarray
    foreground_mm3: np.ndarray
    features: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class View:
    """What a strategy sees.

    Attributes:
        waiting: cases that may be served now: not labelled, not on lease, not resting after a skip.
        asked: cases that are labelled or on lease, with what is known of them.
        progress: how far the labelling has come, 0 at its start, 1 at its end (for annealing).
        batch: how many picks are made before the model changes.
    """

    waiting: Cases
    asked: Cases
    progress: float = 0.0
    batch: int = 10


@dataclass(frozen=True)
class Pick:
    """The case that a strategy took.

    Attributes:
        case_id: which.
        reason: one short clause for the reader, without the strategy's name: `members unsure about tumour, top 3 %`.
        score: what it was ranked by; None where chance decided.
    """

    case_id: str
    reason: str
    score: float | None
