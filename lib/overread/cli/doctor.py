"""`overread doctor`: what is wrong with this installation, and the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from overread.cli import checks
from overread.cli.console import (
    AppOption,
    DeviceOption,
    JsonOption,
    answers,
    app_folder,
    champion_store,
    chosen_device,
    print_json,
)
from overread.cli.serve import HOST, PORT, HostOption, PortOption

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(
    app: AppOption = None,
    studies: Annotated[
        Path | None, typer.Option(help="Folder of studies that will be served; checked for write access.")
    ] = None,
    host: HostOption = HOST,
    port: PortOption = PORT,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Say what is wrong with this installation, and the remedy.

    Looks at Python, at versions that do not fit together, the GPU and its memory, main memory, disk, write
    access, the port, and lets every champion predict a small volume. Exits with 1 where something fails.

    Examples:

        overread doctor

        overread doctor --studies ~/studies --port 8001 --json
    """
    findings: list[checks.Finding] = []
    for finding in _examine(app, studies, host, port, device):
        findings.append(finding)
        if not as_json:
            _print(finding)
    failed = sum(finding.verdict == "fail" for finding in findings)
    if as_json:
        print_json({"ok": failed == 0, "findings": [asdict(finding) for finding in findings]})
    elif failed:
        answers.print(f"\n{failed} of {len(findings)} checks failed.")
    else:
        answers.print("\nNothing stands in the way.")
    if failed:
        raise typer.Exit(1)


def _examine(
    app: Path | None, studies: Path | None, host: str, port: int, device: str
) -> Iterator[checks.Finding]:
    yield checks.check_python()
    yield from checks.check_versions()
    yield checks.check_monailabel_command()
    gpu = checks.check_gpu()
    yield gpu
    yield checks.check_memory()
    yield checks.check_port(host, port)
    if studies is not None:
        yield from checks.check_folder("studies", studies.expanduser())
    try:
        folder = app_folder(app)
    except typer.BadParameter as error:
        yield checks.Finding("app", "fail", error.message, "name the app's folder with --app")
        return
    yield from checks.check_folder("app", folder)
    if gpu.verdict != "fail":
        yield from checks.check_models(champion_store(app, None), chosen_device(device))


def _print(finding: checks.Finding) -> None:
    colour = COLOURS[finding.verdict]
    answers.print(
        f"[{colour}]{finding.verdict:<4}[/{colour}]  [bold]{escape(finding.topic)}[/bold]: {escape(finding.message)}",
        highlight=False,
        soft_wrap=True,
    )
    if finding.remedy:
        answers.print(f"      → {escape(finding.remedy)}", highlight=False, soft_wrap=True)
