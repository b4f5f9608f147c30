"""What a command tells while it works: a bar in a terminal, lines in a log."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from overread.cli import console


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Stands for stderr that goes into a file."""
    written = io.StringIO()
    monkeypatch.setattr(console, "remarks", Console(file=written, width=100))
    return written


def test_a_log_gets_a_line_now_and_then(log: io.StringIO, monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.progress_bar() as bar:
        task = bar.add_task("training", total=4)
        bar.update(task, completed=1)
        assert log.getvalue() == "", "who waits for a moment only is told nothing"
        now[0] += console.LOG_EVERY_S
        bar.update(task, completed=2, description="member [2]")
        bar.update(task, completed=3)
        (line,) = log.getvalue().splitlines()
        assert line.endswith(" 50 % member [2]")
        now[0] += console.LOG_EVERY_S
        bar.update(task, completed=4, description="publishing")
        assert log.getvalue().splitlines()[1].endswith("100 % publishing")


def test_a_terminal_gets_a_bar_and_no_lines(monkeypatch: pytest.MonkeyPatch):
    written = io.StringIO()
    monkeypatch.setattr(console, "remarks", Console(file=written, width=100, force_terminal=True))
    monkeypatch.setattr(console, "LOG_EVERY_S", 0.0)
    with console.progress_bar() as bar:
        task = bar.add_task("training", total=1)
        bar.update(task, completed=1)
    assert "100 %" in written.getvalue()
    assert "100 % training" not in written.getvalue()
