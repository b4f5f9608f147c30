"""Names of cases whose published parts number them anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def unique_names(names: Sequence[str], subsets: Sequence[str | None]) -> tuple[str, ...]:
    """The names as they are; where any name comes twice, all with their part before them (`Training_0001`)."""
    if max(Counter(names).values(), default=0) <= 1:
        return tuple(names)
    return tuple(
        name if subset is None else f"{subset}_{name}" for name, subset in zip(names, subsets, strict=True)
    )
