"""`overread models`: which champions there are."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from overread.cli.console import AppOption, JsonOption, ModelsOption, answers, champion_store, print_json


def models(app: AppOption = None, models: ModelsOption = None, as_json: JsonOption = False) -> None:
    """List the champions: the models that the server offers and `predict` uses.

    Examples:

        overread models

        overread models --json
    """
    store = champion_store(app, models)
    rows = [_row(store.current(name)) for name in store.recipes()]
    if as_json:
        print_json(rows)
        return
    if not rows:
        answers.print(
            f"No champion in {store.root}. Train one with `overread train NAME --data DIR`.", markup=False
        )
        return
    table = Table(box=None)
    for heading in ("model", "champion", "kind", "members", "calibrated", "classes"):
        table.add_column(heading, no_wrap=heading != "classes")
    for row in rows:
        calibrated = "yes" if row["bands"] else "no"
        classes = ", ".join(row["classes"])
        table.add_row(row["name"], row["champion"], row["kind"], str(row["members"]), calibrated, classes)
    answers.print(table)


def _row(folder: Any) -> dict[str, Any]:
    from overread.ensemble.storage import calibration_from_json, read_description

    description = read_description(folder)
    calibration = calibration_from_json(description.get("calibration"))
    return {
        "name": folder.parent.name,
        "champion": folder.name,
        "kind": description["kind"],
        "members": len(description["members"]),
        "classes": list(description["classes"]),
        "channels": list(description["channels"]),
        "temperature": calibration.temperature,
        "bands": sorted(calibration.bands),
        "folder": str(folder),
    }
