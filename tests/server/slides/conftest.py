from pathlib import Path

import pytest

from overread.server.slides.store import SlideStore
from support.slide_store import SlideFolder


@pytest.fixture
def folder(tmp_path: Path) -> SlideFolder:
    """A folder with the slide `one`."""
    made = SlideFolder(tmp_path)
    made.put()
    return made


@pytest.fixture
def store(folder: SlideFolder) -> SlideStore:
    return folder.opened()
