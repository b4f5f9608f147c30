"""Files that changed are noticed by name, size, time and content, wherever the data lie."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from overread.studies.made_from import LARGEST_READ, changes, files_below, files_of, stamps


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
    here, there = (files_of([write(tmp_path / name)]) for name in ("here", "there"))
    assert here == {name: tmp_path / "here" / name for name in ("a.png", "ct/1.dcm", "ct/2.dcm", "gone.png")}
    kept = stamps(here)
    assert {name: stamp[:2] for name, stamp in kept.items()} == {
        "a.png": [5, 7 * 10**9],
        "ct/1.dcm": [8, 7 * 10**9],
        "ct/2.dcm": [8, 7 * 10**9],
        "gone.png": [],
    }
    assert changes(kept, there) == ""
    assert files_of([]) == {}


def test_all_files_below_a_folder_count_but_hidden_ones_and_those_apart(tmp_path: Path):
    write(tmp_path)
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "index").write_text("")
    assert [*files_below(tmp_path, [tmp_path / "other"])] == ["a.png", "ct/1.dcm", "ct/2.dcm"]


def test_each_kind_of_change_is_named(tmp_path: Path):
    for name in "abd":
        (tmp_path / name).write_text(name)
    files = files_below(tmp_path)
    before = stamps({"a": files["a"], "b": files["b"]}) | {"c": [1, 1]}
    # As large as before, and later.
    files["a"].write_text("A")
    os.utime(files["a"], (0, 9))
    assert changes(before, files) == "changed: a; gone: c; new: d"


def test_files_that_were_copied_without_their_times_are_the_same(tmp_path: Path):
    (file := tmp_path / "a").write_text("a")
    files = files_below(tmp_path)
    before = stamps(files)
    os.utime(file, (0, 9))
    assert changes(before, files) == ""
    # Of an earlier version, and of a large file, no content is known.
    assert changes({"a": before["a"][:2]}, files) == "changed: a"
    with file.open("r+b") as large:
        large.truncate(LARGEST_READ + 1)
    assert len(stamps(files)["a"]) == 2


def test_many_changed_files_are_counted():
    before = {f"{n}.png": [1, n] for n in range(9)}
    assert changes(before, {}) == "gone: 0.png, 1.png, 2.png and 6 more"
