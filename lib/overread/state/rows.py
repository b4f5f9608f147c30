"""What every table asks of its values: JSON with finite numbers, words of a fixed set."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from typing import Any

from overread.domain.errors import BadInputError


def to_json(value: Any, what: str) -> str:
    """Compact JSON with sorted keys: the same text for the same value, whatever the order it was written in.

    Raises:
        BadInputError: a number in it is not finite; `what` names the value in the sentence.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise BadInputError(f"{what} cannot be kept as JSON, whose numbers are finite: {value!r}") from error


def finite(value: float | None, what: str) -> float | None:
    """The number as a plain float; None stays None.

    Raises:
        BadInputError: it is NaN or infinite.
    """
    if value is None:
        return None
    if not math.isfinite(value):
        raise BadInputError(f"{what} is {value}; a finite number is expected, or None where it is not known")
    return float(value)


def one_of(word: str, words: Collection[str], what: str) -> str:
    """The word itself.

    Raises:
        BadInputError: it is none of `words`.
    """
    if word not in words:
        raise BadInputError(f"{what} {word!r} is not known; expected one of {', '.join(words)}")
    return word
