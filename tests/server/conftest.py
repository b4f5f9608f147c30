"""One running server for the tests of this folder; each test uses a case of its own."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from support.servers import Server, phantom_server, write_case


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with phantom_server(tmp_path_factory.mktemp("server")) as running:
        yield running


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
