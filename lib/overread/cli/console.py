"""What all commands share: where things are, what is printed where, progress bars."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

import overread

if TYPE_CHECKING:
    from overread.learning.champions import ChampionStore
    from overread.state.database import Database

APPS = Path("apps")
APP = APPS / "radiology"

# Where no bar can be shown, how often a line tells how far things are.
LOG_EVERY_S = 30.0

# Progress and remarks go to stderr: what a script reads from stdout is the answer alone.
remarks = Console(stderr=True)
answers = Console()

AppOption = Annotated[
    Path | None,
    typer.Option(
        "--app",
        envvar="OVERREAD_APP",
        help="Folder of the MONAI Label app, whose model/ holds the champions; or the name of one of the project's: "
        "radiology, pathology. [default: radiology]",
        show_default=False,
    ),
]
ModelsOption = Annotated[
    Path | None,
    typer.Option(
        "--models", help="Folder of champions. [default: model/ in the app folder]", show_default=False
    ),
]
DatabaseOption = Annotated[
    str | None,
    typer.Option(
        "--database",
        envvar="OVERREAD_DATABASE",
        help="File or URL of the database. [default: state/overread.db in the app folder]",
        show_default=False,
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(help="`cpu`, `cuda`, `cuda:1`, …; `auto` takes the first GPU there is."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the answer as JSON on stdout.")]


def project_root() -> Path:
    """Folder of the source checkout; of an installed wheel this is a folder without `apps/`."""
    return Path(overread.__file__).resolve().parents[2]


def app_folder(app: Path | None) -> Path:
    """The MONAI Label app that is served: a folder, or the name of one below the project's `apps/`.

    Raises typer.BadParameter where there is none.
    """
    folder = (app or project_root() / APP).expanduser().resolve()
    if (folder / "main.py").is_file():
        return folder
    if app is not None and len(app.parts) == 1 and (project_root() / APPS / app / "main.py").is_file():
        return (project_root() / APPS / app).resolve()
    if app is None:
        raise typer.BadParameter(
            f"the app is looked for at {folder}, beside the source code, and is not there; "
            "name the folder apps/radiology of a source checkout with --app"
        )
    raise typer.BadParameter(f"{folder} holds no main.py: it is not a MONAI Label app folder")


def champion_store(app: Path | None, models: Path | None) -> ChampionStore:
    """The champions in `models`, or else those of the app."""
    from overread.learning.champions import ChampionStore

    return ChampionStore(models.expanduser().resolve() if models else app_folder(app) / "model")


def database_place(app: Path | None, database: str | None) -> Path | str:
    """File or URL of the database: `database`, or else the app's own."""
    from overread.state.database import default_path

    return database or default_path(app_folder(app))


@contextmanager
def existing_database(app: Path | None, database: str | None) -> Iterator[Database]:
    """The database at `database_place`, closed at the end. Raises NotFoundError where its file is not there."""
    from overread.state.database import Database

    opened = Database.open(database_place(app, database), must_exist=True)
    try:
        yield opened
    finally:
        opened.close()


def chosen_device(name: str) -> str:
    """A device that is there, by PyTorch's name; see `overread.ensemble.compute`."""
    from overread.ensemble.compute import choose_device

    return str(choose_device(name))


def print_json(answer: Any) -> None:
    """One JSON document on stdout."""
    typer.echo(json.dumps(answer, indent=2, default=str, allow_nan=False))


class LoggedProgress(Progress):
    """Bars where somebody watches; in a log, where a bar would say nothing before it ends, a line now and then."""

    def __init__(self, *columns: ProgressColumn, console: Console) -> None:
        super().__init__(*columns, console=console)
        self._told_at = time.monotonic()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """See `rich.progress.Progress`."""
        super().update(task_id, **changes)
        if self.console.is_terminal or time.monotonic() - self._told_at < LOG_EVERY_S:
            return
        self._told_at = time.monotonic()
        (task,) = (each for each in self.tasks if each.id == task_id)
        line = f"{time.strftime('%H:%M:%S')} {task.percentage:>3.0f} % {task.description}"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def progress_bar() -> Progress:
    """A bar on stderr, with a text that the command updates; lines where stderr is no terminal."""
    return LoggedProgress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        console=remarks,
    )


def waiting(text: str) -> AbstractContextManager[Any]:
    """A spinner on stderr for work that cannot say how far it is."""
    return remarks.status(text)
