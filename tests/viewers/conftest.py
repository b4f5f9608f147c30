"""Slicer's core in a process of its own, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest

from overread.studies.slicer_scene import NEEDS, in_own_process


@pytest.fixture(scope="module")
def in_slicer() -> Iterator[Callable[..., Any]]:
    """Runs a function in a process that has Slicer's core, and gives back what it returns."""
    with in_own_process() as pool:

        def run(function: Callable[..., Any], *arguments: Any) -> Any:
            try:
                return pool.submit(function, *arguments).result(timeout=240)
            except ModuleNotFoundError as error:
                pytest.skip(f"Slicer's core is not installed ({error}); {NEEDS}")
            except BrokenProcessPool:
                pytest.fail(f"Slicer's core died; {NEEDS}")

        yield run
