"""The queue: which case a client gets, why, and for how long."""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from sqlalchemy import Connection, func, select

from overread.meduhip.doubt import largest_part
from overread.queue.cases import Cases, Pick, View
from overread.queue.leases import Leases
from overread.queue.score_table import LOOKED_UP, ScoreTable
from overread.queue.settings import CONTROL_STRATEGY, QueueSettings
from overread.queue.stop import CHANGES_LITTLE, StopAdvice, expected_gain
from overread.queue.strategies import STRATEGIES
from overread.state.database import Database
from overread.state.labels import LabelRow, labels
from overread.state.schema import LABELS, SCORES
from overread.state.scores import COLD, parts_of
from overread.state.servings import CONTROL, STRATEGY, Serving, open_servings

# In place of a strategy, where the client asked for the case itself.
BY_NAME = "by_name"


@dataclass(frozen=True)
class Served:
    """A case in a client's hands.

    Attributes:
        serving: the lease.
        pick: what the strategy said.
        arm: `STRATEGY` or `CONTROL`.
        waiting: cases that could be served after this one.
        scored: unlabelled cases that the champion has scored, or failed to.
        total: unlabelled cases.
        stop: whether further labels are worth their time; None while that is not known.
        text: the one line that the reader sees.
        parts: how much of the case's doubt is of which kind, by name (see `meduhip.doubt`); empty where the champion
            cannot tell.
    """

    serving: Serving
    pick: Pick
    arm: str
    waiting: int
    scored: int
    total: int
    stop: StopAdvice | None
    text: str
    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Nothing:
    """No case could be served.

    Attributes:
        text: why, in a sentence for the reader.
    """

    text: str


class CaseQueue:
    """Cases of one recipe's champion, one at a time to each client.

    Args:
        recipe: the model's name.
        champion: under which its scores are kept; empty where there is none.
        classes: foreground classes.
    """

    def __init__(
        self,
        database: Database,
        recipe: str,
        champion: str,
        classes: Sequence[str],
        settings: QueueSettings | None = None,
    ) -> None:
        self.database, self.recipe, self.champion = database, recipe, champion
        self.classes = tuple(classes)
        self.settings = settings or QueueSettings()
        STRATEGIES[self.settings.strategy]
        self._leases = Leases(recipe, champion, self.settings, "case")
        self._guard = threading.Lock()
        self._scores = ScoreTable(recipe, champion, self.classes)
        self._labels: tuple[object, list[LabelRow], dict[tuple[str, str], tuple[float, float]]] = (
            None,
            [],
            {},
        )

    def next_case(
        self,
        strategy: str | None,
        client_id: str,
        ids: Mapping[str, str],
        labelled: Collection[str],
        now: float,
        rng: np.random.Generator,
        prefer: str | None = None,
    ) -> Served | None:
        """`ask`, with None where there is nothing to serve."""
        answer = self.ask(strategy, client_id, ids, labelled, now, rng, prefer)
        return answer if isinstance(answer, Served) else None

    def ask(
        self,
        strategy: str | None,
        client_id: str,
        ids: Mapping[str, str],
        labelled: Collection[str],
        now: float,
        rng: np.random.Generator,
        prefer: str | None = None,
    ) -> Served | Nothing:
        """Hand the next case to a client.

        What is on lease is looked up in the transaction that serves, and writers of all processes follow each other,
        so nobody else can take the case in between.

        Leases that are over end; what the client held ends as skipped (an anonymous client, `""`, may be several
        people and loses nothing). Every so many servings, at places that look random but keep the share exact, the
        control arm draws the case by `foreground_random`.

        Args:
            strategy: a name; the settings' where None.
            client_id: who asks.
            ids: the unlabelled cases and their patients.
            labelled: cases that have a label; a mapping also gives their patients, which else come from the label rows.
            now: seconds since 1970.
            prefer: serve this case if it is free, whatever the strategy.

        Raises:
            NotFoundError: no such strategy.
        """
        name = strategy or self.settings.strategy
        STRATEGIES[name]
        with self._guard, self.database.reading() as c:
            self._scores.refresh(c)
            unlabelled = [case for case in ids if case not in labelled]
            known = self._scores.cases(unlabelled, [ids[case] for case in unlabelled])
            patients = labelled if isinstance(labelled, Mapping) else _patients_of_labels(c)
            asked = self._scores.cases(list(labelled), [patients.get(case, case) for case in labelled])
            scored = self._scores.done(unlabelled)
            stop = self._advice(c, known)
        with self.database.writing() as c:
            return self._serve(c, name, client_id, known, asked, now, rng, prefer, scored, stop)

    def _serve(
        self,
        c: Connection,
        name: str,
        client_id: str,
        known: Cases,
        asked: Cases,
        now: float,
        rng: np.random.Generator,
        prefer: str | None,
        scored: int,
        stop: StopAdvice | None,
    ) -> Served | Nothing:
        self._leases.take_back(c, client_id, now)
        leases = {serving.case_id: serving.expires_at for serving in open_servings(c)}
        free = np.array([case not in leases for case in known.ids], dtype=bool)
        if not free.any():
            return Nothing(_why_nothing(known, asked, leases, now))
        resting = self._leases.resting(c)
        rested = free & np.array([case not in resting for case in known.ids], dtype=bool)
        waiting = _subset(known, rested if rested.any() else free)
        view = View(
            waiting=waiting,
            asked=_joined(asked, _subset(known, ~free)),
            progress=min(1.0, len(asked) / (self.settings.budget or max(len(asked) + len(known), 1))),
            batch=self.settings.batch,
        )
        arm, reason = STRATEGY, "{}"
        if prefer is not None and prefer in known.ids and prefer not in leases:
            name, pick = BY_NAME, Pick(prefer, "asked for by name", None)
        elif self._leases.is_controls_turn(c):
            name, arm, reason = CONTROL_STRATEGY, CONTROL, "control: {}"
            pick = STRATEGIES[name].pick(view, rng)
        else:
            pick = STRATEGIES[name].pick(view, rng)
        parts = parts_of(c, self.recipe, self.champion, pick.case_id)
        if largest := largest_part(parts):
            reason += f", {largest.words}"
        if not rested.any():
            reason += ", skipped before and nothing else left"
        serving = self._leases.hand_out(
            c,
            pick.case_id,
            known.patients[known.ids.index(pick.case_id)],
            client_id,
            name,
            arm,
            reason.format(pick.reason),
            pick.score,
            now,
        )
        left = int(free.sum()) - 1
        return Served(
            serving=serving,
            pick=pick,
            arm=arm,
            waiting=left,
            scored=scored,
            total=len(known),
            stop=stop,
            text=self._text(serving, left, scored, len(known), stop),
            parts=parts,
        )

    def _advice(self, c: Connection, known: Cases) -> StopAdvice | None:
        counted = select(LABELS.c.status, func.count(), func.max(LABELS.c.id))
        key = c.execute(
            counted.where(LABELS.c.recipe == self.recipe).group_by(LABELS.c.status).order_by(LABELS.c.status)
        ).all()
        if key != self._labels[0]:
            rows = labels(c, recipe=self.recipe)
            self._labels = (key, rows, _what_was_said(c, self.recipe, rows))
        return expected_gain(self._labels[1], known, self._labels[2])

    def _text(self, serving: Serving, left: int, scored: int, total: int, stop: StopAdvice | None) -> str:
        """`case7 | members unsure about tumour, top 3 % | most_uncertain | 41 left, 12 of 300 scored so far`."""
        state = f"{left} left"
        if self.champion == COLD:
            state += ", no model yet"
        elif scored < total:
            state += f", {scored} of {total} scored so far"
        parts = [serving.case_id, serving.reason, serving.strategy, state]
        if stop is not None and stop.stop:
            parts.append(CHANGES_LITTLE)
        return " | ".join(parts)


def _subset(cases: Cases, mask: np.ndarray) -> Cases:
    rows = np.flatnonzero(mask)
    return Cases(
        ids=tuple(cases.ids[row] for row in rows),
        patients=tuple(cases.patients[row] for row in rows),
        classes=cases.classes,
        doubt=cases.doubt[rows],
        quality=cases.quality[rows],
        class_doubt=cases.class_doubt[rows],
        foreground_mm3=cases.foreground_mm3[rows],
        features=cases.features[rows],
    )


def _joined(cases: Cases, others: Cases) -> Cases:
    return Cases(
        ids=cases.ids + others.ids,
        patients=cases.patients + others.patients,
        classes=cases.classes,
        doubt=np.concatenate([cases.doubt, others.doubt]),
        quality=np.concatenate([cases.quality, others.quality]),
        class_doubt=np.concatenate([cases.class_doubt, others.class_doubt]),
        foreground_mm3=np.concatenate([cases.foreground_mm3, others.foreground_mm3]),
        features=np.concatenate([cases.features, others.features]),
    )


def _why_nothing(known: Cases, asked: Cases, leases: Mapping[str, float], now: float) -> str:
    if not len(known):
        return f"all {len(asked)} cases are labelled" if len(asked) else "there are no cases yet"
    minutes = max(1, math.ceil((min(leases[case] for case in known.ids) - now) / 60))
    return (
        f"the {len(known)} cases without a label are all with readers; the next one is free in {minutes} min, "
        "or when a reader submits or skips"
    )


def _patients_of_labels(c: Connection) -> dict[str, str]:
    found = c.execute(select(LABELS.c.case_id, LABELS.c.patient).distinct())
    return {row.case_id: row.patient for row in found}


def _what_was_said(
    c: Connection, recipe: str, rows: Sequence[LabelRow]
) -> dict[tuple[str, str], tuple[float, float]]:
    """`(doubt, quality)` of labelled cases by each champion whose scores are kept."""
    said: dict[tuple[str, str], tuple[float, float]] = {}
    cases = sorted({row.case_id for row in rows})
    for at in range(0, len(cases), LOOKED_UP):
        wanted = select(SCORES.c.champion, SCORES.c.case_id, SCORES.c.doubt, SCORES.c.quality).where(
            SCORES.c.recipe == recipe, SCORES.c.case_id.in_(cases[at : at + LOOKED_UP])
        )
        for row in c.execute(wanted):
            doubt, quality = (math.nan if value is None else value for value in (row.doubt, row.quality))
            said[row.champion, row.case_id] = (doubt, quality)
    return said
