"""A copy of what cannot be made again: labels, database and champions, taken while the server runs.

    <folder>/manifest.json          every other file with its sha256 and size, and what the database was
    <folder>/database/overread.db   where the database is SQLite
    <folder>/model/                 champions
    <folder>/studies/               accepted labels, the labels that viewers see and their index, patients.csv,
                                    the ledgers of what was exchanged with a PACS

The order makes it one state. The ledgers of a PACS come first: what they note is in the database by then, and what they
do not note yet is exchanged again, which changes nothing. Then the database: a label's file is on the disk before its
row is in the database, and is never written over, so every row that was copied finds its file. A label that is accepted
during the copy is in it without its row, which the next start writes anew from its sidecar. Of champions the manifest
comes first, which names folders that are in the store already and stay as they are.

The folder appears under its name when it is complete.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from overread import __version__
from overread.domain import BadInputError
from overread.learning.champions import MANIFEST as CHAMPION
from overread.learning.champions import ChampionStore
from overread.learning.durable import new_folder, write_json_durably
from overread.learning.patients import FILE as PATIENTS
from overread.learning.process import ACCEPTED
from overread.state.audit import last_row, verify
from overread.state.database import Database
from overread.state.labels import QUARANTINED, labels

MANIFEST = "manifest.json"
FORMAT = 1
STUDIES, MODELS, DATABASE = "studies", "model", "database/overread.db"
# What a studies folder holds beside the images.
FOLDERS, FILES = (ACCEPTED, "labels"), ("datastore_v2.json", PATIENTS)
# And over a PACS: the segmentations that were looked at, those that are ours, and who stored the others.
LEDGERS = SEEN, SENT, SENDERS = "seen.jsonl", "sent.jsonl", "senders.jsonl"
SQLITE, POSTGRESQL = "sqlite", "postgresql"
BLOCK_BYTES = 1 << 20
# What is done, and which share of it is done.
Report = Callable[[str, float], None]


@dataclass(frozen=True)
class Kept:
    """One file of a backup."""

    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a backup holds.

    Attributes:
        made_at: ISO 8601 in UTC.
        version: of the Overread that made it.
        database: `SQLITE`; or `POSTGRESQL`, which is not in the backup.
        audit_rows, audit_hash: number and hash of the last row of the audit log.
        labels: rows of labels in the database.
        champions: by recipe, the version in service.
        troubles: what was wrong with what was copied, a sentence each.
        files: by path below the folder.
    """

    made_at: str
    version: str
    database: str
    audit_rows: int
    audit_hash: str
    labels: int
    champions: Mapping[str, str] = field(default_factory=dict)
    troubles: tuple[str, ...] = ()
    files: Mapping[str, Kept] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"format": FORMAT, **asdict(self)}

    @property
    def bytes(self) -> int:
        """Size of all files together."""
        return sum(kept.bytes for kept in self.files.values())


def make_backup(
    folder: Path, studies: Path, models: Path, database: Database, report: Report = lambda what, share: None
) -> Manifest:
    """Copy labels, database and champions into a new folder.

    Args:
        folder: must not exist, or be empty.
        studies: folder of the images.
        models: folder of the champions.
        database: SQLite's is copied; of PostgreSQL only the audit log's last row is noted.

    Raises:
        BadInputError: the folder holds something.
        OverreadError: a file cannot be read or written; nothing is left of the backup then.
    """
    with new_folder(Path(folder), "the backup") as part:
        manifest = _copy_all(part, Path(studies), Path(models), database, report)
        write_json_durably(part / MANIFEST, manifest.to_json())
    return manifest


def _copy_all(part: Path, studies: Path, models: Path, database: Database, report: Report) -> Manifest:
    report("database", 0.0)
    files: dict[str, Kept] = {}
    for name in (name for name in LEDGERS if (studies / name).is_file()):
        files[f"{STUDIES}/{name}"] = copy_hashed(studies / name, part / STUDIES / name)
    facts, rows = _copy_database(part / DATABASE, database)
    champions = {}
    for recipe in (store := ChampionStore(models)).recipes():
        with suppress(BadInputError):
            champions[recipe] = store.current(recipe).name
    # Before the folders are listed: what they name is in the store by then.
    for path in sorted(models.glob(f"*/{CHAMPION}")):
        name = f"{MODELS}/{path.relative_to(models).as_posix()}"
        files[name] = copy_hashed(path, part / name)
    sources = dict(_sources(studies, models))
    sizes = {name: _size(source) for name, source in sources.items()}
    total, done = max(1, sum(sizes.values())), 0
    if facts["database"] == SQLITE:
        files[DATABASE] = hashed(part / DATABASE)
    for name, source in sources.items():
        report(name.split("/")[1], done / total)
        # A label that was being taken in, and was not, may be gone again; that of a row never is.
        with suppress(FileNotFoundError):
            files[name] = copy_hashed(source, part / name)
        done += sizes[name]
    report("done", 1.0)
    return Manifest(
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
        labels=len(rows),
        champions=champions,
        troubles=(*facts.pop("troubles"), *_bad_labels(rows, files)),
        files=files,
        **facts,
    )


def _copy_database(target: Path, database: Database) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Facts of the database as it was copied, and file and sha256 of each label that was not quarantined."""
    copied = database.copy_to(target)
    source = Database.open(target) if copied else database
    try:
        troubles = source.damage() if copied else []
        with source.reading() as c:
            troubles += verify(c)
            last, last_hash = last_row(c)
            rows = [(row.file, row.sha256) for row in labels(c) if row.status != QUARANTINED]
    finally:
        if copied:
            source.close()
    facts = {
        "database": SQLITE if copied else POSTGRESQL,
        "audit_rows": last,
        "audit_hash": last_hash,
        "troubles": troubles,
    }
    return facts, rows


def _bad_labels(rows: list[tuple[str, str]], files: Mapping[str, Kept]) -> Iterator[str]:
    for file, digest in rows:
        kept = files.get(f"{STUDIES}/{ACCEPTED}/{file}")
        if kept is None:
            yield f"the label {file} is in the database and its file is gone"
        elif kept.sha256 != digest:
            yield f"the label {file} is not what was accepted: its sha256 differs"


def _sources(studies: Path, models: Path) -> Iterator[tuple[str, Path]]:
    """Name in the backup and place of everything to copy after the database and the champions' manifests."""
    for path in files_below(models):
        if path.name != CHAMPION:
            yield f"{MODELS}/{path.relative_to(models).as_posix()}", path
    for folder in FOLDERS:
        for path in files_below(studies / folder):
            yield f"{STUDIES}/{path.relative_to(studies).as_posix()}", path
    for name in FILES:
        if (studies / name).is_file():
            yield f"{STUDIES}/{name}", studies / name


def files_below(folder: Path) -> list[Path]:
    """Files below a folder, sorted, without those that are hidden: they are being written."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def copy_hashed(source: Path, target: Path) -> Kept:
    """Copy a file's content; it is on the disk when this returns. What was copied is what was hashed."""
    with source.open("rb") as reading:
        target.parent.mkdir(parents=True, exist_ok=True)
        digest, size = sha256(), 0
        with target.open("xb") as writing:
            while block := reading.read(BLOCK_BYTES):
                digest.update(block)
                size += len(block)
                writing.write(block)
            writing.flush()
            os.fsync(writing.fileno())
    return Kept(digest.hexdigest(), size)


def hashed(path: Path) -> Kept:
    """Hash and size of a file."""
    with path.open("rb") as file:
        digest = sha256()
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
        return Kept(digest.hexdigest(), file.tell())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _below(name: str) -> str:
    """The name itself, if it stays below a folder. Raises ValueError: nobody wrote it who means well."""
    if name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"{name} leads out of the folder")
    return name


def read_manifest(folder: Path) -> Manifest:
    """What a backup says it holds. Raises BadInputError where it is none, or of a newer Overread."""
    path = Path(folder) / MANIFEST
    try:
        values = json.loads(path.read_text())
        if (said := values.pop("format")) != FORMAT:
            raise BadInputError(f"{path} has format {said}, this Overread reads {FORMAT}")
        files = {_below(name): Kept(**kept) for name, kept in values.pop("files").items()}
        troubles = tuple(values.pop("troubles"))
        return Manifest(files=files, troubles=troubles, **values)
    except FileNotFoundError:
        raise BadInputError(f"{folder} is no backup: it holds no {MANIFEST}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInputError(f"{path} cannot be read: {error}") from error
