"""A store of slides, and one running server over slides, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from overread.server.slides.store import SlideStore
from support.blobs import publish_blob_champion, write_blobs
from support.qupath import SLIDE, Server
from support.servers import app_copy, running_server
from support.slide_store import SlideFolder


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the champion `blobs`; its background scoring rests.

    Slides: `SLIDE`; `plain` has no blobs; `large` may be asked about as a whole, `huge` may not.
    """
    base = tmp_path_factory.mktemp("pathology")
    app_dir, studies = app_copy(base / "app", "pathology"), base / "studies"
    studies.mkdir()
    publish_blob_champion(app_dir)
    write_blobs(studies / f"{SLIDE}.tif")
    write_blobs(studies / "plain.tif", blobs=())
    write_blobs(studies / "large.tif", size=(3000, 3000))
    write_blobs(studies / "huge.tif", size=(5000, 4500))
    conf = ["scoring", "no", "max_region_px", "4000000", "control_share", "0", "threads", "1"]
    with running_server(app_dir, studies, conf, cwd=base) as url:
        yield Server(url, app_dir, studies)


@pytest.fixture
def refused(server: Server) -> Callable[..., str]:
    """Send a request that must be refused; gives the sentence."""

    def send(status: int, method: str, path: str, **arguments: Any) -> str:
        answer = requests.request(method, f"{server.url}{path}", timeout=120, **arguments)
        assert answer.status_code == status, answer.text
        return answer.json()["detail"]

    return send


@pytest.fixture
def folder(tmp_path: Path) -> SlideFolder:
    """A folder with the slide `one`."""
    made = SlideFolder(tmp_path)
    made.put()
    return made


@pytest.fixture
def store(folder: SlideFolder) -> SlideStore:
    """The store over it."""
    return folder.opened()
