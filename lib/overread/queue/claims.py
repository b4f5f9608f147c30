"""Who is scoring which case: locks that end with the process that holds them."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import make_url


class Claims:
    """Locks on single bytes of one file, a byte for each thing that can be claimed.

    The kernel frees them when the process ends, however it ends. They hold between the processes of one machine, not
    between the threads of a process; a process claims one thing at a time. Scorers on two machines may score a case
    twice, which costs time and nothing else.

    Args:
        file: made if it is not there; its bytes are never read.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    @classmethod
    def for_database(cls, url: str) -> Claims:
        """Beside a SQLite file; for a database on a server, in the temporary folder under a hash of its URL."""
        where = make_url(url)
        if where.get_backend_name() == "sqlite" and where.database:
            path = Path(where.database)
            return cls(path.with_name(f"{path.name}.claims"))
        name = hashlib.sha256(url.encode()).hexdigest()[:16]
        return cls(Path(tempfile.gettempdir()) / f"overread-{os.getuid()}-{name}.claims")

    @contextmanager
    def claim(self, *what: str) -> Iterator[bool]:
        """Whether `what` is ours until the block ends; False where another process has it."""
        digest = hashlib.sha256("\0".join(what).encode()).digest()
        # Offsets go up to 2^63; that two things share one is as good as impossible, and would only make one wait.
        offset = int.from_bytes(digest[:8], "big") >> 2
        with self.file.open("ab") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
            except OSError:
                yield False
                return
            # Closing the file frees the lock.
            yield True
