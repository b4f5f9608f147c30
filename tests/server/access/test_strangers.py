"""Without users a server answers its own machine alone, whatever it was told to listen on and whoever's page asks."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message

from overread.access import Role, UsersFile
from overread.server.access.access import Access, address_of
from overread.server.access.authority import FileOfUsers
from overread.server.access.gate import Gate
from overread.server.access.login_routes import FIRST_PAGE, own_page
from overread.server.access.origins import is_loopback_name
from overread.state.database import Database
from overread.state.failures import DatabaseBusyError


@pytest.fixture
def access(tmp_path: Path) -> Access:
    return Access(FileOfUsers(UsersFile(tmp_path / "users.json")), Database.open(tmp_path / "overread.db"))


def status(
    access: Access,
    method: str = "GET",
    path: str = "/info/",
    server: tuple = ("127.0.0.1", 8000),
    **headers: str,
) -> int:
    """Of the answer to one request that reaches the server on an address of its own."""
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "scheme": "http",
        "server": server,
        "client": ("10.0.0.5", 1234),
        "headers": [
            (k.replace("_", "-").encode(), v.encode()) for k, v in ({"host": "localhost"} | headers).items()
        ],
    }
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(Gate(PlainTextResponse("in"), access)(scope, receive, send))
    return sent[0]["status"]


def test_on_loopback_the_own_machine_needs_no_login(access):
    assert status(access) == 200
    assert status(access, "POST", "/train/liver") == 200
    assert status(access, server=("::1", 8000)) == 200
    assert status(access, host="127.0.0.1:8000") == 200


def test_a_request_that_came_in_on_another_address_is_refused_however_the_server_was_started(access):
    assert status(access, server=("10.0.0.7", 8000)) == 403
    access.allow_anonymous = True
    assert status(access, server=("10.0.0.7", 8000), host="ward.example") == 200


def test_a_name_that_was_bent_to_this_machine_is_refused(access):
    assert status(access, host="evil.example") == 403
    assert status(access, host="") == 403


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("localhost", True),
        ("localhost:8000", True),
        ("x.localhost", True),
        ("127.0.0.1:8000", True),
        ("[::1]:8000", True),
        ("10.0.0.7:8000", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("fade.cafe", False),
        ("[", False),
    ],
)
def test_names_of_this_machine(host, own):
    assert is_loopback_name(host) is own


def test_pages_of_other_sites_change_nothing(access):
    assert status(access, "POST", "/train/liver", origin="http://localhost") == 200
    assert status(access, "POST", "/train/liver", origin="https://evil.example") == 403
    assert status(access, "POST", "/train/liver", origin="null") == 403
    assert status(access, "POST", "/train/liver", origin="http://[") == 403
    assert status(access, "POST", "/train/liver", origin="http://localhost:3000") == 403
    assert status(access, "POST", "/train/liver", sec_fetch_site="cross-site") == 403
    assert status(access, "GET", "/info/", origin="https://evil.example") == 200
    access.origins = ("https://viewer.example",)
    assert status(access, "POST", "/train/liver", origin="https://viewer.example") == 200


def test_the_first_user_turns_the_login_on_and_nothing_turns_it_off_again(access):
    users = access.authority.users
    assert status(access) == 200
    users.add("anna", Role.ADMIN, None, time.time())
    assert status(access) == 401
    users.path.write_text("{")
    assert status(access, authorization="Bearer overread_x") == 503
    users.path.unlink()
    assert status(access) == 401


def test_what_a_client_sends_as_a_token_is_looked_at_once(access):
    users = access.authority.users
    users.add("anna", Role.READER, None, time.time())
    secret = users.add_token("anna", "x", time.time())
    assert status(access, authorization=f"Bearer {secret}") == 200
    assert status(access, authorization=f"bearer {secret}") == 200
    assert status(access, cookie=f"overread={secret}") == 200
    for header in (f"Basic {secret}", "Bearer", f"Bearer {secret}x", "Bearer \x00", "Bearer " + "x" * 10_000):
        assert status(access, authorization=header, cookie=f"overread={secret}") == 401
    assert status(access, authorization=f"Bearer {secret}", method="POST", path="/train/liver") == 403


def test_what_the_audit_log_cannot_be_told_is_not_answered(access, monkeypatch):
    users = access.authority.users
    users.add("anna", Role.READER, None, time.time())
    secret = users.add_token("anna", "x", time.time())

    def busy(*_args, **_details) -> None:
        raise DatabaseBusyError("held by another process")

    monkeypatch.setattr(access, "note", busy)
    assert status(access, path="/datastore/image", authorization=f"Bearer {secret}") == 503
    assert status(access, authorization=f"Bearer {secret}") == 200


def test_many_passwords_at_once_take_turns(access):
    users = access.authority.users
    users.add("anna", Role.READER, "a long password", time.time())
    found: list[object] = []
    threads = [
        threading.Thread(target=lambda: found.append(access.authority.log_in("anna", "a long password")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found)
    assert len({token for token, _ in found}) == 4


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["main.py", "start_server", "-a", "x", "-s", "y"], ("0.0.0.0", False)),
        (["main.py", "start_server", "-i", "10.0.0.7", "--ssl_certfile", "c"], ("10.0.0.7", True)),
        (["main.py", "start_server", "--host=127.0.0.1"], ("127.0.0.1", False)),
        (["main.py", "start_server", "--hos", "127.0.0.1", "--new-option", "1"], ("127.0.0.1", False)),
        (["gunicorn", "monailabel.app:app"], (None, False)),
    ],
)
def test_where_the_server_listens_is_read_as_monai_label_reads_it(argv, expected):
    assert address_of(argv) == expected


@pytest.mark.parametrize(
    "target",
    [
        "",
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "\\evil",
        "/a\\b",
        "/a\nb",
        "javascript:alert(1)",
    ],
)
def test_a_login_leads_to_no_other_site(target):
    assert own_page(target) == FIRST_PAGE
    assert own_page("/ohif/viewer?a=b") == "/ohif/viewer?a=b"
