"""Where the members of a training stand, by the files in its work folder."""

from pathlib import Path


def finished_and_begun(work: Path) -> tuple[set[int], set[int]]:
    """Members that are finished, and those that have a checkpoint and are not."""
    finished = {_number(path) for path in work.glob("member_*.json")}
    return finished, {_number(path) for path in work.glob("member_*.checkpoint.pt")} - finished


def _number(path: Path) -> int:
    return int(path.name.removeprefix("member_").split(".")[0])
