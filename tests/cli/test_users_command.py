"""`overread users` adds, lists and revokes, prints no password, and tells the audit log of a server that has one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from overread.access import Role, UsersFile
from overread.access.users import default_users
from overread.cli import app
from overread.state.audit import rows
from overread.state.database import Database, default_path

runner = CliRunner(env={"TERM": "dumb", "COLUMNS": "200"})
PASSWORD = "a long password"


@pytest.fixture
def app_dir(tmp_path: Path) -> Path:
    (tmp_path / "main.py").write_text("")
    return tmp_path


def run(app_dir: Path, *arguments: str, stdin: str = "", code: int = 0):
    result = runner.invoke(app, ["users", *arguments, "--app", str(app_dir)], input=stdin)
    assert result.exit_code == code, result.output
    assert PASSWORD not in result.output
    return result


def test_a_user_from_the_first_day_to_the_last(app_dir):
    Database.open(default_path(app_dir)).close()
    users = UsersFile(default_users(app_dir))
    assert "no users, so that nobody has to log in" in run(app_dir, "list").output
    run(app_dir, "add", "anna", "--role", "reviewer", stdin=f"{PASSWORD}\n{PASSWORD}\n")
    assert users.find("anna").role == Role.REVIEWER
    secret = run(app_dir, "token", "anna", "--label", "notebook").stdout.strip()
    assert users.of_token(secret).name == "anna"
    listed = run(app_dir, "list").output
    assert listed.splitlines()[1].split()[:4] == ["anna", "reviewer", "yes", "notebook"]
    assert secret not in listed + users.path.read_text()
    run(app_dir, "revoke", "anna", "--token", "notebook")
    assert users.of_token(secret) is None
    assert users.find("anna") is not None
    run(app_dir, "revoke", "anna")
    assert users.find("anna") is None
    entry = json.loads(run(app_dir, "list", "--json").stdout)[0]
    assert (entry["name"], entry["password"], entry["tokens"]) == ("anna", False, [])
    assert entry["revoked_at"] is not None

    database = Database.open(default_path(app_dir))
    with database.reading() as c:
        told = [(row.action, row.subject) for row in rows(c)]
        assert all(row.actor.endswith("(command line)") for row in rows(c))
    database.close()
    actions = ("user added", "token made", "token revoked", "user revoked")
    assert told == [(action, "anna") for action in actions]


def test_scripts_give_the_password_on_stdin_and_make_no_database(app_dir):
    run(app_dir, "add", "anna", "--password-stdin", stdin=f"{PASSWORD}\n")
    run(app_dir, "add", "robot", "--no-password")
    found = UsersFile(default_users(app_dir)).users()
    assert [(user.name, user.role, bool(user.password)) for user in found] == [
        ("anna", Role.READER, True),
        ("robot", Role.READER, False),
    ]
    assert not default_path(app_dir).exists()


def test_another_file_of_users_may_be_named(app_dir, tmp_path):
    other = tmp_path / "shared" / "users.json"
    run(app_dir, "add", "anna", "--no-password", "--users", str(other))
    assert UsersFile(other).find("anna") is not None
    assert not default_users(app_dir).exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["add", "anna", "--role", "king", "--no-password"],
            "role 'king' is not known; there are reader, reviewer",
        ),
        (["add", "a/b", "--no-password"], "user name 'a/b'"),
        (["revoke", "nobody"], "no user is called 'nobody'; there are: none"),
        (["token", "nobody", "--label", "x"], "no user is called 'nobody'"),
        (["add", "anna", "--again", "--no-password"], "no user is called anna; leave --again out"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_sentence(app_dir, arguments, words):
    assert words in run(app_dir, *arguments, code=1).stderr


def test_a_password_too_short_is_refused(app_dir):
    result = run(app_dir, "add", "anna", "--password-stdin", stdin="short\n", code=1)
    assert "the password has 5 characters; expected 10 to 1000" in result.stderr
