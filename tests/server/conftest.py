"""One running server for the tests of this folder; each test uses a case of its own."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from support.servers import app_copy, publish_threshold, running_server, write_case


@dataclass(frozen=True)
class Server:
    """A running server and its folders."""

    url: str
    app_dir: Path
    studies: Path


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the threshold champion `phantom` and one case, `first`."""
    base = tmp_path_factory.mktemp("server")
    app_dir, studies = app_copy(base / "app"), base / "studies"
    studies.mkdir()
    publish_threshold(app_dir)
    write_case(studies, "first")
    # No test waits for the case that another one asked for.
    with running_server(app_dir, studies, ["lease_minutes", "0.01"]) as url:
        yield Server(url, app_dir, studies)


@pytest.fixture
def case(server: Server, tmp_path: Path) -> Iterator[str]:
    """A marker volume of this test's own in the studies folder, removed afterwards."""
    name = f"case {uuid.uuid4().hex[:8]}"
    path = write_case(tmp_path, "upload")
    with path.open("rb") as file:
        answer = requests.put(
            f"{server.url}/datastore/image",
            params={"image": name},
            files={"file": (path.name, file)},
            timeout=60,
        )
    assert answer.ok, answer.text
    yield name
    requests.delete(f"{server.url}/datastore/image", params={"id": name}, timeout=60)


@pytest.fixture
def refused(server: Server) -> Callable[..., str]:
    """Send a request that must be refused; gives the sentence."""

    def send(status: int, method: str, path: str, **arguments: object) -> str:
        answer = requests.request(method, f"{server.url}{path}", timeout=120, **arguments)
        assert answer.status_code == status, answer.text
        return answer.json()["detail"]

    return send
