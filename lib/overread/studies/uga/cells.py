"""How places and numbers of the study are written in its tables."""

from __future__ import annotations

from overread.metrics.correlation import Interval
from overread.studies.uga.findings import Findings

NOTHING = "–"
INTERVALS = (
    "In brackets: 95 % by a bootstrap that draws seeds and patients anew, paired where arms are compared."
)


def all_places(findings: Findings) -> tuple[str, ...]:
    """Local domains, pooled, and the central one where cases of it were held out."""
    central = findings.study.central
    return (*findings.places, central) if central in findings.study.domains else findings.places


def place_name(findings: Findings, place: str) -> str:
    """A place as a heading."""
    return f"{place} (central)" if place == findings.study.central else place


def text_of(interval: Interval | None) -> str:
    """A number with its interval."""
    return NOTHING if interval is None else str(interval)


def seeds_in_words(findings: Findings) -> str:
    """How many seeds it is over."""
    return "1 seed" if len(findings.seeds) == 1 else f"{len(findings.seeds)} seeds"


def unit_of(findings: Findings) -> str:
    """What is labelled is measured in."""
    return "mm²" if findings.study.um_per_px else "mm³"


def share_of(interval: Interval | None) -> str:
    """A share with its interval, in percent."""
    if interval is None:
        return NOTHING
    return f"{interval.estimate:.0%} [{interval.low:.0%}, {interval.high:.0%}]"
