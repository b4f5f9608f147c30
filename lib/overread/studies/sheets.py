"""Tables of a report, and how intervals are written in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from overread.metrics.correlation import Interval


@dataclass(frozen=True)
class Sheet:
    """One table.

    Attributes:
        title, columns, rows: text.
        note: what a reader must know to read it; a sentence or none.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def markdown(sheets: Sequence[Sheet]) -> str:
    """The tables for the documentation."""
    lines: list[str] = []
    for sheet in sheets:
        lines += [
            f"**{sheet.title}**",
            "",
            *([sheet.note, ""] if sheet.note else []),
            f"| {' | '.join(sheet.columns)} |",
            "|---" * len(sheet.columns) + "|",
        ]
        lines += [f"| {' | '.join(row)} |" for row in sheet.rows]
        lines.append("")
    return "\n".join(lines)


def signed(interval: Interval) -> str:
    """A difference with its interval."""
    return f"{interval.estimate:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def verdict(difference: Interval, seeds: int) -> str:
    """A difference in words: only what lies outside the interval counts, and one seed shows nothing."""
    if seeds < 2:
        return "one seed shows nothing"
    if difference.low > 0:
        return "better"
    if difference.high < 0:
        return "worse"
    return "no difference shown"
