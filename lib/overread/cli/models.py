"""`overread models`: which champions there are, which were before, what made them, and the way back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from overread.cli.console import (
    AppOption,
    DatabaseOption,
    JsonOption,
    ModelsOption,
    answers,
    champion_store,
    database_place,
    print_json,
    remarks,
)
from overread.cli.versions import (
    cases_between,
    compared,
    differences,
    facts_of,
    print_cases,
    print_changes,
    print_decision,
    print_facts,
)

if TYPE_CHECKING:
    from overread.learning.champions import ChampionStore, Version
    from overread.state.database import Database
    from overread.state.decisions import DecisionRow

models = typer.Typer(invoke_without_command=True, help="The models that are in service, and those that were.")

RecipeArgument = Annotated[str, typer.Argument(metavar="MODEL", help="Name under which the model is served.")]
VERSION_HELP = "A version, as `overread models show MODEL` names it; its first letters are enough."
SHORT_REASON = 60


@models.callback()
def every(
    context: typer.Context, app: AppOption = None, models: ModelsOption = None, as_json: JsonOption = False
) -> None:
    """The models that are in service, and those that were. Without a command: `list`.

    Examples:

        overread models

        overread models show liver

        overread models rollback liver
    """
    if context.invoked_subcommand is None:
        list_models(app, models, as_json)
    elif app or models or as_json:
        raise typer.BadParameter(
            f"options belong behind the command: overread models {context.invoked_subcommand} …"
        )


@models.command("list")
def list_models(app: AppOption = None, models: ModelsOption = None, as_json: JsonOption = False) -> None:
    """List the champions: the models that the server offers and `predict` uses.

    Examples:

        overread models list

        overread models list --json
    """
    store = champion_store(app, models)
    rows = [_row(store, name) for name in store.recipes()]
    if as_json:
        print_json(rows)
        return
    if not rows:
        answers.print(
            f"No champion in {store.root}. Train one with `overread train NAME --data DIR`.", markup=False
        )
        return
    table = Table(box=None)
    for heading in ("model", "champion", "kind", "members", "calibrated", "versions", "classes"):
        table.add_column(heading, no_wrap=heading != "classes")
    for row in rows:
        if "damage" in row:
            table.add_row(row["name"], "damaged", "", "", "", "", escape(row["damage"]))
            continue
        calibrated = "yes" if row["bands"] else "no"
        cells = (
            row["kind"],
            str(row["members"]),
            calibrated,
            str(row["versions"]),
            ", ".join(row["classes"]),
        )
        table.add_row(row["name"], row["champion"], *map(escape, cells))
    answers.print(table)


@models.command()
def show(
    recipe: RecipeArgument,
    version: Annotated[str | None, typer.Argument(help=VERSION_HELP, show_default=False)] = None,
    app: AppOption = None,
    models: ModelsOption = None,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """All versions of a model, or all that is known of one: data, calibration, and what the gate decided.

    Examples:

        overread models show liver

        overread models show liver 3f1c --json
    """
    store = champion_store(app, models)
    with _decided(app, database, models) as decided:
        if version is not None:
            facts = facts_of(_one(store, recipe, version), decided)
            print_json(facts) if as_json else print_facts(recipe, facts)
            return
        rows = [facts_of(found, decided) for found in store.versions(recipe)]
    if as_json:
        print_json(rows)
        return
    table = Table(box=None)
    for heading in ("version", "parent", "status", "since", "cases", "decision"):
        table.add_column(heading, no_wrap=heading != "decision")
    for row in rows:
        reason = row["decision"]["reason"] if row["decision"] else row["damage"]
        short = reason if len(reason) <= SHORT_REASON else f"{reason[:SHORT_REASON].rstrip()} …"
        cases = "" if row["cases"] is None else str(row["cases"])
        table.add_row(
            row["version"], row["parent"] or "–", row["status"], row["since"] or "–", cases, escape(short)
        )
    answers.print(table)


@models.command()
def diff(
    recipe: RecipeArgument,
    first: Annotated[str, typer.Argument(help=VERSION_HELP)],
    second: Annotated[str, typer.Argument(help="The version to compare it with.")],
    app: AppOption = None,
    models: ModelsOption = None,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """What is different between two versions: data, calibration, plan, and how the gate saw them.

    Examples:

        overread models diff liver 3f1c 88ab
    """
    store = champion_store(app, models)
    with _decided(app, database, models) as decided:
        one, other = (_one(store, recipe, name) for name in (first, second))
        pair = [facts_of(version, decided) for version in (one, other)]
    changes = differences(
        *(compared(version, facts) for version, facts in zip((one, other), pair, strict=True))
    )
    data = cases_between(one, other)
    between = [
        row.report | {"reason": row.reason}
        for row in decided
        if {row.champion, row.challenger} == {one.identity, other.identity}
    ]
    answer = {
        "versions": [one.identity, other.identity],
        "changes": {name: {"first": old, "second": new} for name, (old, new) in changes.items()},
        "cases": data,
        "decision": between[-1] if between else None,
    }
    if as_json:
        print_json(answer)
        return
    if not changes:
        answers.print(f"{one.identity} and {other.identity} differ in their weights only.", highlight=False)
    else:
        print_changes([one.identity, other.identity], changes)
    print_cases(data)
    if between:
        print_decision(between[-1])


@models.command()
def rollback(
    recipe: RecipeArgument,
    version: Annotated[str | None, typer.Argument(help=VERSION_HELP, show_default=False)] = None,
    app: AppOption = None,
    models: ModelsOption = None,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put an earlier champion back into service: the one before, or the one that is named.

    The running server takes it from its next request on. Nothing is deleted.

    Examples:

        overread models rollback liver

        overread models rollback liver 3f1c
    """
    from overread.learning.versions import roll_back

    store = champion_store(app, models)
    with _known_database(app, database, models) as opened:
        folder = roll_back(opened, store, recipe, version, actor="overread models", now=time.time())
        noted = opened is not None
    if as_json:
        print_json({"model": recipe, "champion": folder.name, "folder": str(folder), "noted": noted})
        return
    answers.print(f"{folder.name} is the champion of {recipe} again.", highlight=False)
    if not noted:
        remarks.print(
            "There is no database beside the champions: the audit log does not know.", highlight=False
        )


def _row(store: ChampionStore, recipe: str) -> dict[str, Any]:
    from overread.domain import BadInputError
    from overread.ensemble.storage import calibration_from_json, read_description

    try:
        folder = store.current(recipe)
    except BadInputError as error:
        return {"name": recipe, "champion": None, "damage": str(error)}
    description = read_description(folder)
    calibration = calibration_from_json(description.get("calibration"))
    return {
        "name": recipe,
        "champion": folder.name,
        "kind": description["kind"],
        "members": len(description["members"]),
        "classes": list(description["classes"]),
        "channels": list(description["channels"]),
        "temperature": calibration.temperature,
        "bands": sorted(calibration.bands),
        "cascade": None if calibration.cascade is None else asdict(calibration.cascade),
        "versions": len(store.versions(recipe)),
        "folder": str(folder),
    }


def _one(store: ChampionStore, recipe: str, name: str) -> Version:
    folder = store.folder(recipe, name)
    return next(version for version in store.versions(recipe) if version.folder == folder)


@contextmanager
def _known_database(app: Any, database: str | None, models: Any) -> Iterator[Database | None]:
    """The database where there is one; None where champions lie in a folder of their own, without an app."""
    from overread.domain import NotFoundError
    from overread.state.database import Database

    if models is not None and database is None:
        yield None
        return
    try:
        opened = Database.open(database_place(app, database), must_exist=True)
    except NotFoundError:
        if database is not None:
            raise
        yield None
        return
    try:
        yield opened
    finally:
        opened.close()


@contextmanager
def _decided(app: Any, database: str | None, models: Any) -> Iterator[list[DecisionRow]]:
    """What the gate decided so far; nothing where there is no database."""
    from overread.state.decisions import decisions

    with _known_database(app, database, models) as opened:
        if opened is None:
            yield []
            return
        with opened.reading() as c:
            found = decisions(c)
        yield found
