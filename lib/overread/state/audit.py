"""The audit log: who did what, in rows that are chained by hashes and only ever added."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from overread.state.failures import StateError
from overread.state.rows import to_json
from overread.state.schema import AUDIT, AUDIT_HEAD

# What the first row continues.
GENESIS = "0" * 64


@dataclass(frozen=True)
class AuditRow:
    """One thing that was done.

    Attributes:
        seq: 1, 2, 3, … without a gap.
        at: when.
        actor: a client's id, or the part of the server that acted.
        action: in words, as `label accepted`.
        subject: the case, model or label that it was done to.
        details: what belongs to the action.
        previous: hash of the row before; `GENESIS` for the first.
        hash: sha256 over all of the above.
    """

    seq: int
    at: float
    actor: str
    action: str
    subject: str
    details: dict[str, Any]
    previous: str
    hash: str


def append(
    c: Connection, *, actor: str, action: str, subject: str, details: dict[str, Any], now: float
) -> AuditRow:
    """Add a row at the end of the chain; `c` must come from `Database.writing`, which lets one writer in at a time.

    Raises:
        BadInputError: a number in the details is not finite.
    """
    head = c.execute(select(AUDIT_HEAD)).first()
    values = {
        "seq": head.seq + 1 if head else 1,
        "at": float(now),
        "actor": actor,
        "action": action,
        "subject": subject,
        "details_json": to_json(details, f"details of {action}"),
        "previous": head.hash if head else GENESIS,
    }
    values["hash"] = _hash(values)
    c.execute(insert(AUDIT).values(values))
    mark = insert(AUDIT_HEAD).values(id=1) if head is None else update(AUDIT_HEAD)
    c.execute(mark.values(seq=values["seq"], hash=values["hash"]))
    details_json = values.pop("details_json")
    return AuditRow(details=json.loads(details_json), **values)


def rows(c: Connection) -> Iterator[AuditRow]:
    """All rows, oldest first.

    Raises:
        StateError: the details of a row are no longer JSON.
    """
    for row in c.execute(select(AUDIT).order_by(AUDIT.c.seq)):
        yield _read(row)


def verify(c: Connection, expect: str | None = None) -> list[str]:
    """What is wrong with the log, a sentence each; empty where it is intact.

    Found are rows that were changed, removed, inserted or put in another order. Rows removed from the end are found
    through the mark that every append leaves beside the log. Someone who may write the whole database can
    rewrite log and mark alike, or put an older copy of the file in its place; against that helps only what lies
    elsewhere: note the last hash, and give it as `expect` later.

    Args:
        c: a connection.
        expect: hash of a row that was once the last; it must still be there.
    """
    found: list[str] = []
    seq, last, noted = 0, GENESIS, expect is None
    for row in c.execute(select(AUDIT).order_by(AUDIT.c.seq)):
        if row.seq != seq + 1:
            missing = f"row {seq + 1} is" if row.seq == seq + 2 else f"rows {seq + 1} to {row.seq - 1} are"
            found.append(f"{missing} missing from the audit log")
        elif row.previous != last:
            before = f"row {seq}" if seq else "nothing, as the first row does"
            found.append(
                f"row {row.seq} of the audit log does not continue {before}: "
                "one of the two was replaced, inserted or moved"
            )
        if row.hash != _hash(row._mapping):
            found.append(f"row {row.seq} of the audit log is not what was written: its hash does not fit")
        seq, last = row.seq, row.hash
        noted = noted or row.hash == expect
    head = c.execute(select(AUDIT_HEAD)).first()
    if head is None:
        if seq:
            found.append("the mark of the audit log's last row is missing")
    elif head.seq > seq:
        missing = f"row {head.seq} is" if head.seq == seq + 1 else f"rows {seq + 1} to {head.seq} are"
        found.append(f"{missing} missing from the end of the audit log")
    elif head.seq < seq:
        found.append(f"the audit log was last appended to at row {head.seq}, but ends with row {seq}")
    elif head.hash != last:
        found.append(f"row {seq}, the last of the audit log, is not the one that was appended last")
    if not noted:
        found.append(
            f"no row of the audit log has the expected hash {expect}: rows were removed or written anew"
        )
    return found


def last_row(c: Connection) -> tuple[int, str]:
    """Number and hash of the last row, to be noted elsewhere; `(0, GENESIS)` of an empty log."""
    row = c.execute(select(AUDIT.c.seq, AUDIT.c.hash).order_by(AUDIT.c.seq.desc()).limit(1)).first()
    return (0, GENESIS) if row is None else (row.seq, row.hash)


def newest(c: Connection, action: str, subject: str) -> AuditRow | None:
    """The last time that this was done to the subject; None where it never was."""
    wanted = select(AUDIT).where(AUDIT.c.action == action, AUDIT.c.subject == subject)
    row = c.execute(wanted.order_by(AUDIT.c.seq.desc()).limit(1)).first()
    return None if row is None else _read(row)


def done_since(c: Connection, action: str, at: float) -> list[AuditRow]:
    """The times that this was done after a moment, oldest first."""
    wanted = select(AUDIT).where(AUDIT.c.action == action, AUDIT.c.at > at)
    return [_read(row) for row in c.execute(wanted.order_by(AUDIT.c.seq))]


def _read(row: Row[Any]) -> AuditRow:
    """A row as it is kept. Raises StateError where its details are no longer JSON."""
    values = dict(row._mapping)
    try:
        details = json.loads(values.pop("details_json"))
    except ValueError as error:
        raise StateError(
            f"row {row.seq} of the audit log cannot be read: its details are no JSON ({error}); "
            "`overread audit verify` says what else was changed"
        ) from error
    return AuditRow(details=details, **values)


def _hash(values: Any) -> str:
    """sha256 over the row's canonical JSON; the details enter as the very text that is stored."""
    names = ("seq", "at", "actor", "action", "subject", "details_json", "previous")
    return hashlib.sha256(to_json({name: values[name] for name in names}, "audit row").encode()).hexdigest()
