"""The scores of one champion in arrays, kept up to date: ten thousand cases are not read again for each question."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from sqlalchemy import Connection, func, select

from overread.queue.cases import Cases
from overread.state.schema import SCORES
from overread.state.scores import COLD

# Cases looked up in one statement; SQLite takes 32,766 values.
LOOKED_UP = 500


class ScoreTable:
    """What is known of every case under one champion; image features also from the rows without a champion.

    Args:
        recipe: the model's name.
        champion: whose scores; `COLD` for none.
        classes: foreground classes.
    """

    def __init__(self, recipe: str, champion: str, classes: Sequence[str]) -> None:
        self.recipe, self.champion, self.classes = recipe, champion, tuple(classes)
        # When each case was scored, by champion.
        self._seen: dict[str, dict[str, float]] = {COLD: {}, champion: {}}
        # Number of rows and sum of their times, by champion: they change whenever a row does.
        self._state: dict[str, tuple[Any, ...]] = {}
        # Places in the arrays; the first place stays empty and stands for all cases that nothing is known of.
        self._places: dict[str, int] = {}
        # doubt, quality, then class_doubt and foreground_mm3 of each class.
        self._numbers = _unknown(1, 2 + 2 * len(self.classes), float)
        self._features = _unknown(1, 0, np.float32)
        # Scored by the champion, even if in vain.
        self._done = np.zeros(1, dtype=bool)

    def refresh(self, c: Connection) -> None:
        """Read what was scored since the last time."""
        for champion, seen in self._seen.items():
            mine = (SCORES.c.recipe == self.recipe, SCORES.c.champion == champion)
            counted = select(func.count(), func.sum(SCORES.c.scored_at)).where(*mine)
            state = tuple(c.execute(counted).one())
            if state == self._state.get(champion):
                continue
            # All at once: row by row takes three times as long.
            times = dict(c.execute(select(SCORES.c.case_id, SCORES.c.scored_at).where(*mine)).all())
            changed = [case for case, at in times.items() if seen.get(case) != at]
            self._state[champion] = state
            if not changed:
                continue
            self._make_places(changed)
            named = () if len(changed) > LOOKED_UP else (SCORES.c.case_id.in_(changed),)
            # A champion's row repeats the features that the row without champion has.
            if champion == COLD or any(case not in self._seen[COLD] for case in changed):
                wanted = select(SCORES.c.case_id, SCORES.c.features_json).where(*mine, *named)
                self._take_features(c.execute(wanted).all())
            if champion != COLD:
                columns = (
                    SCORES.c.doubt,
                    SCORES.c.quality,
                    SCORES.c.class_doubt_json,
                    SCORES.c.foreground_mm3_json,
                )
                wanted = select(SCORES.c.case_id, *columns).where(*mine, *named)
                self._take_numbers(c.execute(wanted).all())
            seen.update(times)

    def cases(self, ids: Sequence[str], patients: Sequence[str]) -> Cases:
        """The cases side by side; NaN where nothing is known."""
        places = self._places_of(ids)
        numbers = self._numbers[places]
        count = len(self.classes)
        return Cases(
            ids=tuple(ids),
            patients=tuple(patients),
            classes=self.classes,
            doubt=numbers[:, 0],
            quality=numbers[:, 1],
            class_doubt=numbers[:, 2 : 2 + count],
            foreground_mm3=numbers[:, 2 + count :],
            features=self._features[places],
        )

    def done(self, ids: Sequence[str]) -> int:
        """How many of the cases the champion has scored, or failed to."""
        return int(self._done[self._places_of(ids)].sum())

    def _places_of(self, ids: Sequence[str]) -> np.ndarray:
        get = self._places.get
        return np.array([get(case, 0) for case in ids], dtype=int)

    def _make_places(self, cases: Sequence[str]) -> None:
        new = [case for case in cases if case not in self._places]
        self._places.update(zip(new, range(len(self._done), len(self._done) + len(new)), strict=True))
        self._done = np.concatenate([self._done, np.zeros(len(new), dtype=bool)])
        self._numbers = _longer(self._numbers, len(new))
        self._features = _longer(self._features, len(new))

    def _take_numbers(self, found: Sequence[tuple[Any, ...]]) -> None:
        places = self._places_of([row[0] for row in found])
        self._done[places] = True
        numbers = []
        for _, doubt, quality, class_doubt, foreground in found:
            by_class, volumes = json.loads(class_doubt), json.loads(foreground)
            numbers.append(
                [
                    doubt,
                    quality,
                    *(by_class.get(name) for name in self.classes),
                    *(volumes.get(name) for name in self.classes),
                ]
            )
        # None becomes NaN.
        self._numbers[places] = np.array(numbers, dtype=float)

    def _take_features(self, found: Sequence[tuple[str, str]]) -> None:
        filled = [(case, features) for case, features in found if features != "[]"]
        if not filled:
            return
        parsed = json.loads(f"[{','.join(features for _, features in filled)}]")
        width = len(parsed[-1])
        if width != self._features.shape[1]:
            # Another version of the features: what was known lies in another space.
            self._features = _unknown(len(self._done), width, np.float32)
        fitting = [index for index, features in enumerate(parsed) if len(features) == width]
        places = self._places_of([filled[index][0] for index in fitting])
        self._features[places] = np.array([parsed[index] for index in fitting], dtype=np.float32)


def _unknown(rows: int, columns: int, dtype: type) -> np.ndarray:
    return np.full((rows, columns), np.nan, dtype=dtype)


def _longer(array: np.ndarray, rows: int) -> np.ndarray:
    return np.concatenate([array, np.full((rows, array.shape[1]), np.nan, dtype=array.dtype)])
