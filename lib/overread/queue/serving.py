"""The queue: which case a client gets, why, and for how long."""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection, func, select

from overread.domain import BadInputError
from overread.queue.cases import Cases, Pick, View
from overread.queue.score_table import LOOKED_UP, ScoreTable
from overread.queue.stop import StopAdvice, expected_gain
from overread.queue.strategies import STRATEGIES
from overread.state.audit import append
from overread.state.database import Database
from overread.state.labels import LabelRow, labels
from overread.state.schema import LABELS, SCORES, SERVINGS
from overread.state.scores import COLD
from overread.state.servings import (
    CONTROL,
    SKIPPED,
    STRATEGY,
    Serving,
    end,
    expire,
    open_of_client,
    open_servings,
    serve,
)

# By which the control arm is drawn.
CONTROL_STRATEGY = "foreground_random"
# In place of a strategy, where the client asked for the case itself.
BY_NAME = "by_name"


@dataclass(frozen=True)
class QueueSettings:
    """How cases are handed out.

    Attributes:
        strategy: where the client names none.
        control_share: of the servings, in [0, 1], is drawn at random whatever the strategy.
        lease_s: a case belongs to its client for so long.
        skip_rest: so many other cases are served before a skipped one comes back.
        batch: labels that are made before the model changes.
        budget: labels that are planned in all; as many as there are cases if None.
    """

    strategy: str = "most_uncertain"
    control_share: float = 0.2
    lease_s: float = 1800.0
    skip_rest: int = 10
    batch: int = 10
    budget: int | None = None

    def __post_init__(self) -> None:
        STRATEGIES[self.strategy]
        if not 0 <= self.control_share <= 1:
            raise BadInputError(
                f"the control arm's share is a number in [0, 1], got {self.control_share}; 20 % is 0.2"
            )
        if (
            self.lease_s <= 0
            or self.skip_rest < 0
            or min(self.batch, 1 if self.budget is None else self.budget) < 1
        ):
            raise BadInputError(
                "a lease lasts longer than 0 s, a batch and a budget have at least 1 label, and skipped cases "
                f"rest for at least 0 others; got {self.lease_s} s, {self.batch}, {self.budget} and {self.skip_rest}"
            )


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
    """

    serving: Serving
    pick: Pick
    arm: str
    waiting: int
    scored: int
    total: int
    stop: StopAdvice | None
    text: str


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
        expire(c, now)
        self._skip_what_is_held(c, client_id, now)
        leases = {serving.case_id: serving.expires_at for serving in open_servings(c)}
        free = np.array([case not in leases for case in known.ids], dtype=bool)
        if not free.any():
            return Nothing(_why_nothing(known, asked, leases, now))
        resting = self._resting(c)
        rested = free & np.array([case not in resting for case in known.ids], dtype=bool)
        waiting = _subset(known, rested if rested.any() else free)
        view = View(
            waiting=waiting,
            asked=_joined(asked, _subset(known, ~free)),
            progress=min(1.0, len(asked) / (self.settings.budget or max(len(asked) + len(known), 1))),
            batch=self.settings.batch,
        )
        arm, reason = STRATEGY, "{}"
        served_before = c.execute(
            select(func.count()).select_from(SERVINGS).where(SERVINGS.c.recipe == self.recipe)
        ).scalar_one()
        if prefer is not None and prefer in known.ids and prefer not in leases:
            name, pick = BY_NAME, Pick(prefer, "asked for by name", None)
        elif is_control(served_before, self.settings.control_share, self.recipe):
            name, arm, reason = CONTROL_STRATEGY, CONTROL, "control: {}"
            pick = STRATEGIES[name].pick(view, rng)
        else:
            pick = STRATEGIES[name].pick(view, rng)
        if not rested.any():
            reason += ", skipped before and nothing else left"
        serving = serve(
            c,
            case_id=pick.case_id,
            patient=known.patients[known.ids.index(pick.case_id)],
            client_id=client_id,
            recipe=self.recipe,
            champion=self.champion,
            strategy=name,
            arm=arm,
            reason=reason.format(pick.reason),
            score=pick.score,
            now=now,
            lease_s=self.settings.lease_s,
        )
        self._audit(c, "case served", serving, now)
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
        )

    def _skip_what_is_held(self, c: Connection, client_id: str, now: float) -> None:
        for serving in open_of_client(c, client_id) if client_id else ():
            end(c, serving.id, SKIPPED, now)
            self._audit(c, "case skipped", serving, now)

    def _audit(self, c: Connection, action: str, serving: Serving, now: float) -> None:
        append(
            c,
            actor=serving.client_id or "anonymous",
            action=action,
            subject=serving.case_id,
            details={
                "serving": serving.id,
                "recipe": serving.recipe,
                "champion": serving.champion,
                "strategy": serving.strategy,
                "arm": serving.arm,
                "reason": serving.reason,
                "score": serving.score,
                "expires_at": serving.expires_at,
            },
            now=now,
        )

    def _resting(self, c: Connection) -> set[str]:
        """Cases that were skipped, and since then fewer than `skip_rest` cases have been served."""
        if self.settings.skip_rest == 0:
            return set()
        mine = SERVINGS.c.recipe == self.recipe
        newest = select(SERVINGS.c.served_at).where(mine).order_by(SERVINGS.c.id.desc())
        since = c.execute(newest.offset(self.settings.skip_rest - 1).limit(1)).scalar()
        skipped = select(SERVINGS.c.case_id).where(mine, SERVINGS.c.outcome == SKIPPED)
        if since is not None:
            skipped = skipped.where(SERVINGS.c.ended_at > since)
        return set(c.execute(skipped).scalars())

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
            parts.append("further labels are expected to change little")
        return " | ".join(parts)


def is_control(served_before: int, share: float, salt: str) -> bool:
    """Whether the serving after `served_before` others belongs to the control arm.

    Servings are cut into blocks of `1 / share`, one of each block is control: after n servings the arm holds less
    than one case more or less than `n * share`. Which one of its block follows from a hash, so that no client who
    asks in a regular turn gets all of them or none.
    """
    if share <= 0:
        return False
    block = int((served_before + 1) * share) + 1
    while _block_start(block, share) > served_before:
        block -= 1
    start, length = (
        _block_start(block, share),
        _block_start(block + 1, share) - _block_start(block, share),
    )
    digest = hashlib.sha256(f"{salt}/{block}".encode()).digest()
    return served_before == start + int.from_bytes(digest[:8], "big") % length


def _block_start(block: int, share: float) -> int:
    # 3 / 0.1 is 29.999999999999996.
    return math.floor(block / share + 1e-9)


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
