"""A PostgreSQL server of one's own: in a temporary folder, on a port of this machine, as a user who is not root."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# Debian keeps the server's programs off the PATH.
DEBIAN = Path("/usr/lib/postgresql")


def programs() -> Path:
    """Folder of `initdb` and `pg_ctl`; skips the test where there is none."""
    on_path = shutil.which("initdb")
    found = [Path(on_path).parent] if on_path else []
    found += sorted((file.parent for file in DEBIAN.glob("*/bin/initdb")), reverse=True)
    if not found:
        pytest.skip("no PostgreSQL server is installed (Debian: apt install postgresql)")
    return found[0]


@contextmanager
def postgres_server() -> Iterator[str]:
    """URL of the server, without a database's name at its end."""
    bin_folder = programs()
    # PostgreSQL refuses to run as root; Debian's package brings a user for it.
    prefix = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if prefix and not shutil.which("runuser"):
        pytest.skip("PostgreSQL refuses to run as root, and there is no runuser to become another user")
    # Not in pytest's folder, which other users cannot enter.
    folder = Path(tempfile.mkdtemp(prefix="overread-postgres-"))
    if prefix:
        shutil.chown(folder, "postgres")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]

    def do(program: str, *arguments: str) -> None:
        log = folder / "commands.log"
        with log.open("a") as stream:
            done = subprocess.run(
                [*prefix, str(bin_folder / program), "-D", str(folder / "data"), *arguments],
                cwd=folder,
                stdout=stream,
                stderr=subprocess.STDOUT,
                timeout=120,
            )
        assert done.returncode == 0, log.read_text()

    try:
        do("initdb", "--auth=trust", "--username=overread", "--encoding=UTF8", "--locale=C", "--no-sync")
        settings = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        do("pg_ctl", "start", "-w", "-l", str(folder / "server.log"), "-o", settings)
        try:
            yield f"postgresql://overread@127.0.0.1:{port}"
        finally:
            do("pg_ctl", "stop", "-w", "-m", "immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
