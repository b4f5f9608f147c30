"""What the trainer and the scorer wrote last, in bars or JSON; the end when nothing is trained any more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from overread.cli import app

runner = CliRunner(env={"TERM": "dumb", "COLUMNS": "160", "OVERREAD_DEBUG": ""})


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "main.py").touch()
    return tmp_path


def tell(home: Path, **changes: object) -> Path:
    """`progress.json` of a running training."""
    path = home / "training" / "liver" / "progress.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {"state": "running", "stage": "training", "epoch": 40, "total_epochs": 100, "seconds_left": 90.0}
    told |= {"message": "training 5 members, step 200", "pid": os.getpid()}
    beside = path.with_name("beside")
    beside.write_text(json.dumps(told | changes))
    beside.replace(path)
    return path


def watch(home: Path, *arguments: str) -> Result:
    result = runner.invoke(app, ["watch", "--app", str(home), *arguments])
    assert result.exit_code == 0, result.stderr
    return result


def test_nothing_yet_is_said(home: Path):
    assert "Nothing was trained or scored yet." in watch(home).stdout
    assert json.loads(watch(home, "--json").stdout) == {"training": {}, "scoring": None}


def test_once_tells_training_and_scoring_in_a_line_each(home: Path):
    tell(home)
    (home / "scoring").mkdir()
    scoring = {"recipe": "liver", "champion": "a", "done": 30, "total": 120, "seconds_left": 60.0}
    (home / "scoring" / "progress.json").write_text(json.dumps(scoring))
    assert watch(home, "--once").stdout.splitlines() == [
        "training liver  40%  training 5 members, step 200, 1.5 min left",
        "scoring liver  25%  30 of 120 cases, 1.0 min left",
    ]
    answer = json.loads(watch(home, "--once", "--json").stdout)
    assert answer["training"]["liver"]["epoch"] == 40
    assert answer["scoring"]["done"] == 30


def test_a_trainer_whose_process_is_gone_is_called_interrupted(home: Path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    tell(home, pid=gone.pid)
    told = watch(home).stdout
    assert "interrupted: its process is gone" in told
    assert json.loads(watch(home, "--json").stdout)["training"]["liver"]["state"] == "interrupted"


def test_following_ends_with_the_decision(home: Path):
    tell(home)

    def finish() -> None:
        time.sleep(0.3)
        tell(home, state="promoted", epoch=100, message="promoted: local Dice 0.7 → 0.8", seconds_left=None)

    trainer = threading.Thread(target=finish)
    trainer.start()
    told = watch(home).stdout
    trainer.join()
    assert told.splitlines()[-1] == "training liver  100%  promoted: local Dice 0.7 → 0.8"


def test_half_a_file_is_no_progress(home: Path):
    tell(home).write_text('{"state": ')
    assert json.loads(watch(home, "--json").stdout)["training"] == {}
