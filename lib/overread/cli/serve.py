"""`overread serve`: the MONAI Label server over a folder of studies."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from overread.cli.console import AppOption, app_folder, remarks

HOST = "127.0.0.1"
PORT = 8000

HostOption = Annotated[
    str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in, without any password.")
]
PortOption = Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")]


def serve(
    studies: Annotated[
        str,
        typer.Option(
            metavar="DIR|URL",
            help="Folder of images (.nii.gz, .nrrd, .svs, .ndpi, …), where labels are saved in labels/; or the "
            "address of a PACS' DICOMweb.",
        ),
    ],
    app: AppOption = None,
    host: HostOption = HOST,
    port: PortOption = PORT,
    conf: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="A setting of the app, as in MONAI Label's --conf; may be repeated."
        ),
    ] = None,
) -> None:
    """Serve the champions to 3D Slicer, QuPath and other MONAI Label clients.

    The same as `monailabel start_server --app apps/radiology --studies DIR --host 127.0.0.1 --port 8000`, from
    any folder, and with spaces in paths. Stop it with Ctrl-C.

    Examples:

        overread serve --studies ~/studies

        overread serve --app pathology --studies ~/slides

        overread serve --studies http://127.0.0.1:8042/dicom-web

        overread serve --studies /data/ct --port 8001 --conf models=liver,spleen

        overread serve --studies ~/studies --conf train_after=10 --conf control_share=0.3
    """
    refuse_port_in_use(host, port)
    command = server_command(app_folder(app), checked_studies(studies), host, port, conf or [])
    remarks.print(
        f"Starting MONAI Label on http://{host}:{port}; this takes up to a minute.", highlight=False
    )
    os.execv(command[0], command)


def checked_studies(studies: str) -> str | Path:
    """The address of a PACS as it is, or a folder. Raises typer.BadParameter where there is no such folder."""
    if studies.startswith(("http://", "https://")):
        return studies
    folder = Path(studies).expanduser().resolve()
    if not folder.is_dir():
        raise typer.BadParameter(f"--studies {studies}: the folder does not exist")
    return folder


def server_command(app: Path, studies: Path | str, host: str, port: int, conf: list[str]) -> list[str]:
    """The call of MONAI Label, argument by argument. Raises typer.BadParameter for a setting without `=`."""
    command = [sys.executable, "-m", "monailabel.main", "start_server"]
    command += ["--app", str(app), "--studies", str(studies), "--host", host, "--port", str(port)]
    for setting in conf:
        key, equals, value = setting.partition("=")
        if not (key and equals):
            raise typer.BadParameter(f"--conf {setting!r} should be KEY=VALUE, such as models=liver")
        command += ["--conf", key, value]
    return command


def is_port_in_use(host: str, port: int) -> bool:
    """Whether somebody listens there already, or this machine refuses us the address."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


def refuse_port_in_use(host: str, port: int) -> None:
    """Raise typer.BadParameter where the server could not listen."""
    if is_port_in_use(host, port):
        raise typer.BadParameter(
            f"port {port} on {host} is in use, perhaps by another server; stop that one or choose --port {port + 1}"
        )
