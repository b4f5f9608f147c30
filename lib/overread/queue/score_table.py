"""The scores of one champion in arrays, kept up to date: ten thousand cases are not read again for each question."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from sqlalchemy import Connection, Row, select

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
        self._rows: dict[str, int] = {}
        # (champion, case) to when it was scored.
        self._seen: dict[tuple[str, str], float] = {}
        # doubt, quality, then class_doubt and foreground_mm3 of each class.
        self._numbers = np.empty((0, 2 + 2 * len(self.classes)))
        self._features = np.empty((0, 0), dtype=np.float32)
        # Scored by the champion, even if in vain.
        self._done = np.empty(0, dtype=bool)

    def refresh(self, c: Connection) -> None:
        """Read what was scored since the last time."""
        for champion in dict.fromkeys((COLD, self.champion)):
            mine = (SCORES.c.recipe == self.recipe, SCORES.c.champion == champion)
            times = c.execute(select(SCORES.c.case_id, SCORES.c.scored_at).where(*mine))
            changed = [case for case, at in times if self._seen.get((champion, case)) != at]
            whole = select(SCORES).where(*mine)
            if len(changed) > LOOKED_UP:
                self._take(champion, c.execute(whole).all())
            elif changed:
                self._take(champion, c.execute(whole.where(SCORES.c.case_id.in_(changed))).all())

    def cases(self, ids: Sequence[str], patients: Sequence[str]) -> Cases:
        """The cases side by side; NaN where nothing is known."""
        # The row before the first is a row of NaN.
        rows = np.array([self._rows.get(case, -1) for case in ids], dtype=int) + 1
        numbers = np.concatenate([np.full((1, self._numbers.shape[1]), np.nan), self._numbers])[rows]
        features = np.concatenate([np.full((1, self._features.shape[1]), np.nan), self._features])[rows]
        count = len(self.classes)
        return Cases(
            ids=tuple(ids),
            patients=tuple(patients),
            classes=self.classes,
            doubt=numbers[:, 0],
            quality=numbers[:, 1],
            class_doubt=numbers[:, 2 : 2 + count],
            foreground_mm3=numbers[:, 2 + count :],
            features=features.astype(np.float32),
        )

    def done(self, ids: Sequence[str]) -> int:
        """How many of the cases the champion has scored, or failed to."""
        rows = [row for case in ids if (row := self._rows.get(case)) is not None]
        return int(self._done[rows].sum())

    def _take(self, champion: str, found: Sequence[Row]) -> None:
        for row in found:
            self._seen[champion, row.case_id] = row.scored_at
            self._rows.setdefault(row.case_id, len(self._rows))
        at = np.array([self._rows[row.case_id] for row in found])
        new = len(self._rows) - len(self._numbers)
        self._numbers = np.concatenate([self._numbers, np.full((new, self._numbers.shape[1]), np.nan)])
        self._done = np.concatenate([self._done, np.zeros(new, dtype=bool)])
        self._features = np.concatenate(
            [self._features, np.full((new, self._features.shape[1]), np.nan, dtype=np.float32)]
        )
        self._take_features(at, found)
        if champion != self.champion or champion == COLD:
            return
        self._done[at] = True
        numbers = []
        for row in found:
            class_doubt, foreground = json.loads(row.class_doubt_json), json.loads(row.foreground_mm3_json)
            numbers.append(
                [
                    np.nan if row.doubt is None else row.doubt,
                    np.nan if row.quality is None else row.quality,
                    *(class_doubt.get(name, np.nan) for name in self.classes),
                    *(foreground.get(name, np.nan) for name in self.classes),
                ]
            )
        self._numbers[at] = numbers

    def _take_features(self, at: np.ndarray, found: Sequence[Row]) -> None:
        with_features = [index for index, row in enumerate(found) if len(row.features_json) > len("[]")]
        if not with_features:
            return
        parsed = json.loads(f"[{','.join(found[index].features_json for index in with_features)}]")
        lengths = np.array([len(features) for features in parsed])
        width = int(lengths[-1])
        if width != self._features.shape[1]:
            # Another version of the features: what was known lies in another space.
            self._features = np.full((len(self._rows), width), np.nan, dtype=np.float32)
        fitting = np.flatnonzero(lengths == width)
        self._features[at[np.array(with_features)[fitting]]] = [parsed[index] for index in fitting]
