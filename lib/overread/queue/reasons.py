"""The clause that tells a reader why they are asked."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

# A class's name in a reason is cut to this length.
LONGEST_NAME = 40
# With fewer than these, a place is a number and no percentage.
FEWEST_FOR_PERCENT = 20


def doubt_reason(
    classes: Sequence[str],
    doubt: np.ndarray,
    class_doubt: np.ndarray,
    row: int,
    about: int | None = None,
    whole: str = "",
) -> str:
    """`members unsure about tumour, top 3 %`: of the class asked about, or else the one that stands out most.

    Args:
        classes: foreground classes.
        doubt: `(candidate,)`, NaN where it is not known.
        class_doubt: `(candidate, class)`.
        row: the candidate.
        about: column of the class by which it was chosen; None where by `doubt`.
        whole: what it is the top of, such as ` of this slide's patches`.
    """
    scores, subject = doubt, ""
    if about is not None:
        scores, subject = class_doubt[:, about], f" about {short_name(classes[about])}"
    elif np.isfinite(class_doubt[row]).any():
        with np.errstate(invalid="ignore"):
            beaten = (class_doubt < class_doubt[row]).sum(axis=0)
        # Of classes that stand out alike, the one with more doubt.
        own = np.nan_to_num(class_doubt[row], nan=-1.0)
        subject = f" about {short_name(classes[int(np.lexsort((own, beaten))[-1])])}"
    return f"members unsure{subject}, {place(scores, row)}{whole}"


def place(scores: np.ndarray, row: int) -> str:
    """Where a candidate stands among those that are scored: `top 3 %`, or `no. 1 of 5` where they are few."""
    scored = int(np.isfinite(scores).sum())
    with np.errstate(invalid="ignore"):
        rank = int((scores > scores[row]).sum()) + 1
    if scored >= FEWEST_FOR_PERCENT:
        return f"top {math.ceil(100 * rank / scored)} %"
    return f"no. {rank} of {scored}"


def short_name(name: str) -> str:
    """A class's name that leaves room for the rest."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
