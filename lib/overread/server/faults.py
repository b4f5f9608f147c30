"""What the server itself lacks, as HTTP status and sentence: space on the disk, the database, the studies, a champion.

None of it is the client's fault, so none of it is a 4xx. The sentences name no path: the log does.
"""

from __future__ import annotations

import errno

from overread.domain import OverreadError
from overread.state.failures import DatabaseBusyError, DatabaseFullError, StateError

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
STAYS = "what was kept before is untouched. Keep your work open and send it again"
DISK_FULL = f"the server's disk is full: this was not carried out, {STAYS} when there is space"
DATABASE_BUSY = (
    f"the server's database is held by another process: this was not carried out, {STAYS} in a moment"
)
DATABASE_FAILS = f"the server's database cannot be used: this was not carried out, {STAYS} when it is mended"
STORE_GONE = "the studies folder is not there; is its disk or network share connected to the server?"


class UnavailableError(OverreadError):
    """Something that the server needs is not there at the moment (HTTP 503)."""


def fault_answer(error: BaseException | None) -> tuple[int, str] | None:
    """HTTP status and sentence for what the server lacks; None for every other error."""
    if isinstance(error, UnavailableError):
        return 503, str(error)
    if isinstance(error, DatabaseFullError):
        return 507, DISK_FULL
    if isinstance(error, StateError):
        return 503, DATABASE_BUSY if isinstance(error, DatabaseBusyError) else DATABASE_FAILS
    # Connections that break are `OSError` too, and nobody waits for their answer.
    if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError | TimeoutError):
        if error.errno in NO_SPACE:
            return 507, DISK_FULL
        return (
            503,
            f"the server cannot reach its files ({error.strerror}): this was not carried out, {STAYS} later",
        )
    return None
