"""What `overread doctor` looks at: each check says what it found and, where that is bad, the remedy."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import shutil
import ssl
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from packaging.specifiers import SpecifierSet

from overread.cli.serve import is_port_in_use

if TYPE_CHECKING:
    from overread.learning.champions import ChampionStore

Verdict = Literal["ok", "warn", "fail"]

MONAILABEL = "monailabel==0.8.5"
# The versions of pyproject.toml that matter, each with what happens otherwise.
VERSIONS = {
    "monailabel": ("==0.8.5", "the server's adapters are written for this release"),
    "monai": (">=1.6", "older releases lack what training uses"),
    "torch": (">=2.6", "nothing runs without PyTorch"),
    "numpy": ("<2", "monailabel 0.8.5 and what it depends on were built for numpy 1"),
    "pydicom": ("<3", "monailabel imports pydicom_seg, which needs modules that pydicom 3 removed: no start"),
    "pynetdicom": ("<3", "pynetdicom 3 needs pydicom 3"),
    "dicomweb-client": ("<0.60", "dicomweb-client 0.60 needs pydicom 3"),
    "fastapi": ("<0.132", "fastapi 0.132 refuses JSON without a Content-Type, which is what QuPath posts"),
    "starlette": ("<1", "starlette 1 does not fit fastapi below 0.132"),
}
GIB = 2**30
DISK_FAIL_GIB, DISK_WARN_GIB = 1, 10  # a champion is 0.1-1 GiB, training keeps patches of every case
# By which an answer at /healthz is known for our server's, see `overread.server.watch.health`.
CHECKS = {"database", "store", "champion", "children"}
ANSWER_S, MOST_BYTES = 5.0, 1 << 20
RAM_WARN_GIB = 8  # five members on a 512x512x300 CT need about that
GPU_WARN_GIB = 4  # a window of 128³ through a full-size network in float16


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report.

    Attributes:
        topic: what was looked at.
        verdict: `ok`; `warn`, it works with a drawback; `fail`, something will not work.
        message: what was found.
        remedy: what to do; empty where nothing needs doing.
    """

    topic: str
    verdict: Verdict
    message: str
    remedy: str = ""


def check_python(version: tuple[int, int] = sys.version_info[:2]) -> Finding:
    """Python 3.11 fits the pinned versions."""
    text = f"{version[0]}.{version[1]} at {sys.executable}"
    if version == (3, 11):
        return Finding("Python", "ok", text)
    return Finding("Python", "fail", f"{text} does not fit", "make the environment again with Python 3.11")


def check_versions() -> Iterator[Finding]:
    """Installed versions against those that work together; one finding for each that does not fit."""
    misfits = 0
    for name, (wanted, reason) in VERSIONS.items():
        remedy = f'pip install "{name}{wanted}"'
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            misfits += 1
            yield Finding(name, "fail", f"is not installed: {reason}", remedy)
            continue
        if not SpecifierSet(wanted).contains(found, prereleases=True):
            misfits += 1
            yield Finding(name, "fail", f"{found} does not fit {wanted}: {reason}", remedy)
    if not misfits:
        versions = ", ".join(
            f"{name} {importlib.metadata.version(name)}" for name in ("monailabel", "monai", "torch")
        )
        yield Finding("versions", "ok", versions)


def check_monailabel_command(folder: Path = Path(sys.executable).parent) -> Finding:
    """The command `monailabel` lies beside the interpreter; uv installs the package without it."""
    if (folder / "monailabel").exists():
        return Finding("monailabel command", "ok", str(folder / "monailabel"))
    return Finding(
        "monailabel command",
        "fail",
        f"{folder} has no `monailabel` (uv installs the package without it)",
        f"pip install --force-reinstall --no-deps {MONAILABEL}; `overread serve` works without it",
    )


def check_gpu() -> Finding:
    """Which GPU PyTorch sees, and how much of its memory is free."""
    if importlib.util.find_spec("torch") is None:
        return Finding("GPU", "fail", "PyTorch is not installed", "run `make demo` again")
    import torch

    if not torch.cuda.is_available():
        if shutil.which("nvidia-smi"):
            return Finding(
                "GPU",
                "warn",
                f"this machine has an NVIDIA driver, but PyTorch {torch.__version__} does not see a GPU",
                "install a CUDA build of torch that fits the driver (`nvidia-smi` shows its CUDA version)",
            )
        return Finding("GPU", "ok", "none; predictions run on the CPU, which takes longer")
    free, total = torch.cuda.mem_get_info()
    text = f"{torch.cuda.get_device_name()}, {free / GIB:.1f} of {total / GIB:.1f} GiB free"
    if free < GPU_WARN_GIB * GIB:
        return Finding("GPU", "warn", text, "stop other programs on the GPU, or use --device cpu")
    return Finding("GPU", "ok", text)


def check_memory() -> Finding:
    """Main memory that programs can still have."""
    import psutil

    memory = psutil.virtual_memory()
    text = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB available"
    if memory.available < RAM_WARN_GIB * GIB:
        return Finding("memory", "warn", text, "large CT volumes may not fit; close other programs")
    return Finding("memory", "ok", text)


def check_folder(topic: str, folder: Path) -> Iterator[Finding]:
    """Whether a folder is there, can be written to and has room."""
    if not folder.exists():
        yield Finding(
            topic, "fail", f"{folder} does not exist", f"mkdir -p '{folder}', or name another folder"
        )
        return
    if not folder.is_dir():
        yield Finding(topic, "fail", f"{folder} is a file, not a folder", "name a folder")
        return
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        yield Finding(
            topic,
            "fail",
            f"{folder} cannot be written to: {error.strerror}",
            "MONAI Label writes there: give this user the right to, or use a copy",
        )
        return
    yield Finding(topic, "ok", f"{folder} can be written to")
    free = shutil.disk_usage(folder).free / GIB
    text = f"{free:.1f} GiB free"
    if free < DISK_WARN_GIB:
        verdict: Verdict = "fail" if free < DISK_FAIL_GIB else "warn"
        yield Finding(
            f"disk of {topic}", verdict, text, "free some space: training and label versions need it"
        )
    else:
        yield Finding(f"disk of {topic}", "ok", text)


def check_port(host: str, port: int) -> Finding:
    """Whether the server can listen, or listens already."""
    if not is_port_in_use(host, port):
        return Finding("port", "ok", f"{port} on {host} is free")
    if status := status_of_server(host, port):
        served = f"{port} on {host} is where Overread is served now, and its health is {status}"
        if status == "ok":
            return Finding("port", "ok", served)
        return Finding("port", "warn", served, "its address /healthz says what is wrong")
    return Finding(
        "port",
        "fail",
        f"{port} on {host} is in use{_owner_of(port)}",
        f"stop that program, or serve with --port {port + 1} and enter that address in the viewer",
    )


def status_of_server(host: str, port: int) -> str:
    """What an Overread server there says of its health, over http or https; empty where none answers."""
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    address = f"{f'[{name}]' if ':' in name else name}:{port}"
    # Nothing secret is said: a certificate that only this ward trusts will do. A proxy knows nothing of this machine.
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    https = urllib.request.HTTPSHandler(context=trusting)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), https)
    for scheme in ("http", "https"):
        try:
            found = json.loads(_read(opener, f"{scheme}://{address}/healthz"))
        except TimeoutError:
            # Neither: who speaks https answers plain words at once.
            return ""
        except (OSError, HTTPException, ValueError):
            continue
        if (
            isinstance(found, dict)
            and isinstance(found.get("checks"), dict)
            and found["checks"].keys() >= CHECKS
        ):
            return str(found.get("status"))
    return ""


def check_models(store: ChampionStore, device: str) -> Iterator[Finding]:
    """Each champion is complete, loads, and segments a small volume of noise."""
    from overread.domain import OverreadError

    names = store.recipes()
    if not names:
        yield Finding(
            "models",
            "warn",
            f"{store.root} holds no champion: the server would offer none",
            "`make demo` trains a starter model, `overread train NAME --data DIR` your own",
        )
    for name in names:
        topic = f"model {name}"
        try:
            yield Finding(topic, "ok", _try_model(store.current(name), device))
        except (OverreadError, OSError, ImportError, RuntimeError, ValueError, KeyError) as error:
            yield Finding(
                topic,
                "fail",
                f"{type(error).__name__}: {error}",
                f"train or import it again (`overread train {name}` keeps the old versions)",
            )


def _try_model(folder: Path, device: str) -> str:
    import numpy as np

    from overread.domain import Grid
    from overread.ensemble.prediction import predict
    from overread.ensemble.storage import load_ensemble
    from overread.imaging.volumes import Volume

    ensemble = load_ensemble(folder, device)
    shape = tuple(min(16, size) for size in ensemble.patch)
    noise = np.random.default_rng(0).normal(size=(len(ensemble.channels), *shape)).astype(np.float32)
    predict(ensemble, Volume(noise, Grid(shape, np.eye(4))), measures=(), device=device)
    return f"{len(ensemble.members)} members load and predict on {device} (champion {folder.name})"


def _read(opener: urllib.request.OpenerDirector, address: str) -> bytes:
    """The body of an answer, of a refusal too: a server that cannot do its work answers 503."""
    try:
        with opener.open(address, timeout=ANSWER_S) as answer:
            return answer.read(MOST_BYTES)
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.read(MOST_BYTES)


def _owner_of(port: int) -> str:
    import psutil

    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.Error:
        return ""
    for connection in connections:
        if connection.laddr and connection.laddr[1] == port and connection.status == psutil.CONN_LISTEN:
            try:
                return f" by process {connection.pid} ({psutil.Process(connection.pid).name()})"
            except psutil.Error:
                return f" by process {connection.pid}"
    return ""
