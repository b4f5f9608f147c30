"""Files that changed are noticed by name, size and time, wherever the data lie."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from overread.studies.made_from import changes, stamps_below, stamps_of


@dataclass(frozen=True)
class Series:
    """Files of a folder."""

    folder: Path
    uid: str = "1.2"


@dataclass(frozen=True)
class Case:
    """Files named at several depths."""

    images: tuple[Path, ...]
    series: Series


def write(folder: Path) -> Case:
    for name in ("a.png", "ct/1.dcm", "ct/2.dcm", "ct/.hidden", "other/b.png"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        os.utime(path, (0, 7))
    return Case((folder / "a.png", folder / "gone.png"), Series(folder / "ct"))


def test_files_that_sources_name_are_found_at_any_depth_and_may_be_moved_together(tmp_path: Path):
    here, there = (stamps_of([write(tmp_path / name)]) for name in ("here", "there"))
    assert here == {
        "a.png": [5, 7 * 10**9],
        "ct/1.dcm": [8, 7 * 10**9],
        "ct/2.dcm": [8, 7 * 10**9],
        "gone.png": [],
    }
    assert changes(here, there) == ""
    assert stamps_of([]) == {}


def test_all_files_below_a_folder_count_but_hidden_ones_and_those_apart(tmp_path: Path):
    write(tmp_path)
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "index").write_text("")
    assert [*stamps_below(tmp_path, [tmp_path / "other"])] == ["a.png", "ct/1.dcm", "ct/2.dcm"]


def test_each_kind_of_change_is_named():
    before = {"a": [1, 1], "b": [1, 1], "c": [1, 1]}
    assert changes(before, {"a": [1, 2], "b": [1, 1], "d": [1, 1]}) == "changed: a; gone: c; new: d"
