"""`overread demo`: from nothing to a served model on sample data."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.panel import Panel

from overread.cli.console import (
    DeviceOption,
    app_folder,
    champion_store,
    project_root,
    remarks,
    waiting,
)
from overread.cli.demos import DEMOS, RADIOLOGY, Demo
from overread.cli.serve import HOST, PORT, HostOption, PortOption, refuse_port_in_use, server_command
from overread.cli.train import learn

if TYPE_CHECKING:
    from overread.learning.champions import ChampionStore

LAST_LOG_LINES = 20


def demo(
    which: Annotated[
        str, typer.Argument(help=f"Which app to show: {' or '.join(DEMOS)}.", metavar="[APP]")
    ] = RADIOLOGY.app,
    host: HostOption = HOST,
    port: PortOption = PORT,
    # Not by OVERREAD_APP: which app is shown is said already.
    app: Annotated[
        Path | None,
        typer.Option(help="Folder of the app. [default: that of the demo below apps/]", show_default=False),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Working folder for sample data's copy and the log. [default: .demo, .demo-pathology]",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Sample data; made where they are missing. [default: below sample-data]", show_default=False
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0.05, help="Training time of the starter model, all members together. [default: 3.5]"
        ),
    ] = None,
    device: DeviceOption = "auto",
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh", help="Start from unlabelled studies again; labels of earlier demos are lost."
        ),
    ] = False,
    serve: Annotated[bool, typer.Option(help="Start the server, or only prepare everything for it.")] = True,
) -> None:
    """Make sample data, train a starter model, serve it, and say what to click in 3D Slicer or QuPath.

    The first run trains for a few minutes; later ones reuse data and model. The server works on a copy of the
    sample studies in .demo/studies (.demo-pathology/studies), so the sample data stay as they are. Stop it with Ctrl-C.

    Examples:

        overread demo

        overread demo pathology

        overread demo --port 8001 --fresh
    """
    if which not in DEMOS:
        raise typer.BadParameter(f"there is no demo of {which!r}; there are {', '.join(DEMOS)}")
    shown = DEMOS[which]
    app_dir = app_folder(app or project_root() / "apps" / shown.app)
    if serve:
        refuse_port_in_use(host, port)
    sample = (data or project_root() / "sample-data" / shown.sample).expanduser().resolve()
    working = (folder or project_root() / _working_folder(shown)).expanduser().resolve()
    _make_sample_data(shown, sample)
    _make_starter_champion(shown, app_dir, sample / shown.cases, minutes or shown.minutes, device)
    studies = working / "studies"
    if fresh:
        shutil.rmtree(studies, ignore_errors=True)
    shown.copy(sample, studies)
    if shown.hint:
        hint = shown.hint.format(recipe=shown.recipe, sample=sample)
        remarks.print(hint, highlight=False, soft_wrap=True)
    if serve:
        raise typer.Exit(_serve(shown, server_command(app_dir, studies, host, port, []), working, host, port))
    named = "" if shown is RADIOLOGY else f" --app '{app_dir}'"
    remarks.print(f"Ready: overread serve{named} --studies '{studies}'", highlight=False, soft_wrap=True)


def _working_folder(shown: Demo) -> str:
    return ".demo" if shown is RADIOLOGY else f".demo-{shown.app}"


def _make_sample_data(shown: Demo, sample: Path) -> None:
    if (sample / shown.cases / "dataset.json").exists():
        return
    with waiting(f"Making {shown.wanted}"):
        shown.make(sample)


def _make_starter_champion(shown: Demo, app: Path, cases: Path, minutes: float, device: str) -> None:
    store = champion_store(app, None)
    if shown.recipe in store.recipes():
        _locate_sample_data(store, shown.recipe, cases)
        return
    remarks.print(
        f"Training the starter model {shown.recipe} for about {minutes:g} minutes; this happens once.",
        highlight=False,
        soft_wrap=True,
    )
    learnt = learn(shown.recipe, cases, store, minutes=minutes, device=device)
    if learnt["cascade"]:
        remarks.print(learnt["cascade"], highlight=False)


def _locate_sample_data(store: ChampionStore, recipe: str, cases: Path) -> None:
    """A starter model of an earlier version does not know its data yet; without them it could not learn on."""
    from overread.domain import BadInputError
    from overread.learning.central import FILE
    from overread.learning.training_set import locate_central

    champion = store.current(recipe)
    if (champion.parent / FILE).exists():
        return
    try:
        locate_central(champion, cases)
    except BadInputError as error:
        remarks.print(f"{recipe} is served, but cannot learn on: {error}", markup=False, highlight=False)


def _serve(shown: Demo, command: list[str], working: Path, host: str, port: int) -> int:
    """Run the server until it ends or Ctrl-C; returns the exit code for the command."""
    log_file = working / "server.log"
    with log_file.open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=working)
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    try:
        with waiting("Starting the server; the first start takes up to a minute"):
            is_up = _wait_until_up(server, f"http://{host}:{port}/info/")
        if is_up:
            remarks.print(_what_to_click(shown, host, port, log_file))
        server.wait()
    except KeyboardInterrupt:
        remarks.print("Stopping the server.")
        server.terminate()
        server.wait()
        return 0
    if is_up:
        return 0 if server.returncode in (0, -signal.SIGTERM) else 1
    lines = log_file.read_text(errors="replace").splitlines()[-LAST_LOG_LINES:]
    remarks.print("The server did not start. The end of its log:", style="red")
    remarks.print("\n".join(lines), markup=False, highlight=False)
    remarks.print("`overread doctor` names the usual causes.", highlight=False)
    return 1


def _wait_until_up(server: subprocess.Popen[bytes], address: str) -> bool:
    while server.poll() is None:
        if _answers(address):
            return True
        time.sleep(0.5)
    return False


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _what_to_click(shown: Demo, host: str, port: int, log_file: Path) -> Panel:
    address = f"http://{host}:{port}"
    return Panel(
        f"[bold]The server is up: {address}[/bold]\n\n"
        f"{shown.clicks.format(address=address, recipe=shown.recipe)}\n"
        f"Server log: {log_file}\n"
        "Ctrl-C stops the server. Research software, not a medical device.",
        title="Overread",
        expand=False,
    )
