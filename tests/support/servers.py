"""The real server as a child process, on data that a test writes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import requests

from overread.domain import Grid
from overread.ensemble.ensemble import Calibration, DoubtBands
from overread.ensemble.threshold import write_threshold_ensemble
from overread.imaging.volumes import write_nifti
from overread.learning.champions import ChampionStore

ROOT = Path(__file__).parents[2]
# The command that users type is a shell script beside Python; it starts the `python` that it finds first.
SCRIPT = Path(sys.executable).with_name("monailabel")
MONAILABEL = [str(SCRIPT)] if SCRIPT.exists() else [sys.executable, "-m", "monailabel.main"]
# Cold imports of torch and MONAI Label on a busy machine.
START_TIMEOUT_S = 240


@contextmanager
def running_server(
    app_dir: Path,
    studies: Path | str,
    conf: Sequence[str] = (),
    cwd: Path | None = None,
    options: Sequence[str] = (),
) -> Iterator[str]:
    """The base URL of `monailabel start_server` on a free port, stopped at the end of the block.

    Args:
        studies: a folder, or the URL of a DICOMweb server.
        conf: key, value, key, value, as for `--conf`.
        cwd: working folder of the server; that of the tests if None.
        options: of MONAI Label's command, in addition; another `--host` wins.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pairs = zip(conf[::2], conf[1::2], strict=True)
    command = [*MONAILABEL, "start_server"]
    command += ["--app", str(app_dir), "--studies", str(studies), "--host", "127.0.0.1", "--port", str(port)]
    command += [part for pair in pairs for part in ("--conf", *pair)]
    command += options
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MONAI_LABEL")}
    environment |= {"PYTHONPATH": str(ROOT / "lib"), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    environment |= {"MONAILABEL_PYEXE": sys.executable}
    log = (studies if isinstance(studies, Path) else app_dir).parent / f"server-{port}.log"
    with log.open("wb") as sink:
        server = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, env=environment, cwd=cwd)
        try:
            url = f"http{'s' if '--ssl_certfile' in options else ''}://127.0.0.1:{port}"
            _wait_until_ready(server, url, log)
            yield url
        finally:
            server.terminate()
            try:
                server.wait(timeout=30)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


@dataclass(frozen=True)
class Server:
    """A running server and its folders."""

    url: str
    app_dir: Path
    studies: Path


@contextmanager
def phantom_server(base: Path, conf: Sequence[str] = ()) -> Iterator[Server]:
    """A server in the folder `base` with the threshold champion `phantom` and one case, `first`."""
    app_dir, studies = app_copy(base / "app"), base / "studies"
    studies.mkdir()
    publish_threshold(app_dir)
    write_case(studies, "first")
    # No test waits for the case that another one asked for.
    with running_server(app_dir, studies, ["lease_minutes", "0.01", *conf]) as url:
        yield Server(url, app_dir, studies)


def _wait_until_ready(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with {server.returncode}:\n{tail(log)}")
        try:
            # A server with users answers 401 to strangers.
            if requests.get(f"{url}/info/", timeout=5).status_code in (200, 401):
                return
        except requests.RequestException:
            time.sleep(0.2)
    raise RuntimeError(f"the server was not ready within {START_TIMEOUT_S} s:\n{tail(log)}")


def tail(log: Path, characters: int = 6000) -> str:
    """The end of a server's log."""
    return log.read_text(errors="replace")[-characters:]


def app_copy(folder: Path, app: str = "radiology") -> Path:
    """`apps/radiology`, or another one, without anything it wrote: a server writes into its app folder."""
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "apps" / app / "main.py", folder)
    return folder


# Intensities 60 and 120 begin `organ` and `tumour`; the second and third member see them 10 lower and higher.
CLASSES = ("background", "organ", "tumour")
CUTS = (60.0, 120.0)
OFFSETS = (0.0, -10.0, 10.0)
BANDS = DoubtBands("predictive_entropy", 0.5, 0.2, 0.7, 0.02, 0.9, 0.05, 12)


def publish_threshold(
    app_dir: Path,
    recipe: str = "phantom",
    *,
    classes: Sequence[str] = CLASSES,
    cuts: Sequence[float] = CUTS,
    offsets: Sequence[float] = OFFSETS,
    bands: bool = True,
    patch: Sequence[int] = (32, 32, 16),
) -> Path:
    """Make a champion that needs no training: see `overread.ensemble.threshold`."""
    staging = app_dir / "staging" / recipe
    calibration = Calibration(bands={BANDS.measure: BANDS} if bands else {})
    write_threshold_ensemble(
        staging, recipe, classes, cuts, offsets, sharpness=1.0, calibration=calibration, patch=patch
    )
    champion = ChampionStore(app_dir / "model").publish(recipe, staging)
    shutil.rmtree(staging.parent)
    return champion


# Where the marker volume is doubtful; the proposal is organ in both.
HIGH_DOUBT = (slice(25, 30), slice(4, 9), slice(1, 4))
MODERATE_DOUBT = (slice(25, 30), slice(15, 20), slice(1, 4))


def oblique_grid(shape: tuple[int, int, int]) -> Grid:
    """A thick-slice grid, turned about z and tilted about x, away from the origin, left-handed in i."""
    turn, tilt = np.deg2rad(20), np.deg2rad(10)
    about_z = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag([-0.8, 0.9, 3.0])
    affine[:3, 3] = (31.5, -42.25, 17.0)
    return Grid(shape, affine)


def marker_voxels(shape: tuple[int, int, int] = (40, 30, 12)) -> np.ndarray:
    """Intensities with one answer each under the threshold champion.

    0 is background, 90 organ and 150 tumour, all three without doubt. At 61 the members give organ 0.88, 1 and
    0: on average organ 0.63, entropy 0.66 nat, `doubt: high`. At 70.5 they give it 1, 1 and 0.73: on average
    0.91, entropy 0.30 nat, `doubt: moderate`.
    """
    voxels = np.zeros(shape, dtype=np.float32)
    voxels[5:20, 5:20, 2:8] = 90
    voxels[8:12, 8:12, 3:6] = 150
    voxels[HIGH_DOUBT] = 61
    voxels[MODERATE_DOUBT] = 70.5
    return voxels


def write_case(studies: Path, case: str, voxels: np.ndarray | None = None, grid: Grid | None = None) -> Path:
    """A case in the studies folder; the marker volume on the oblique grid unless told otherwise."""
    voxels = marker_voxels() if voxels is None else voxels
    path = studies / f"{case}.nii.gz"
    write_nifti(path, voxels, grid or oblique_grid(voxels.shape))
    return path
