"""The files that make a slide: one for most formats, a file and a folder for MIRAX."""

from __future__ import annotations

from pathlib import Path

MIRAX_SUFFIX = ".mrxs"
# MIRAX: what says how the other files of the folder make a picture.
MIRAX_INDEX = "Slidedat.ini"


def folder_beside(slide: Path) -> Path | None:
    """The folder with the pixels of a MIRAX slide; None for slides that are one file."""
    return slide.with_suffix("") if slide.suffix.lower() == MIRAX_SUFFIX else None


def state_of(slide: Path) -> tuple[int, int]:
    """Bytes and time of the last change, in ns, of all files that make a slide: another slide has another state.

    Raises OSError where the slide's own file is not there.
    """
    states = [slide.stat()]
    folder = folder_beside(slide)
    if folder is not None and folder.is_dir():
        for path in folder.iterdir():
            try:
                states.append(path.stat())
            except FileNotFoundError:  # renamed by what copies it
                continue
    return sum(state.st_size for state in states), max(state.st_mtime_ns for state in states)
