"""What all tests share."""

import os

import pytest
from hypothesis import settings

# Before torch is imported, here and in child processes: tests run side by side, and threads that share a step wait
# for each other where another worker holds the core.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
# Workers have a terminal's size from somewhere, and `rich` would hold on to it where a test asks for another.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)

# No deadline: the machine may be busy. Derandomised: the same tests every time.
settings.register_profile("overread", deadline=None, derandomize=True)
settings.load_profile("overread")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: the short ones fill up what the workers have left at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
