"""The preference memory: what each clinician usually wants, kept in the database, and where the next case starts.

    a case is accepted:       Preferences(database).accepted(person, recipe, purpose, reader, opened, masks, case, now)
    the next case is opened:  begin(…, priors=Preferences(database).priors(person, recipe, purpose, reader))
    the champion changed:     Preferences(database).replay(recipe, reader, read_image, now)

A preference is one person's, for one recipe and purpose, and never applied to anybody else. It is always what the
examples teach, the accepted masks that are kept beside it; a case that is accepted again teaches what is accepted last.
Of other people a newcomer is given their mean alone, and only where it is one of several; it has to be switched on.
"""

from __future__ import annotations

import base64
import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from sqlalchemy import Connection

from overread.domain import BadInputError, OverreadError
from overread.ensemble.ensemble import Prepared
from overread.ensemble.preparation import prepare_labels
from overread.imaging.volumes import Volume
from overread.learning.champions import HASH_LENGTH
from overread.meduhip.memory import Impression, Preference, impression, mean_weights, prior_state
from overread.meduhip.reader import OpenImage, Reader
from overread.meduhip.session import SITTING, StructureState
from overread.state.audit import append, done_since
from overread.state.database import Database
from overread.state.preferences import (
    ExampleRow,
    PreferenceRow,
    clear_preferences,
    count_examples,
    examples,
    forget,
    forget_example,
    known_people,
    preferences,
    put_example,
    put_preference,
)
from overread.state.turns import forget_turns

logger = logging.getLogger(__name__)

# Cases that a person's preference rests on; older ones are forgotten, so that habits may change.
MOST_EXAMPLES = 50
ACTOR = "preference memory"
# How the audit log calls it that somebody was forgotten, and of which models where of all.
RESET, ALL_MODELS = "preference reset", "all models"
# Other people whose mean a newcomer begins with; the mean of fewer would tell what one of them wants.
FEWEST_OTHERS = 3

ReadImage = Callable[[str], Volume | None]


@dataclass(frozen=True)
class Replayed:
    """What a replay did.

    Attributes:
        people: whose preferences are known to the new champion now.
        cases: accepted masks' cases that were replayed.
        missing: cases whose image is gone or is another now; what they taught waits for them.
    """

    people: tuple[str, ...]
    cases: int
    missing: tuple[str, ...]


class Preferences:
    """The preferences in one database.

    Args:
        mean_of_others: whether people of whom little is known begin where the others do on average; else with even
            weights.
    """

    def __init__(self, database: Database, mean_of_others: bool = False) -> None:
        self.database, self.mean_of_others = database, mean_of_others

    def priors(
        self, person: str, recipe: str, purpose: str, reader: Reader
    ) -> tuple[StructureState, ...] | None:
        """Where the person's next case starts, one state a structure, for `session.begin`.

        What is known of the person, shrunk towards the mean of at least `FEWEST_OTHERS` others with the same recipe and
        purpose. None where nobody is named, or nothing is known of either; what speaks of another champion and was not
        replayed yet is not known.
        """
        if not person:
            return None
        champion = reader.identity[:HASH_LENGTH]
        with self.database.reading() as c:
            rows = preferences(c, None if self.mean_of_others else person, recipe, purpose)
        spoken = [row for row in rows if row.champion == champion]
        states = []
        for name in reader.classes[1:]:
            of_structure = {row.person: _preference(row.values) for row in spoken if row.structure == name}
            own = of_structure.pop(person, Preference.none(reader.model))
            others = list(of_structure.values())
            everybody = mean_weights(others) if len(others) >= FEWEST_OTHERS else None
            states.append(prior_state(own, reader.model, everybody=everybody))
        return tuple(states) if any(state != StructureState() for state in states) else None

    def accepted(
        self,
        person: str,
        recipe: str,
        purpose: str,
        reader: Reader,
        opened: OpenImage,
        masks: Sequence[np.ndarray],
        case: str,
        now: float,
    ) -> None:
        """Learn from a case that was accepted. Takes about two turns' time; nobody has to wait for it.

        Nothing is learnt where nobody is named or who is named was forgotten since, and of structures whose mask is
        empty. Leave out labels that are not
        complete: what nobody looked at would count as background.

        Args:
            opened: the case, by `reader`.
            masks: what was accepted, one a structure: boolean on the *input's* grid, in the file's axis order; of
                pictures also with a third axis of one.
            case: its id; a case that was accepted before teaches what is accepted now instead.
            now: when it was accepted.

        Raises:
            BadInputError: not one mask a structure, masks of another shape than the image, or an image that another
                model encoded.
        """
        if not person:
            return
        seen = _seen(reader, opened, dict(zip(reader.classes[1:], _one_each(masks, reader), strict=True)))
        shape = opened.prepared.input_grid.shape
        row = ExampleRow(
            person=person,
            recipe=recipe,
            purpose=purpose,
            case_id=case,
            champion=reader.identity[:HASH_LENGTH],
            masks={
                name: packed(mask.reshape(shape))
                for name, mask in zip(reader.classes[1:], masks, strict=True)
                if name in seen
            },
            values={name: asdict(each) for name, each in seen.items()},
            at=now,
        )
        with self.database.writing() as c:
            if self._was_reset(c, person, recipe, purpose, now):
                return
            if seen:
                put_example(c, row)
            elif examples(c, person, recipe, purpose, case_id=case, with_masks=False):
                forget_example(c, row)
            else:
                return
            kept = examples(c, person, recipe, purpose, with_masks=False)
            for old in kept[:-MOST_EXAMPLES]:
                forget_example(c, old)
            cases = _learn(c, person, recipe, purpose, row.champion, now)
            details = {"purpose": purpose, "case": case, "champion": row.champion, "cases": cases}
            append(c, actor=person, action="preference learnt", subject=recipe, details=details, now=now)

    def show(self, person: str | None = None, recipe: str | None = None) -> list[dict[str, Any]]:
        """What is known, for people: one plain object a person, recipe, purpose and structure."""
        with self.database.reading() as c:
            rows = preferences(c, person, recipe)
        return [_told(row) for row in rows]

    def people(self) -> list[str]:
        """Of whom anything is remembered, by name."""
        with self.database.reading() as c:
            return known_people(c)

    def cases(self, person: str) -> dict[tuple[str, str], int]:
        """How many cases are remembered of a person, by recipe and purpose.

        Also where `show` knows nothing: of a new champion that has not seen them yet, or whose images are gone.
        """
        with self.database.reading() as c:
            return count_examples(c, person)

    def export(
        self, person: str, recipe: str | None = None, purpose: str | None = None
    ) -> dict[str, list[dict[str, Any]]]:
        """All that is kept of a person, as plain JSON: `preferences`, and `examples` with the masks (see `packed`)."""
        with self.database.reading() as c:
            return {
                "preferences": [asdict(row) for row in preferences(c, person, recipe, purpose)],
                "examples": [asdict(row) for row in examples(c, person, recipe, purpose)],
            }

    def reset(
        self, person: str, now: float, recipe: str | None = None, purpose: str | None = None, actor: str = ""
    ) -> int:
        """Forget a person, for one recipe or purpose or (None) all. Returns the number of cases forgotten.

        The audit log keeps that it was done, and not what was forgotten. Cases that had begun with what was known, and
        are open still, begin anew.

        Args:
            actor: who asked for it; the person, where empty.
        """
        with self.database.writing() as c:
            cases = forget(c, person, recipe, purpose)
            forget_turns(c, person, SITTING, recipe, lambda kept: _knows(kept, purpose))
            details = {"person": person, "purpose": purpose, "cases": cases}
            append(
                c,
                actor=actor or person,
                action=RESET,
                subject=recipe or ALL_MODELS,
                details=details,
                now=now,
            )
        return cases

    def was_reset(self, person: str, recipe: str, purpose: str, since: float) -> bool:
        """Whether the person was forgotten after a moment, for this recipe and purpose or more."""
        with self.database.reading() as c:
            return self._was_reset(c, person, recipe, purpose, since)

    def _was_reset(self, c: Connection, person: str, recipe: str, purpose: str, since: float) -> bool:
        return any(
            row.details["person"] == person
            and row.subject in (recipe, ALL_MODELS)
            and row.details["purpose"] in (purpose, None)
            for row in done_since(c, RESET, since)
        )

    def replay(
        self,
        recipe: str,
        reader: Reader,
        read_image: ReadImage,
        now: float,
        progress: Callable[[float], None] | None = None,
        turn: AbstractContextManager[object] | None = None,
    ) -> Replayed:
        """Learn everybody's preferences of a recipe anew, in the terms of another champion.

        Each image is opened once, whoever accepted it. Killed, it goes on where it was; done already, it does nothing.

        Args:
            reader: the champion.
            read_image: the image of a case; None where it is gone.
            progress: hears the share that is done.
            turn: held while the champion computes.
        """
        champion = reader.identity[:HASH_LENGTH]
        with self.database.reading() as c:
            kept = examples(c, recipe=recipe, with_masks=False)
        waiting = sorted({row.case_id for row in kept if row.champion != champion})
        people: set[str] = set()
        missing: list[str] = []
        count = 0
        for index, case in enumerate(waiting):
            done = self._replay_case(recipe, case, reader, read_image, now, turn or nullcontext())
            if done is None:
                missing.append(case)
            else:
                people |= done
                count += 1
            if progress is not None:
                progress((index + 1) / len(waiting))
        if waiting:
            details = {"champion": champion, "people": len(people), "cases": count, "missing": missing}
            with self.database.writing() as c:
                append(
                    c, actor=ACTOR, action="preferences replayed", subject=recipe, details=details, now=now
                )
        return Replayed(tuple(sorted(people)), count, tuple(missing))

    def _replay_case(
        self,
        recipe: str,
        case: str,
        reader: Reader,
        read_image: ReadImage,
        now: float,
        turn: AbstractContextManager[object],
    ) -> set[str] | None:
        """Whose example of a case was replayed; None where the image is gone, or another than they saw."""
        champion = reader.identity[:HASH_LENGTH]
        with self.database.reading() as c:
            rows = [row for row in examples(c, recipe=recipe, case_id=case) if row.champion != champion]
        try:
            volume = read_image(case)
            if volume is None:
                return None
            with turn:
                opened = reader.open(volume, next(reader.model.parameters()).device)
                renewed = [_renewed(row, reader, opened) for row in rows]
        except OverreadError as error:
            logger.warning("what was accepted of case %s cannot be replayed: %s", case, error)
            return None
        with self.database.writing() as c:
            for row in renewed:
                # What was accepted or forgotten meanwhile goes before.
                now_there = {
                    (there.case_id, there.at)
                    for there in examples(c, row.person, recipe, row.purpose, with_masks=False)
                }
                if (row.case_id, row.at) not in now_there:
                    continue
                put_example(c, row)
                _learn(c, row.person, recipe, row.purpose, champion, now)
        return {row.person for row in renewed}


def in_model_voxels(mask: np.ndarray, prepared: Prepared) -> torch.Tensor:
    """A boolean mask on the input's grid as one in the model's voxels.

    Raises:
        BadInputError: it is not boolean, or of another shape than the image.
    """
    shape = prepared.input_grid.shape
    if mask.dtype != np.bool_ or mask.shape not in (shape, (*shape, 1)):
        raise BadInputError(
            f"an accepted mask is bool on the image's grid {shape}, got {mask.dtype} {tuple(mask.shape)}"
        )
    return prepare_labels(mask.reshape(shape).astype(np.uint8), prepared, 2) == 1


def packed(mask: np.ndarray) -> dict[str, Any]:
    """A boolean mask as JSON: `shape`, and `bits` as zlib-compressed, base85-encoded bytes of eight voxels each."""
    bits = zlib.compress(np.packbits(mask).tobytes(), 9)
    return {"shape": list(mask.shape), "bits": base64.b85encode(bits).decode()}


def unpacked(kept: Mapping[str, Any]) -> np.ndarray:
    """The inverse of `packed`."""
    shape = tuple(kept["shape"])
    bits = np.frombuffer(zlib.decompress(base64.b85decode(kept["bits"])), np.uint8)
    return np.unpackbits(bits, count=int(np.prod(shape))).astype(bool).reshape(shape)


def _seen(reader: Reader, opened: OpenImage, masks: Mapping[str, np.ndarray]) -> dict[str, Impression]:
    """What each mask says, by structure; of those that hold anything where the model sees."""
    if opened.model is not reader.model:
        raise BadInputError(f"the image was opened by another model than {reader.identity[:HASH_LENGTH]}")
    found = {}
    for name, mask in masks.items():
        seen = in_model_voxels(mask, opened.prepared)
        if bool(seen.any()):
            structure = reader.classes.index(name) - 1
            found[name] = impression(reader.model, opened, seen, structure)
    return found


def _renewed(row: ExampleRow, reader: Reader, opened: OpenImage) -> ExampleRow:
    masks = {name: unpacked(mask) for name, mask in row.masks.items() if name in reader.classes[1:]}
    values = {name: asdict(each) for name, each in _seen(reader, opened, masks).items()}
    return replace(row, champion=reader.identity[:HASH_LENGTH], values=values)


def _learn(c: Connection, person: str, recipe: str, purpose: str, champion: str, now: float) -> int:
    """Put together what the examples in a champion's terms teach. Returns their number."""
    rows = [row for row in examples(c, person, recipe, purpose, with_masks=False) if row.champion == champion]
    learnt: dict[str, Preference] = {}
    for row in rows:
        for structure, values in row.values.items():
            # What was kept before levels were learnt has none.
            seen = Impression(
                tuple(values["components"]),
                tuple(values["residual"]),
                values["size"],
                values.get("level", 0.0),
            )
            before = learnt.get(structure) or Preference(
                (0.0,) * len(seen.components), (0.0,) * len(seen.residual)
            )
            learnt[structure] = before.after(seen)
    clear_preferences(c, person, recipe, purpose)
    for structure, preference in learnt.items():
        put_preference(
            c,
            PreferenceRow(
                person=person,
                recipe=recipe,
                purpose=purpose,
                structure=structure,
                champion=champion,
                values=asdict(preference),
                cases=preference.cases,
                updated_at=now,
            ),
        )
    return len(rows)


def _knows(sitting: Mapping[str, Any], purpose: str | None) -> bool:
    """Whether a kept sitting began with what was known of its person for a purpose, or (None) any."""
    states = sitting["begun"]["structures"]
    began_so = any(state["weights"] or state["shift"] or state.get("level") for state in states)
    return began_so and purpose in (None, sitting["purpose"])


def _preference(values: Mapping[str, Any]) -> Preference:
    return Preference(
        tuple(values["counts"]),
        tuple(values["shift"]),
        values["cases"],
        values["size"],
        values.get("level", 0.0),
    )


def _one_each(masks: Sequence[np.ndarray], reader: Reader) -> Sequence[np.ndarray]:
    if len(masks) != len(reader.classes) - 1:
        names = ", ".join(reader.classes[1:])
        raise BadInputError(f"{len(masks)} masks were accepted, expected one for each of {names}")
    return masks


def _told(row: PreferenceRow) -> dict[str, Any]:
    preference = _preference(row.values)
    total = sum(preference.counts)
    shares = [count / total for count in preference.counts] if total else []
    change = preference.size - 1
    return {
        "person": row.person,
        "recipe": row.recipe,
        "purpose": row.purpose,
        "structure": row.structure,
        "champion": row.champion,
        "cases": row.cases,
        "size": preference.size,
        "components": shares,
        "shift": list(preference.shift),
        "level": preference.level,
        "updated_at": row.updated_at,
        "in_words": f"{abs(change):.0%} {'larger' if change > 0 else 'smaller'} than the model's own answer"
        if abs(change) >= 0.005
        else "as large as the model's own answer",
    }
