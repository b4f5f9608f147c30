"""`overread users`: who may use a server, with which role."""

from __future__ import annotations

import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from overread.cli.console import (
    AppOption,
    DatabaseOption,
    JsonOption,
    answers,
    app_folder,
    database_place,
    print_json,
    remarks,
)

if TYPE_CHECKING:
    from overread.access import UsersFile

users = typer.Typer(
    no_args_is_help=True,
    help="Who may use a server, and for what. As soon as there is a user, everybody has to log in.",
)

UsersOption = Annotated[
    Path | None,
    typer.Option(
        "--users",
        envvar="OVERREAD_USERS",
        help="The file of users, as in the server's `--conf users=FILE`. [default: state/users.json in the app folder]",
        show_default=False,
    ),
]
NameArgument = Annotated[
    str, typer.Argument(help="As the user types it at login; it stands under their labels.")
]


def users_file(app: Path | None, path: Path | None) -> UsersFile:
    """The file of users of an app, unless another is named."""
    from overread.access import UsersFile
    from overread.access.users import default_users

    return UsersFile(path.expanduser().resolve() if path else default_users(app_folder(app)))


@users.command()
def add(
    name: NameArgument,
    role: Annotated[
        str,
        typer.Option(
            help="`reader`: asks models, submits labels. `reviewer`: also judges and withdraws the labels of others. "
            "`admin`: also trains, removes images, reads logs."
        ),
    ] = "reader",
    password_stdin: Annotated[
        bool,
        typer.Option("--password-stdin", help="Read the password from stdin, up to the end of the line."),
    ] = False,
    no_password: Annotated[
        bool,
        typer.Option("--no-password", help="For programs: only tokens let in, see `overread users token`."),
    ] = False,
    again: Annotated[
        bool,
        typer.Option("--again", help="The user is there, perhaps revoked: set role and password anew."),
    ] = False,
    app: AppOption = None,
    path: UsersOption = None,
    database: DatabaseOption = None,
) -> None:
    """Add a user; asks for the password.

    Examples:

        overread users add anna

        overread users add "Dr. Ngô" --role reviewer

        overread users add anna --again --role admin
    """
    from overread.access.roles import role_called

    found, wanted = users_file(app, path), role_called(role)
    password = None if no_password else _password(password_stdin)
    user = found.add(name, wanted, password, time.time(), again=again)
    _note(app, database, "user changed" if again else "user added", user.name, {"role": user.role})
    answers.print(f"{user.name} is {user.role}, in {found.path}", markup=False, soft_wrap=True)


@users.command()
def token(
    name: NameArgument,
    label: Annotated[str, typer.Option(help="What it is for, such as `nightly export`.")],
    app: AppOption = None,
    path: UsersOption = None,
    database: DatabaseOption = None,
) -> None:
    """Make an API token for a program; printed once, on stdout, and good until it is revoked.

    The program sends it as `Authorization: Bearer TOKEN`, and may do what the user may.

    Examples:

        overread users token anna --label "my notebook"
    """
    secret = users_file(app, path).add_token(name, label, time.time())
    _note(app, database, "token made", name, {"label": label})
    remarks.print("Keep it safe: it is shown this once.", markup=False)
    typer.echo(secret)


@users.command("list")
def list_users(app: AppOption = None, path: UsersOption = None, as_json: JsonOption = False) -> None:
    """Everybody who may come in, and who no longer may.

    Examples:

        overread users list

        overread users list --json
    """
    rows = [
        {
            "name": user.name,
            "role": user.role,
            "password": bool(user.password),
            "tokens": [token.label for token in user.tokens],
            "changed_at": user.changed_at,
            "revoked_at": user.revoked_at,
        }
        for user in users_file(app, path).users()
    ]
    if as_json:
        print_json(rows)
        return
    if not rows:
        answers.print("There are no users, so that nobody has to log in.")
        return
    table = Table(box=None)
    for heading in ("name", "role", "password", "tokens", "since"):
        table.add_column(heading)
    for row in rows:
        table.add_row(*map(escape, _cells(row)))
    answers.print(table)


@users.command()
def revoke(
    name: NameArgument,
    token: Annotated[
        str | None,
        typer.Option(
            help="Only the token with this label. [default: password and all tokens]", show_default=False
        ),
    ] = None,
    app: AppOption = None,
    path: UsersOption = None,
    database: DatabaseOption = None,
) -> None:
    """Take a user's access away, or a token's; a running server heeds it from its next request on.

    Examples:

        overread users revoke anna

        overread users revoke anna --token "my notebook"
    """
    found = users_file(app, path)
    if token is None:
        user = found.revoke(name, time.time())
        _note(app, database, "user revoked", user.name, {})
        answers.print(f"{user.name} has no access any more.", markup=False)
        return
    user = found.revoke_token(name, token)
    _note(app, database, "token revoked", user.name, {"label": token})
    answers.print(f"The token {token!r} of {user.name} is worthless now.", markup=False)


def _password(from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    return typer.prompt("Password", hide_input=True, confirmation_prompt=True)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    def day(at: float) -> str:
        return datetime.fromtimestamp(at).astimezone().date().isoformat()

    if row["revoked_at"] is not None:
        return row["name"], "revoked", "–", "–", day(row["revoked_at"])
    tokens = ", ".join(row["tokens"]) or "–"
    return row["name"], str(row["role"]), "yes" if row["password"] else "–", tokens, day(row["changed_at"])


def _note(app: Path | None, database: str | None, action: str, name: str, details: dict[str, Any]) -> None:
    """Add a row to the audit log of the server whose users these are, where it has a database already."""
    import getpass

    from overread.domain import NotFoundError
    from overread.state.audit import append
    from overread.state.database import Database

    try:
        opened = Database.open(database_place(app, database), must_exist=True)
    except NotFoundError:
        return
    try:
        with opened.writing() as c:
            actor = f"{getpass.getuser()} (command line)"
            append(c, actor=actor, action=action, subject=name, details=details, now=time.time())
    finally:
        opened.close()
