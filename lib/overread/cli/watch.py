"""`overread watch`: how far training and scoring are, while somebody else runs them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from overread.cli.console import AppOption, JsonOption, answers, app_folder, print_json

SECONDS_BETWEEN_LOOKS = 0.5
PROGRESS = "progress.json"
RUNNING, INTERRUPTED = "running", "interrupted"


def watch(
    app: AppOption = None,
    once: Annotated[bool, typer.Option("--once", help="Tell it once instead of following.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show how far training and scoring are; ends when nothing is trained any more.

    Reads what the server's processes write, from any terminal of this machine.

    Examples:

        overread watch

        overread watch --once --json
    """
    folder = app_folder(app)
    if as_json or once:
        found = look(folder)
        print_json(found) if as_json else _print(found)
        return
    found = look(folder)
    if not _runs(found):
        _print(found)
        return
    with Progress(
        TextColumn("{task.fields[name]}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.description}", markup=False),
        console=answers,
        transient=True,
    ) as bars:
        tasks: dict[str, TaskID] = {}
        while _runs(found):
            for name, share, words in _lines(found):
                if name not in tasks:
                    tasks[name] = bars.add_task(words, total=1, name=name)
                bars.update(tasks[name], completed=share, description=words)
            time.sleep(SECONDS_BETWEEN_LOOKS)
            found = look(folder)
    _print(found)


def look(app: Path) -> dict[str, Any]:
    """What the processes of an app wrote last.

    Returns:
        `training`: by model, the trainer's `progress.json`, with the state `interrupted` where the process that wrote
        `running` is gone. `scoring`: the scorer's, or None where nothing was scored.
    """
    training = {}
    for path in sorted((app / "training").glob(f"*/{PROGRESS}")):
        told = _read(path)
        if told is None:
            continue
        if told.get("state") == RUNNING and not _is_alive(told.get("pid")):
            told["state"] = INTERRUPTED
            told["message"] = (
                "its process is gone; the next start of the server, or the same command, carries on"
            )
        training[path.parent.name] = told
    return {"training": training, "scoring": _read(app / "scoring" / PROGRESS)}


def _runs(found: dict[str, Any]) -> bool:
    return any(told.get("state") == RUNNING for told in found["training"].values())


def _lines(found: dict[str, Any]) -> list[tuple[str, float, str]]:
    """Name, share done, and words of each bar."""
    lines = []
    for recipe, told in found["training"].items():
        words = str(told.get("message") or "")
        if told.get("state") == RUNNING and (left := told.get("seconds_left")):
            words += f", {left / 60:.1f} min left"
        elif told.get("state") != RUNNING:
            words = f"{told.get('state')}: {words}" if not words.startswith(str(told.get("state"))) else words
        lines.append(
            (f"training {recipe}", told.get("epoch", 0) / max(told.get("total_epochs", 1), 1), words)
        )
    if scoring := found["scoring"]:
        done, total = scoring.get("done", 0), scoring.get("total", 0)
        words = f"{done} of {total} cases"
        if left := scoring.get("seconds_left"):
            words += f", {left / 60:.1f} min left"
        lines.append((f"scoring {scoring.get('recipe', '')}", done / total if total else 1.0, words))
    return lines


def _print(found: dict[str, Any]) -> None:
    lines = _lines(found)
    if not lines:
        answers.print("Nothing was trained or scored yet.", highlight=False)
    for name, share, words in lines:
        answers.print(f"{name}  {share:.0%}  {words}", markup=False, highlight=False, soft_wrap=True)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _is_alive(pid: Any) -> bool:
    import psutil

    return (
        isinstance(pid, int)
        and psutil.pid_exists(pid)
        and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    )
