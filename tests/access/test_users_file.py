"""The file of users lets in who it should, keeps no secret, and heeds a change at once."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from overread.access import Role, UsersFile
from overread.domain import BadInputError, NotFoundError

PASSWORD = "a long password"


@pytest.fixture
def users(tmp_path: Path) -> UsersFile:
    return UsersFile(tmp_path / "state" / "users.json")


def test_without_a_file_there_are_no_users(users):
    assert users.is_empty()
    assert users.users() == []
    assert users.find("anna") is None
    assert users.of_token("overread_x") is None


def test_names_are_found_in_upper_or_lower_case_and_shown_as_entered(users):
    users.add("Ngô Anh", Role.REVIEWER, PASSWORD, 1.0)
    found = users.find("NGÔ anh")
    assert (found.name, found.role) == ("Ngô Anh", Role.REVIEWER)
    with pytest.raises(BadInputError, match="user Ngô Anh is there already"):
        users.add("ngô anh", Role.ADMIN, PASSWORD, 2.0)


@pytest.mark.parametrize(
    "name", ["", " anna", "anna ", "a/b", "..", "a\nb", "anonymous", "at 10.0.0.7", "n" * 65, "<b>"]
)
def test_a_name_that_cannot_be_a_users_is_refused(users, name):
    with pytest.raises(BadInputError, match="user name"):
        users.add(name, Role.READER, PASSWORD, 1.0)
    assert not users.path.exists()


@pytest.mark.parametrize("password", ["", "too short", "x" * 1001])
def test_a_password_too_short_or_too_long_is_refused(users, password):
    with pytest.raises(BadInputError, match="expected 10 to 1000"):
        users.add("anna", Role.READER, password, 1.0)


def test_what_is_kept_gives_no_secret_away_and_nobody_else_reads_it(users):
    users.add("anna", Role.READER, PASSWORD, 1.0)
    secret = users.add_token("anna", "notebook", 2.0)
    text = users.path.read_text()
    assert PASSWORD not in text
    assert secret not in text
    assert "$argon2id$" in text
    assert users.path.stat().st_mode & 0o777 == 0o600
    assert {path.name for path in users.path.parent.iterdir()} <= {"users.json", "users.lock"}


def test_a_token_lets_in_until_it_is_revoked(users):
    users.add("anna", Role.READER, None, 1.0)
    first, second = users.add_token("anna", "one", 1.0), users.add_token("ANNA", "two", 1.0)
    assert users.of_token(first).name == users.of_token(second).name == "anna"
    with pytest.raises(BadInputError, match="has a token for 'one'"):
        users.add_token("anna", "one", 1.0)
    with pytest.raises(BadInputError, match="needs a label"):
        users.add_token("anna", " ", 1.0)
    users.revoke_token("anna", "one")
    assert users.of_token(first) is None
    assert users.of_token(second).name == "anna"
    with pytest.raises(NotFoundError, match="no token for 'one'; there are: two"):
        users.revoke_token("anna", "one")


def test_a_revoked_user_stays_in_the_file_and_comes_back_only_when_it_is_meant(users):
    users.add("anna", Role.ADMIN, PASSWORD, 1.0)
    secret = users.add_token("anna", "notebook", 1.0)
    users.revoke("anna", 5.0)
    assert users.find("anna") is None
    assert users.of_token(secret) is None
    assert [(user.name, user.revoked_at) for user in users.users()] == [("anna", 5.0)]
    assert not users.is_empty(), "a server whose last user was revoked must not become open to all"
    with pytest.raises(NotFoundError, match="no user is called 'anna'; there are: none"):
        users.revoke("anna", 6.0)
    with pytest.raises(BadInputError, match="user anna was revoked; --again"):
        users.add("anna", Role.READER, PASSWORD, 7.0)
    users.add("anna", Role.READER, "another password", 7.0, again=True)
    assert users.find("anna").role == Role.READER
    assert users.of_token(secret) is None
    with pytest.raises(NotFoundError, match="no user is called bob"):
        users.add("bob", Role.READER, PASSWORD, 7.0, again=True)


def test_another_process_change_is_seen_at_once(users):
    users.add("anna", Role.READER, PASSWORD, 1.0)
    other = UsersFile(users.path)
    assert other.find("anna") is not None
    users.revoke("anna", 2.0)
    assert other.find("anna") is None


def test_changes_at_the_same_time_lose_none(users):
    names = [f"user{number}" for number in range(12)]
    threads = [threading.Thread(target=users.add, args=(name, Role.READER, None, 1.0)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {user.name for user in users.users()} == set(names)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"version": 1}',
        '{"version": 2, "users": []}',
        '{"version": 1, "users": [{"name": "a", "role": "king", "tokens": []}]}',
        '{"version": 1, "users": [{"name": "a", "role": "admin", "tokens": [], "more": 1}]}',
    ],
)
def test_a_file_that_is_none_of_ours_lets_nobody_in_and_says_so(users, text):
    users.add("anna", Role.READER, PASSWORD, 1.0)
    users.path.write_text(text)
    os.utime(users.path, (1, 1))
    with pytest.raises(BadInputError, match=r"the file of users .*users\.json"):
        users.find("anna")
    with pytest.raises(BadInputError, match="the file of users"):
        users.add("bob", Role.READER, None, 1.0)
    assert users.path.read_text() == text


def test_the_file_can_be_read_by_people(users):
    users.add("anna", Role.READER, None, 1.0)
    content = json.loads(users.path.read_text())
    assert content["users"][0]["name"] == "anna"
    assert content["users"][0]["role"] == "reader"
