"""How many questions one patient, slide or centre may get, so that none takes them all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

# No patient and no slide gets more than twice an equal share.
TWICE = 2.0


def within_share(
    owners: Sequence[str], had: Mapping[str, int], questions: int, among: int, times: float = TWICE
) -> np.ndarray:
    """Which owners have had fewer than `times` an equal share of the questions, `(owner,)` bool.

    The cap is `ceil(times * questions / among)`. Those asked least are always within, also where all have reached it.

    Args:
        owners: a patient, slide or centre for each thing that could be asked about.
        had: questions that each got so far.
        questions: that are shared out.
        among: so many owners.
    """
    counts = np.array([had.get(owner, 0) for owner in owners], dtype=int)
    if not len(counts):
        return np.zeros(0, dtype=bool)
    cap = math.ceil(times * questions / among)
    return counts < max(cap, int(counts.min()) + 1)
