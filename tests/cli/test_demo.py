"""`overread demo` goes from nothing to a server that offers a model, and leaves the sample data as they were."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from overread.cli.demos import copy_studies
from overread.cli.serve import is_port_in_use
from overread.studies.phantom import make_phantoms

PROJECT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from overread.cli import app; app()", "demo"]
PATIENCE_S = 300


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the app, few sample studies, and what the demo prepared from them."""
    folder = tmp_path_factory.mktemp("a demo")
    (folder / "app").mkdir()
    shutil.copy(PROJECT / "apps" / "radiology" / "main.py", folder / "app" / "main.py")
    make_phantoms(folder / "sample", train=4, unlabelled=2)
    result = demo(folder, "--no-serve", "--minutes", "0.1")
    assert result.returncode == 0, result.stderr
    return folder


def options(folder: Path) -> list[str]:
    folders = ["--app", folder / "app", "--data", folder / "sample", "--folder", folder / "work"]
    return [*COMMAND, *map(str, folders), "--device", "cpu"]


def demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*options(folder), *arguments], capture_output=True, text=True, env=environment())


def environment() -> dict[str, str]:
    # A child finds the package where this process found it.
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def champion(folder: Path) -> dict:
    return json.loads((folder / "app" / "model" / "liver_phantom" / "champion.json").read_text())


@pytest.mark.slow
def test_the_starter_model_is_trained_once(place: Path):
    before = champion(place)
    result = demo(place, "--no-serve")
    assert result.returncode == 0
    assert "Training" not in result.stderr
    assert champion(place) == before
    assert len(before["history"]) == 1


@pytest.mark.slow
def test_a_starter_model_of_an_earlier_version_is_told_where_its_data_are(place: Path):
    central = place / "app" / "model" / "liver_phantom" / "central.json"
    before = json.loads(central.read_text())
    assert before["folder"] == str((place / "sample").resolve())
    central.unlink()
    assert demo(place, "--no-serve").returncode == 0
    assert json.loads(central.read_text()) == before


@pytest.mark.slow
def test_a_model_of_that_name_from_other_data_is_served_as_it_is(place: Path, tmp_path: Path):
    shutil.copytree(place / "app", tmp_path / "app")
    make_phantoms(tmp_path / "sample", train=2, unlabelled=1)
    (tmp_path / "app" / "model" / "liver_phantom" / "central.json").unlink()
    result = demo(tmp_path, "--no-serve")
    assert result.returncode == 0
    assert "liver_phantom is served, but cannot learn on" in result.stderr


@pytest.mark.slow
def test_the_server_offers_the_model_over_a_copy_until_it_is_interrupted(place: Path):
    untouched = sorted((place / "sample").rglob("*"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    log = place / "screen.txt"
    with log.open("w") as screen:
        running = subprocess.Popen(
            [*options(place), "--port", port],
            stderr=screen,
            env=environment(),
            # Whoever starts the tests in the background has them, and what they start, deaf to Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    try:
        waited_until = time.monotonic() + PATIENCE_S
        while "The server is up" not in log.read_text() and running.poll() is None:
            assert time.monotonic() < waited_until, log.read_text()
            time.sleep(0.5)
        assert running.poll() is None, log.read_text()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/info/", timeout=60) as answer:
            info = json.load(answer)
        assert list(info["models"]) == ["liver_phantom"]
        assert info["datastore"]["total"] == 2
        assert "Next Sample" in log.read_text()
    finally:
        running.send_signal(signal.SIGINT)
        code = running.wait(timeout=60)
    assert code == 0
    assert not is_port_in_use("127.0.0.1", int(port))
    assert {path.name for path in (place / "work" / "studies").glob("*.nii.gz")} == {
        "phantom_101.nii.gz",
        "phantom_102.nii.gz",
    }
    assert sorted((place / "sample").rglob("*")) == untouched


@pytest.mark.slow
def test_a_server_that_does_not_start_shows_the_end_of_its_log(place: Path):
    broken = place / "broken"
    broken.mkdir()
    (broken / "main.py").write_text("raise RuntimeError('the app is broken on purpose')\n")
    shutil.copytree(place / "app" / "model", broken / "model")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    result = demo(place, "--app", str(broken), "--port", port)
    assert result.returncode == 1
    assert "The server did not start" in result.stderr
    assert "the app is broken on purpose" in result.stderr
    assert "overread doctor" in result.stderr


def test_studies_that_are_there_keep_what_was_done_to_them(tmp_path: Path):
    images, studies = tmp_path / "imagesTs", tmp_path / "studies"
    for folder, text in ((images, "sample"), (studies, "mine")):
        folder.mkdir()
        (folder / ("a_0000.nii.gz" if folder == images else "a.nii.gz")).write_text(text)
    (images / "b_0000.nii.gz").write_text("sample")
    copy_studies(images, studies)
    assert {path.name: path.read_text() for path in studies.iterdir()} == {
        "a.nii.gz": "mine",
        "b.nii.gz": "sample",
    }
