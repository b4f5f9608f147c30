"""`overread audit`: whether the log of what was done is whole, and a copy of it for a spreadsheet."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from overread.cli.console import (
    AppOption,
    DatabaseOption,
    JsonOption,
    answers,
    existing_database,
    print_json,
    remarks,
)

if TYPE_CHECKING:
    from overread.state.audit import AuditRow

audit = typer.Typer(no_args_is_help=True, help="Check the log of what was done, or copy it to a CSV file.")


@audit.command()
def verify(
    app: AppOption = None,
    database: DatabaseOption = None,
    expect: Annotated[
        str | None,
        typer.Option(help="Hash of a row that was the last one earlier; it must still be in the log."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check the chain of hashes; exit with 1 where a row was changed, removed, inserted or moved.

    Prints number and hash of the last row. Who can write the whole database can also write the whole chain anew: note
    the hash elsewhere, and give it with --expect the next time.

    Examples:

        overread audit verify

        overread audit verify --expect 5928aad9fddd028251e0d3cd6f669948196e65832ff697b9b479d4811cecdc77
    """
    from overread.state.audit import last_row
    from overread.state.audit import verify as verify_audit

    with existing_database(app, database) as opened:
        found = opened.damage()
        if not found:
            with opened.reading() as c:
                found = verify_audit(c, expect)
                last, last_hash = last_row(c)
        name = opened.name
    if found:
        last, last_hash = (None, None)
    if as_json:
        print_json({"database": name, "intact": not found, "found": found, "rows": last, "hash": last_hash})
    elif not found:
        answers.print(f"The audit log in {name} is intact: {last} rows.", markup=False, soft_wrap=True)
        answers.print(f"Last hash: {last_hash}", markup=False, soft_wrap=True)
    if found:
        for sentence in found:
            remarks.print(f"Error: {sentence}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(1)


@audit.command()
def export(
    file: Annotated[Path | None, typer.Option("--csv", help="Write the rows to this CSV file.")] = None,
    app: AppOption = None,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy the log to a CSV file, or print it as JSON; the rows are not checked, `verify` does that.

    Examples:

        overread audit export --csv audit.csv

        overread audit export --json
    """
    from overread.state.audit import rows

    if file is None and not as_json:
        raise typer.BadParameter("say where to: --csv FILE, or --json for stdout")
    with existing_database(app, database) as opened, opened.reading() as c:
        found = list(rows(c))
    if file is not None:
        _write_csv(file, found)
        remarks.print(f"Wrote {len(found)} rows to {file}", markup=False, soft_wrap=True)
    if as_json:
        print_json([asdict(row) for row in found])


def _write_csv(file: Path, found: list[AuditRow]) -> None:
    """All rows or, where that fails, no file. Times stand there twice: to be read, and exactly, as they were hashed."""
    from overread.domain.errors import BadInputError

    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with beside.open("w", newline="", encoding="utf-8") as stream:
            table = csv.writer(stream)
            table.writerow(("time", "seq", "at", "actor", "action", "subject", "details", "previous", "hash"))
            for row in found:
                time = datetime.fromtimestamp(row.at, UTC).isoformat(timespec="milliseconds")
                details = json.dumps(row.details, sort_keys=True, ensure_ascii=False)
                known = (time, row.seq, repr(row.at), row.actor, row.action, row.subject)
                table.writerow((*known, details, row.previous, row.hash))
        beside.replace(file)
    except OSError as error:
        raise BadInputError(f"{file} cannot be written: {error.strerror}") from error
    finally:
        beside.unlink(missing_ok=True)
