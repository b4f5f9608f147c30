"""What clinicians usually want, and the accepted masks that it was learnt from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Table, delete, func, insert, select
from sqlalchemy.sql import ColumnElement

from overread.state.rows import to_json
from overread.state.schema import PREFERENCE_EXAMPLES, PREFERENCES


@dataclass(frozen=True, kw_only=True)
class PreferenceRow:
    """What somebody usually wants of one structure.

    Attributes:
        person: whose it is.
        recipe: the model's name.
        purpose: what the segmentation is for, such as `radiotherapy`; empty where nobody said.
        structure: the class's name.
        champion: identity of the weights in whose terms `values` speak.
        values: the preference, plain JSON.
        cases: accepted masks that it was learnt from.
        updated_at: when.
    """

    person: str
    recipe: str
    purpose: str
    structure: str
    champion: str
    values: dict[str, Any]
    cases: int
    updated_at: float


@dataclass(frozen=True, kw_only=True)
class ExampleRow:
    """One case whose masks somebody accepted.

    Attributes:
        person, recipe, purpose: as of a `PreferenceRow`.
        case_id: of the image.
        champion: identity of the weights in whose terms `values` speak.
        masks: what was accepted, by the class's name, plain JSON.
        values: what each mask taught, by the class's name, plain JSON.
        at: when it was accepted.
    """

    person: str
    recipe: str
    purpose: str
    case_id: str
    champion: str
    masks: dict[str, Any]
    values: dict[str, Any]
    at: float


def put_preference(c: Connection, row: PreferenceRow) -> None:
    """Keep the row, of a structure that has none (see `clear_preferences`).

    Raises:
        BadInputError: a number in the values is not finite.
    """
    text = to_json(row.values, f"preference of {row.person} for {row.structure}")
    c.execute(
        insert(PREFERENCES).values(
            person=row.person,
            recipe=row.recipe,
            purpose=row.purpose,
            structure=row.structure,
            champion=row.champion,
            values_json=text,
            cases=row.cases,
            updated_at=row.updated_at,
        )
    )


def clear_preferences(c: Connection, person: str, recipe: str, purpose: str) -> None:
    """Make room for other rows of a person, recipe and purpose; the examples stay."""
    c.execute(delete(PREFERENCES).where(*_of(PREFERENCES, person, recipe, purpose)))


def preferences(
    c: Connection, person: str | None = None, recipe: str | None = None, purpose: str | None = None
) -> list[PreferenceRow]:
    """Of a person, a recipe and a purpose (None: of all), by person, recipe, purpose and structure."""
    columns = PREFERENCES.c
    wanted = select(PREFERENCES).where(*_of(PREFERENCES, person, recipe, purpose))
    found = []
    for row in c.execute(wanted.order_by(columns.person, columns.recipe, columns.purpose, columns.structure)):
        values = dict(row._mapping)
        found.append(PreferenceRow(values=json.loads(values.pop("values_json")), **values))
    return found


def put_example(c: Connection, row: ExampleRow) -> None:
    """Keep the row in place of an earlier one of the same person, recipe, purpose and case.

    Raises:
        BadInputError: a number in the values is not finite.
    """
    what = f"what {row.person} accepted of case {row.case_id}"
    masks, values = to_json(row.masks, what), to_json(row.values, what)
    same = _of(PREFERENCE_EXAMPLES, row.person, row.recipe, row.purpose)
    c.execute(delete(PREFERENCE_EXAMPLES).where(*same, PREFERENCE_EXAMPLES.c.case_id == row.case_id))
    c.execute(
        insert(PREFERENCE_EXAMPLES).values(
            person=row.person,
            recipe=row.recipe,
            purpose=row.purpose,
            case_id=row.case_id,
            champion=row.champion,
            masks_json=masks,
            values_json=values,
            at=row.at,
        )
    )


def examples(
    c: Connection,
    person: str | None = None,
    recipe: str | None = None,
    purpose: str | None = None,
    *,
    case_id: str | None = None,
    with_masks: bool = True,
) -> list[ExampleRow]:
    """Of a person, a recipe, a purpose and a case (None: of all), oldest first.

    Args:
        with_masks: read the masks too; without, all rows have none.
    """
    columns = [column for column in PREFERENCE_EXAMPLES.c if with_masks or column.name != "masks_json"]
    wanted = select(*columns).where(*_of(PREFERENCE_EXAMPLES, person, recipe, purpose))
    if case_id is not None:
        wanted = wanted.where(PREFERENCE_EXAMPLES.c.case_id == case_id)
    found = []
    for row in c.execute(wanted.order_by(PREFERENCE_EXAMPLES.c.at, PREFERENCE_EXAMPLES.c.case_id)):
        values = dict(row._mapping)
        masks = json.loads(values.pop("masks_json", "{}"))
        found.append(ExampleRow(masks=masks, values=json.loads(values.pop("values_json")), **values))
    return found


def count_examples(c: Connection, person: str) -> dict[tuple[str, str], int]:
    """How many cases are kept of a person, by recipe and purpose."""
    columns = PREFERENCE_EXAMPLES.c
    wanted = select(columns.recipe, columns.purpose, func.count()).where(columns.person == person)
    counted = c.execute(wanted.group_by(columns.recipe, columns.purpose))
    return {(recipe, purpose): count for recipe, purpose, count in counted}


def known_people(c: Connection) -> list[str]:
    """Of whom anything is kept, by name: no preference is without the example that it was learnt from."""
    person = PREFERENCE_EXAMPLES.c.person
    return list(c.execute(select(person).distinct().order_by(person)).scalars())


def forget_example(c: Connection, row: ExampleRow) -> None:
    """Remove one case of somebody."""
    same = _of(PREFERENCE_EXAMPLES, row.person, row.recipe, row.purpose)
    c.execute(delete(PREFERENCE_EXAMPLES).where(*same, PREFERENCE_EXAMPLES.c.case_id == row.case_id))


def forget(c: Connection, person: str, recipe: str | None = None, purpose: str | None = None) -> int:
    """Remove what is known of somebody, with all masks; of one recipe or purpose, or (None) of all.

    Returns:
        The number of cases that were forgotten.
    """
    c.execute(delete(PREFERENCES).where(*_of(PREFERENCES, person, recipe, purpose)))
    gone = c.execute(delete(PREFERENCE_EXAMPLES).where(*_of(PREFERENCE_EXAMPLES, person, recipe, purpose)))
    return gone.rowcount


def _of(
    table: Table, person: str | None, recipe: str | None, purpose: str | None
) -> list[ColumnElement[bool]]:
    wanted = {"person": person, "recipe": recipe, "purpose": purpose}
    return [table.c[name] == value for name, value in wanted.items() if value is not None]
