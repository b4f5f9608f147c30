"""`overread demo`: from nothing to a served model on sample data."""

from __future__ import annotations

import re
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
    AppOption,
    DeviceOption,
    app_folder,
    champion_store,
    project_root,
    remarks,
    waiting,
)
from overread.cli.serve import HOST, PORT, HostOption, PortOption, refuse_port_in_use, server_command
from overread.cli.train import learn

if TYPE_CHECKING:
    from overread.learning.champions import ChampionStore

RECIPE = "liver_phantom"
# Training steps of all members together; preparing the cases and calibration come on top.
TRAINING_MINUTES = 3.5
LAST_LOG_LINES = 20


def demo(
    host: HostOption = HOST,
    port: PortOption = PORT,
    app: AppOption = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Working folder for sample data's copy and the log. [default: .demo]", show_default=False
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Sample studies; made where they are missing. [default: sample-data/phantom]",
            show_default=False,
        ),
    ] = None,
    minutes: Annotated[
        float, typer.Option(min=0.05, help="Training time of the starter model, all members together.")
    ] = TRAINING_MINUTES,
    device: DeviceOption = "auto",
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh", help="Start from unlabelled studies again; labels of earlier demos are lost."
        ),
    ] = False,
    serve: Annotated[bool, typer.Option(help="Start the server, or only prepare everything for it.")] = True,
) -> None:
    """Make sample data, train a starter model, serve it, and say what to click in 3D Slicer.

    The first run trains for a few minutes; later ones reuse data and model. The server works on a copy of the
    sample studies in .demo/studies, so the sample data stay as they are. Stop it with Ctrl-C.

    Examples:

        overread demo

        overread demo --port 8001 --fresh
    """
    app_dir = app_folder(app)
    if serve:
        refuse_port_in_use(host, port)
    sample = (data or project_root() / "sample-data" / "phantom").expanduser().resolve()
    working = (folder or project_root() / ".demo").expanduser().resolve()
    _make_sample_data(sample)
    _make_starter_champion(app_dir, sample, minutes, device)
    studies = working / "studies"
    if fresh:
        shutil.rmtree(studies, ignore_errors=True)
    copy_studies(sample / "imagesTs", studies)
    remarks.print(
        "To see first what asking by doubt may bring, about a minute: "
        f"overread simulate {RECIPE} --data '{sample}' --quick --jobs 2",
        highlight=False,
        soft_wrap=True,
    )
    if serve:
        raise typer.Exit(_serve(server_command(app_dir, studies, host, port, []), working, host, port))
    remarks.print(f"Ready: overread serve --studies '{studies}'", highlight=False, soft_wrap=True)


def copy_studies(images: Path, studies: Path) -> None:
    """Copy images that are not there yet, named by case: the server writes labels and a database beside them."""
    studies.mkdir(parents=True, exist_ok=True)
    for image in sorted(images.glob("*.nii.gz")):
        target = studies / re.sub(r"_0000(?=\.nii\.gz$)", "", image.name)
        if not target.exists():
            shutil.copyfile(image, target)


def _make_sample_data(sample: Path) -> None:
    if (sample / "dataset.json").exists():
        return
    from overread.studies.phantom import make_phantoms

    with waiting("Making sample data: computed phantoms, no patient stands behind them"):
        make_phantoms(sample)


def _make_starter_champion(app: Path, sample: Path, minutes: float, device: str) -> None:
    store = champion_store(app, None)
    if RECIPE in store.recipes():
        _locate_sample_data(store, sample)
        return
    remarks.print(
        f"Training the starter model {RECIPE} for about {minutes:g} minutes; this happens once.",
        highlight=False,
        soft_wrap=True,
    )
    learn(RECIPE, sample, store, minutes=minutes, device=device)


def _locate_sample_data(store: ChampionStore, sample: Path) -> None:
    """A starter model of an earlier version does not know its data yet; without them it could not learn on."""
    from overread.domain import BadInputError
    from overread.learning.central import FILE
    from overread.learning.training_set import locate_central

    champion = store.current(RECIPE)
    if (champion.parent / FILE).exists():
        return
    try:
        locate_central(champion, sample)
    except BadInputError as error:
        remarks.print(f"{RECIPE} is served, but cannot learn on: {error}", markup=False, highlight=False)


def _serve(command: list[str], working: Path, host: str, port: int) -> int:
    """Run the server until it ends or Ctrl-C; returns the exit code for the command."""
    log_file = working / "server.log"
    with log_file.open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=working)
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    try:
        with waiting("Starting the server; the first start takes up to a minute"):
            is_up = _wait_until_up(server, f"http://{host}:{port}/info/")
        if is_up:
            remarks.print(_what_to_click(host, port, log_file))
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


def _what_to_click(host: str, port: int, log_file: Path) -> Panel:
    return Panel(
        f"[bold]The server is up: http://{host}:{port}[/bold]\n\n"
        "In 3D Slicer:\n"
        "  1. Once: View > Extensions Manager, install [bold]MONAILabel[/bold], restart.\n"
        "  2. Modules > Active Learning > [bold]MONAILabel[/bold].\n"
        f"  3. MONAI Label server: [bold]http://{host}:{port}[/bold], then the round arrow.\n"
        "  4. [bold]Next Sample[/bold] loads a study.\n"
        f"  5. Auto Segmentation > model [bold]{RECIPE}[/bold] > [bold]Run[/bold].\n"
        "     `doubt: high` and `doubt: moderate` mark the regions to look at.\n"
        "  6. Correct with the Segment Editor below, then [bold]Submit Label[/bold].\n"
        "     Doubt is not saved with the label.\n"
        "  7. [bold]Next Sample[/bold] again: the volume's name says why this study was chosen.\n"
        "  8. After a few labels [bold]Train[/bold]: the networks learn from them for some minutes, and what they\n"
        "     become is served only if it is better on studies that it never learnt from.\n"
        "     [bold]overread watch[/bold] and [bold]overread models list[/bold] show how that goes.\n\n"
        f"Server log: {log_file}\n"
        "Ctrl-C stops the server. Research software, not a medical device.",
        title="Overread",
        expand=False,
    )
