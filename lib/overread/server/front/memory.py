"""The page on which people see what is remembered of how they draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from overread.learning.preferences import FEWEST_OTHERS, MOST_EXAMPLES
from overread.server.front.page import STYLE, template
from overread.server.meduhip.preferences import NO_STYLE, USUAL_STYLE


@dataclass(frozen=True)
class Habit:
    """How somebody draws one structure.

    Attributes:
        structure: its name.
        cases: accepted masks that say so.
        usually: in words.
        since: when the last of them came, in UTC.
    """

    structure: str
    cases: int
    usually: str
    since: str


@dataclass(frozen=True)
class Memory:
    """What is remembered of somebody for one model and purpose.

    Attributes:
        model, purpose: see `state.preferences.PreferenceRow`.
        cases: how many are kept.
        habits: what they teach; none before the champion in service has seen them.
    """

    model: str
    purpose: str
    cases: int
    habits: Sequence[Habit]


@dataclass(frozen=True)
class Remembered:
    """All that the page shows.

    Attributes:
        title: of the app.
        whose: of whom it tells; empty where nobody is signed in and nobody was named yet.
        memories: see `Memory`.
        person: who is signed in; empty where nobody has to be.
        is_admin: whether they may see what is remembered of others.
        people: names to choose from, for who may.
        where_named: where people of this app find the name that their viewer sends.
        has_options: whether their viewer shows a model's options.
        is_usual: whether cases begin in the usual style where the reader does not say.
        has_mean: whether newcomers begin where the others do on average.
        forgotten: how many cases were just forgotten; None where it was not asked for.
    """

    title: str
    whose: str
    memories: Sequence[Memory]
    person: str = ""
    is_admin: bool = False
    people: Sequence[str] = ()
    where_named: str = ""
    has_options: bool = True
    is_usual: bool = True
    has_mean: bool = False
    forgotten: int | None = None


def memories(
    shown: Sequence[Mapping[str, Any]],
    cases: Mapping[tuple[str, str], int],
    in_service: Mapping[str, str],
) -> tuple[Memory, ...]:
    """One a model and purpose, by name.

    Args:
        shown: from `Preferences.show`, of one person.
        cases: from `Preferences.cases`, of the same.
        in_service: champions as preferences name them, by model. What an earlier one learnt, cases do not begin with.
    """
    return tuple(
        Memory(
            model,
            purpose,
            count,
            tuple(
                Habit(row["structure"], row["cases"], row["in_words"], to_the_minute(row["updated_at"]))
                for row in shown
                if (row["recipe"], row["purpose"]) == (model, purpose)
                and row["champion"] == in_service.get(model, row["champion"])
            ),
        )
        for (model, purpose), count in sorted(cases.items())
    )


def memory_page(seen: Remembered) -> str:
    """The page as HTML; it runs no script."""
    return template("memory.html.j2").render(
        seen=seen,
        style=STYLE,
        # Whoever is signed in need not be named.
        of={} if seen.whose == seen.person else {"person": seen.whose},
        most=MOST_EXAMPLES,
        fewest=FEWEST_OTHERS,
        off=NO_STYLE,
        usual=USUAL_STYLE,
    )


def to_the_minute(at: float) -> str:
    """A moment in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")
