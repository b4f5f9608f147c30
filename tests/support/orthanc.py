"""A PACS of one's own: Debian's Orthanc with its DICOMweb plugin, on a port of this machine, in a temporary folder."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 30
# Debian keeps the program where only root's PATH looks.
DEBIAN_PROGRAMS = ("/usr/sbin/Orthanc", "/usr/bin/Orthanc")
DEBIAN_PLUGINS = ("/usr/share/orthanc/plugins", "/usr/lib/orthanc")


def orthanc_program() -> tuple[str, str]:
    """The program and its DICOMweb plugin; skips the test where one is missing."""
    program = shutil.which("Orthanc") or next((p for p in DEBIAN_PROGRAMS if Path(p).exists()), None)
    folders = (Path(folder) for folder in DEBIAN_PLUGINS)
    plugin = next((p for folder in folders for p in sorted(folder.glob("libOrthancDicomWeb.so*"))), None)
    if program is None or plugin is None:
        pytest.skip("no Orthanc with DICOMweb is installed (Debian: apt install orthanc orthanc-dicomweb)")
    return program, str(plugin)


class Orthanc:
    """One PACS, which can be killed and started again on the same port with what it holds.

    Attributes:
        url: base of Orthanc's own REST API.
        dicomweb: base of DICOMweb, as `--studies` takes it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._program, plugin = orthanc_program()
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.dicomweb = f"{self.url}/dicom-web"
        self.log = folder / "orthanc.log"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._configuration = folder / "orthanc.json"
        self._configuration.write_text(
            json.dumps(
                {
                    "Name": "Tests",
                    "StorageDirectory": str(folder / "storage"),
                    "IndexDirectory": str(folder / "storage"),
                    "Plugins": [plugin],
                    "HttpPort": port,
                    "RemoteAccessAllowed": False,
                    "AuthenticationEnabled": False,
                    "DicomServerEnabled": False,
                    "UnknownSopClassAccepted": True,
                    "OverwriteInstances": True,
                    "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": True},
                }
            )
        )

    def start(self) -> None:
        """Start it and wait until DICOMweb answers."""
        with self.log.open("ab") as sink:
            self._process = subprocess.Popen(
                [self._program, str(self._configuration)], stdout=sink, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                if requests.get(f"{self.dicomweb}/studies", params={"limit": 1}, timeout=5).ok:
                    return
            except requests.RequestException:
                time.sleep(0.1)
        self.stop()
        raise RuntimeError(f"Orthanc did not start:\n{self.log.read_text(errors='replace')[-3000:]}")

    def stop(self) -> None:
        """End it in order; what it holds stays."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None

    def kill(self) -> None:
        """End it as a power cut does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def upload(self, files: Iterable[Path]) -> None:
        """Give it DICOM files through its own REST API."""
        for path in files:
            answer = requests.post(f"{self.url}/instances", data=path.read_bytes(), timeout=30)
            assert answer.ok, f"{path.name}: {answer.status_code} {answer.text}"

    def series(self) -> dict[str, str]:
        """Modality of each series it holds, by SeriesInstanceUID."""
        found = requests.get(f"{self.url}/series", params={"expand": ""}, timeout=30).json()
        tags = [each["MainDicomTags"] for each in found]
        return {each["SeriesInstanceUID"]: each.get("Modality", "") for each in tags}

    def instances(self, series_uid: str) -> list[bytes]:
        """The DICOM files of a series, in no order."""
        query = {"Level": "Instance", "Query": {"SeriesInstanceUID": series_uid}}
        ids = requests.post(f"{self.url}/tools/find", json=query, timeout=30).json()
        return [requests.get(f"{self.url}/instances/{each}/file", timeout=30).content for each in ids]


@contextmanager
def running_orthanc(folder: Path, files: Iterable[Path] = ()) -> Iterator[Orthanc]:
    """A PACS that holds these DICOM files, ended with the block; skips the test where Orthanc is not installed.

    Args:
        folder: for what it stores, its settings and `orthanc.log`; made where it does not exist.
    """
    orthanc = Orthanc(folder)
    orthanc.start()
    try:
        orthanc.upload(files)
        yield orthanc
    finally:
        orthanc.stop()
