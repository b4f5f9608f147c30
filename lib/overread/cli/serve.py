"""`overread serve`: the MONAI Label server over a folder of studies."""

from __future__ import annotations

import os
import socket
import ssl
import sys
from pathlib import Path
from typing import Annotated

import typer

from overread.cli.console import AppOption, app_folder, remarks

HOST = "127.0.0.1"
PORT = 8000

HostOption = Annotated[
    str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in, once there are users.")
]
PortOption = Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")]


def serve(
    studies: Annotated[
        Path,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Folder of images (.nii.gz, .nrrd, .svs, .ndpi, …); labels are saved below it, in labels/.",
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
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Certificate in PEM form, with those that vouch for it: serve over https.",
        ),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Its private key in PEM form, without a password."),
    ] = None,
    allow_anonymous: Annotated[
        bool,
        typer.Option(
            "--allow-anonymous",
            help="Let other machines in though there are no users. Everybody may all then.",
        ),
    ] = False,
) -> None:
    """Serve the champions to 3D Slicer, QuPath and other MONAI Label clients.

    The same as `monailabel start_server --app apps/radiology --studies DIR --host 127.0.0.1 --port 8000`, from
    any folder, and with spaces in paths. Stop it with Ctrl-C.

    Examples:

        overread serve --studies ~/studies

        overread serve --app pathology --studies ~/slides

        overread serve --studies /data/ct --port 8001 --conf models=liver,spleen

        overread serve --studies ~/studies --conf train_after=10 --conf control_share=0.3

        overread serve --studies ~/studies --host 0.0.0.0 --tls-cert server.pem --tls-key server.key
    """
    folder, settings = app_folder(app), [*(conf or []), *(["allow_anonymous=yes"] if allow_anonymous else [])]
    refuse_strangers(folder, host, settings)
    refuse_port_in_use(host, port)
    tls = checked_certificate(tls_cert, tls_key)
    command = server_command(folder, studies.expanduser().resolve(), host, port, settings, tls)
    remarks.print(
        f"Starting MONAI Label on http{'s' if tls else ''}://{host}:{port}; this takes up to a minute.",
        highlight=False,
    )
    os.execv(command[0], command)


def server_command(
    app: Path, studies: Path, host: str, port: int, conf: list[str], tls: tuple[Path, Path] | None = None
) -> list[str]:
    """The call of MONAI Label, argument by argument. Raises typer.BadParameter for a setting without `=`.

    Args:
        tls: certificate and key.
    """
    command = [sys.executable, "-m", "monailabel.main", "start_server"]
    command += ["--app", str(app), "--studies", str(studies), "--host", host, "--port", str(port)]
    for setting in conf:
        key, equals, value = setting.partition("=")
        if not (key and equals):
            raise typer.BadParameter(f"--conf {setting!r} should be KEY=VALUE, such as models=liver")
        command += ["--conf", key, value]
    if tls is not None:
        command += ["--ssl_certfile", str(tls[0]), "--ssl_keyfile", str(tls[1])]
    return command


def refuse_strangers(app: Path, host: str, conf: list[str]) -> None:
    """Raise BadInputError where other machines would be let in without a login, before MONAI Label is loaded.

    The server itself refuses too, however it is started, and reads the settings by their own rules.
    """
    from overread.access import UsersFile
    from overread.access.exposure import check_exposure
    from overread.access.users import default_users

    said = {key: value for key, _, value in (setting.partition("=") for setting in conf)}
    # Where MONAI Label's OpenID provider knows the users, everybody has to log in.
    if os.environ.get("MONAI_LABEL_AUTH_ENABLE", "").lower() in ("1", "true", "yes", "on"):
        return
    users = UsersFile(Path(said["users"]) if said.get("users") else default_users(app))
    check_exposure(host, not users.is_empty(), said.get("allow_anonymous", "").lower() in ("yes", "true"))


def checked_certificate(certificate: Path | None, key: Path | None) -> tuple[Path, Path] | None:
    """Certificate and key as absolute paths; None for neither.

    Raises typer.BadParameter for one without the other, or two that do not belong together.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise typer.BadParameter("--tls-cert and --tls-key belong together; give both, or neither")

    def no_password() -> str:
        raise ValueError("the key has a password")

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, no_password)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(
            f"{certificate} and {key} are no certificate and its key in PEM form, without a password: {error}"
        ) from error
    return certificate.resolve(), key.resolve()


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
