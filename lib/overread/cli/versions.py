"""What is known of a version of a model, and of two side by side: facts, and how they are printed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from overread.cli.console import answers

if TYPE_CHECKING:
    from overread.learning.champions import Version
    from overread.state.decisions import DecisionRow


def facts_of(version: Version, decided: list[DecisionRow]) -> dict[str, Any]:
    """All that is known of a version, as plain JSON.

    Args:
        decided: what the gate decided about the model so far.
    """
    from overread.ensemble.storage import calibration_from_json

    description = version.description
    calibration = calibration_from_json(description.get("calibration"))
    training = description.get("plan", {}).get("training", {})
    about = [row for row in decided if row.challenger == version.identity]
    status = "champion" if version.is_champion else "retired" if version.terms else "not in service"
    return {
        "version": version.identity,
        "folder": str(version.folder),
        "parent": version.parent,
        "status": "damaged" if version.damage else status,
        "damage": version.damage,
        "since": version.terms[-1].since if version.terms else None,
        "terms": [{"since": term.since, "why": term.why} for term in version.terms],
        "kind": description.get("kind"),
        "members": len(description.get("members", [])),
        "classes": list(description.get("classes", [])),
        "cases": training.get("cases"),
        "central": training.get("central"),
        "local": training.get("local"),
        "protected": training.get("protected"),
        "temperature": calibration.temperature,
        "ece_before": calibration.ece_before,
        "ece_after": calibration.ece_after,
        "retraining": description.get("retraining"),
        "decision": about[-1].report | {"decided_at": about[-1].decided_at} if about else None,
    }


def print_facts(recipe: str, facts: dict[str, Any]) -> None:
    """What `facts_of` found, a row each, and the gate's tables."""
    hidden = ("decision", "terms", "retraining")
    table = Table(show_header=False, box=None)
    table.add_row("model", recipe)
    for name, value in facts.items():
        if name not in hidden and value not in (None, "", []):
            table.add_row(name.replace("_", " "), escape(_short(value)))
    for term in facts["terms"]:
        table.add_row("in service from", escape(f"{term['since']} {term['why']}".strip()))
    answers.print(table)
    if facts["decision"]:
        print_decision(facts["decision"])


def print_decision(report: dict[str, Any]) -> None:
    """The gate's reason, and its tables per class and per case."""
    answers.print(f"\nThe gate: {report['reason']}", markup=False, highlight=False, soft_wrap=True)
    for kind in ("local", "central"):
        comparison = report.get(kind)
        if not comparison:
            continue
        table = Table(f"{kind} Dice", "cases", "before", "after", "difference", box=None)
        for name, row in comparison["per_class"].items():
            table.add_row(
                escape(name), str(row["cases"]), *(f"{row[key]:.3f}" for key in ("before", "after")),
                f"{row['difference']:+.3f}",
            )  # fmt: skip
        for row in comparison["cases"]:
            before, after = (sum(row[key].values()) / len(row[key]) for key in ("before", "after"))
            table.add_row(
                f"  {escape(row['case'])}", "", f"{before:.3f}", f"{after:.3f}", f"{row['difference']:+.3f}"
            )
        answers.print(table)


def compared(version: Version, facts: dict[str, Any]) -> dict[str, Any]:
    """What two versions are compared by."""
    plan = {
        name: value
        for name, value in version.description.get("plan", {}).items()
        if name not in ("held_out", "learnt", "training")
    }
    names = ("kind", "members", "classes", "cases", "central", "local", "protected", "temperature")
    names += ("ece_before", "ece_after", "retraining")
    return {name: facts[name] for name in names} | {"plan": plan}


def differences(first: dict[str, Any], second: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs between two descriptions, by name; nested names as `outer.inner`."""
    one, other = _flat(first), _flat(second)
    names = [*one, *(name for name in other if name not in one)]
    return {name: (one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)}


def cases_between(first: Version, second: Version) -> dict[str, dict[str, list[str]]]:
    """Cases that the second learnt from and the first did not, and the other way round, by where they come from.

    Nothing is said of a version that did not write its cases down.
    """
    one, other = (version.description.get("data") for version in (first, second))
    found = {}
    for kind in ("central", "local"):
        # Who was not retrained saw no local case.
        before = set((one or {}).get(kind, {}))
        after = set((other or {}).get(kind, {}))
        known = kind == "local" or (one is not None and other is not None)
        found[kind] = {
            "added": sorted(after - before) if known else [],
            "removed": sorted(before - after) if known else [],
        }
    return found


def print_changes(versions: list[str], changes: dict[str, tuple[Any, Any]]) -> None:
    """A row for each thing that differs."""
    table = Table("", *versions, box=None)
    for name, values in changes.items():
        table.add_row(escape(name), *(escape(_short(value)) for value in values))
    answers.print(table)


def print_cases(cases: dict[str, dict[str, list[str]]]) -> None:
    """What `cases_between` found, a line each."""
    for kind, names in cases.items():
        for what, found in names.items():
            if found:
                line = f"{kind} cases {what}: {', '.join(found)}"
                answers.print(line, markup=False, highlight=False, soft_wrap=True)


def _flat(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{above}{name}.")
        else:
            found[above + name] = value
    return found


def _short(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
