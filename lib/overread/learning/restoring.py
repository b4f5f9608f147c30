"""A backup checked, and put back: nothing is written before all of it was found whole, and nothing is deleted.

What stands in the way is set aside under its name with `.before-TIME` behind it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from overread.domain import BadInputError, OverreadError
from overread.learning.backup import (
    DATABASE,
    FILES,
    FOLDERS,
    LEDGERS,
    MODELS,
    POSTGRESQL,
    SQLITE,
    STUDIES,
    Manifest,
    Report,
    copy_hashed,
    files_below,
    hashed,
    read_manifest,
)
from overread.learning.durable import sync_folder
from overread.learning.patients import FILE as PATIENTS
from overread.state.audit import verify
from overread.state.database import Database, ensure_unused
from overread.state.engines import url_of


@dataclass(frozen=True)
class Restored:
    """What was put back.

    Attributes:
        manifest: of the backup.
        places: that were written.
        set_aside: what was there before, under its new names.
    """

    manifest: Manifest
    places: tuple[Path, ...]
    set_aside: tuple[Path, ...]


def check_backup(folder: Path, report: Report = lambda what, share: None) -> Manifest:
    """What a backup holds, after reading all of it: every hash, the database, and the chain of its audit log.

    Raises:
        BadInputError: it is no backup, or not as it was made; the sentence names what is wrong.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    wrong, done = [], 0
    for name, kept in manifest.files.items():
        report("checking", done / max(1, manifest.bytes))
        path = folder / name
        if not path.is_file():
            wrong.append(f"{name} is gone")
        elif hashed(path) != kept:
            wrong.append(f"{name} is not what was copied: its sha256 differs")
        done += kept.bytes
    if not wrong and manifest.database == SQLITE:
        wrong += _database_faults(folder, manifest)
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise BadInputError(f"the backup {folder} is damaged: {'; '.join(wrong[:3])}{more}")
    return manifest


def restore_backup(
    folder: Path,
    studies: Path,
    models: Path,
    database: Path | str,
    *,
    overwrite: bool = False,
    report: Report = lambda what, share: None,
) -> Restored:
    """Put a backup back. The server must not run.

    Args:
        studies: folder of the images; may be a new one.
        models: folder of the champions.
        database: file or URL.
        overwrite: set aside what is there.

    Raises:
        BadInputError: the backup is damaged, or something is there already. StateError: a server runs.
        OverreadError: a file cannot be written; everything is as it was then.
    """
    folder, studies, models = Path(folder), Path(studies), Path(models)
    manifest = check_backup(folder, report)
    places = {f"{STUDIES}/{name}": studies / name for name in (*FOLDERS, *FILES, *LEDGERS)} | {MODELS: models}
    if manifest.database == SQLITE:
        places[DATABASE] = _sqlite_file(database)
    kept = [name for name in places if any(_belongs(file, name) for file in manifest.files)]
    in_the_way = [
        place
        for name, place in places.items()
        if _is_something(place) and (name in kept or not _is_neutral(name))
    ]
    if in_the_way and not overwrite:
        raise BadInputError(
            f"there is something already at {', '.join(map(str, in_the_way))}; "
            "with --overwrite it is set aside, under its name and the time"
        )
    if DATABASE in places:
        ensure_unused(places[DATABASE])
    moves = _Moves(datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f"))
    try:
        done = 0
        for name in kept:
            for file in (file for file in manifest.files if _belongs(file, name)):
                report("copying", done / max(1, manifest.bytes))
                staged = moves.staged(places[name])
                target = staged / file[len(name) + 1 :] if file != name else staged
                if copy_hashed(folder / file, target) != manifest.files[file]:
                    raise BadInputError(f"{folder / file} changed while it was read")
                done += manifest.files[file].bytes
        set_aside = [aside for place in in_the_way for aside in moves.set_aside(place)]
        for name in kept:
            moves.put(places[name])
    except BaseException as error:
        moves.undo()
        if isinstance(error, OSError):
            raise OverreadError(
                f"nothing was restored: {error.strerror} ({error.filename or folder})"
            ) from error
        raise
    moves.tidy()
    report("done", 1.0)
    return Restored(manifest, tuple(places[name] for name in places if name in kept), tuple(set_aside))


class _Moves:
    """Renamings that can be taken back."""

    def __init__(self, stamp: str) -> None:
        self._stamp = stamp
        self._done: list[tuple[Path, Path]] = []
        self._staged: dict[Path, Path] = {}
        self._empty: list[Path] = []

    def staged(self, place: Path) -> Path:
        """Where the new content of a place waits, beside it."""
        return self._staged.setdefault(place, place.with_name(f".{place.name}.{self._stamp}.restoring"))

    def set_aside(self, place: Path) -> Iterator[Path]:
        """Rename what is there, a database with the files beside it."""
        for suffix in ("", "-wal", "-shm"):
            old = place.with_name(place.name + suffix)
            if old.exists():
                yield self._move(old, old.with_name(f"{place.name}.before-{self._stamp}{suffix}"))

    def put(self, place: Path) -> None:
        """Give the new content its name. An empty folder makes room."""
        if place.is_dir() and not _is_something(place):
            self._empty.append(self._move(place, place.with_name(f".{place.name}.{self._stamp}.empty")))
        self._move(self._staged[place], place)
        sync_folder(place.parent)

    def tidy(self) -> None:
        """Remove the empty folders that made room."""
        for folder in self._empty:
            shutil.rmtree(folder, ignore_errors=True)

    def undo(self) -> None:
        """Everything as it was; what was staged stays hidden beside its place where it cannot be removed."""
        for old, new in reversed(self._done):
            new.replace(old)
        for staged in self._staged.values():
            if staged.is_dir():
                shutil.rmtree(staged, ignore_errors=True)
            else:
                staged.unlink(missing_ok=True)

    def _move(self, old: Path, new: Path) -> Path:
        old.replace(new)
        self._done.append((old, new))
        return new


def _database_faults(folder: Path, manifest: Manifest) -> list[str]:
    """Looked at in a copy: opening a database writes beside it."""
    with tempfile.TemporaryDirectory() as scratch:
        copied = Path(scratch) / "overread.db"
        copy_hashed(folder / DATABASE, copied)
        database = Database.open(copied)
        try:
            found = database.damage()
            if not found and manifest.audit_rows:
                with database.reading() as c:
                    found = verify(c, manifest.audit_hash)
        finally:
            database.close()
    return found


def _sqlite_file(database: Path | str) -> Path:
    url = url_of(database)
    if url.drivername != SQLITE or url.database is None:
        raise BadInputError(
            f"the backup holds an SQLite database, and {url.render_as_string()} is {POSTGRESQL}: "
            "restore it into an SQLite file"
        )
    return Path(url.database)


def _belongs(file: str, name: str) -> bool:
    return file == name or file.startswith(f"{name}/")


def _is_neutral(name: str) -> bool:
    """Whether what is there may stay where the backup holds nothing of the name."""
    return name in {f"{STUDIES}/{each}" for each in (PATIENTS, *LEDGERS)}


def _is_something(place: Path) -> bool:
    return bool(files_below(place)) if place.is_dir() else place.exists()
