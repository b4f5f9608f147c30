"""`overread backup` and `overread restore`: what cannot be made again, in one folder, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from overread.cli.console import (
    AppOption,
    DatabaseOption,
    JsonOption,
    ModelsOption,
    answers,
    champion_store,
    database_place,
    existing_database,
    print_json,
    progress_bar,
    remarks,
)

if TYPE_CHECKING:
    from overread.learning.backup import Manifest


def backup(
    folder: Annotated[Path, typer.Argument(help="New folder for the backup.")],
    studies: Annotated[
        Path,
        typer.Option(exists=True, file_okay=False, help="Folder of the images, with the labels below it."),
    ],
    app: AppOption = None,
    models: ModelsOption = None,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy labels, database and champions into a folder, while the server runs.

    Images are not copied: the PACS or the disk they came from has them. `manifest.json` in the folder holds the
    sha256 of every file. Exits with 1 where a label or the database was damaged already; the backup is kept then,
    and what is wrong is told.

    Of a PostgreSQL database only the audit log's last hash is noted. Save it with PostgreSQL's own tool, before the
    backup: `pg_dump --format=custom --file=overread.dump URL`.

    Examples:

        overread backup /backup/2026-11-26 --studies ~/studies

        overread backup /backup/slides --app pathology --studies ~/slides --json
    """
    from overread.learning.backup import make_backup

    store = champion_store(app, models)
    with existing_database(app, database) as opened, progress_bar() as bar:
        task = bar.add_task("database", total=1)
        manifest = make_backup(
            folder,
            studies,
            store.root,
            opened,
            lambda what, share: bar.update(task, description=what, completed=share),
        )
    if as_json:
        print_json({"folder": str(folder), **_facts(manifest)})
    else:
        answers.print(f"{_sentence(manifest)} saved in {folder}", markup=False, soft_wrap=True)
        answers.print(
            f"Last of {manifest.audit_rows} audit rows: {manifest.audit_hash}", markup=False, soft_wrap=True
        )
    _tell_of_postgresql(manifest, "was not copied; save it with `pg_dump --format=custom`")
    for sentence in manifest.troubles:
        remarks.print(f"Error: {sentence}", style="red", markup=False, soft_wrap=True)
    if manifest.troubles:
        raise typer.Exit(1)


def restore(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of the backup.")],
    studies: Annotated[
        Path | None,
        typer.Option(
            file_okay=False, help="Folder of the images, into which the labels go.", show_default=False
        ),
    ] = None,
    app: AppOption = None,
    models: ModelsOption = None,
    database: DatabaseOption = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Set aside what is there, under its name and the time; nothing is deleted."
        ),
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Only read the backup and say whether it is whole.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Put labels, database and champions of a backup back, while no server runs.

    All hashes and the chain of the audit log are checked before anything is written. Refuses to touch what is there
    already, unless told.

    A PostgreSQL database is restored with `pg_restore --clean --if-exists --dbname=URL overread.dump`, before the
    server starts; without it the server makes the rows of labels anew from the files beside them.

    Examples:

        overread restore /backup/2026-11-26 --check

        overread restore /backup/2026-11-26 --studies ~/studies

        overread restore /backup/2026-11-26 --studies ~/studies --overwrite
    """
    from overread.learning.restoring import check_backup, restore_backup

    if studies is None and not check:
        raise typer.BadParameter("say where the images lie with --studies, or only --check the backup")
    with progress_bar() as bar:
        task = bar.add_task("checking", total=1)

        def report(what: str, share: float) -> None:
            bar.update(task, description=what, completed=share)

        if check or studies is None:
            manifest = check_backup(folder, report)
            told: dict[str, Any] = {"whole": True}
            sentence = f"{folder} is whole: {_sentence(manifest)} from {manifest.made_at}"
        else:
            place = database_place(app, database)
            store = champion_store(app, models)
            restored = restore_backup(folder, studies, store.root, place, overwrite=overwrite, report=report)
            manifest = restored.manifest
            told = {
                "restored": [str(path) for path in restored.places],
                "set_aside": [str(path) for path in restored.set_aside],
            }
            sentence = f"{_sentence(manifest)} from {manifest.made_at} are back"
    if as_json:
        print_json({"folder": str(folder), **told, **_facts(manifest)})
    else:
        answers.print(sentence, markup=False, soft_wrap=True)
        for path in told.get("set_aside", ()):
            answers.print(f"Set aside: {path}", markup=False, soft_wrap=True)
    _tell_of_postgresql(manifest, "is not in the backup; put it back with `pg_restore`")


def _sentence(manifest: Manifest) -> str:
    champions = ", ".join(f"{name} {version}" for name, version in manifest.champions.items())
    return (
        f"{manifest.labels} labels, champions ({champions or 'none'}), {len(manifest.files)} files, "
        f"{manifest.bytes / 1e6:.1f} MB"
    )


def _facts(manifest: Manifest) -> dict[str, Any]:
    facts = manifest.to_json()
    return facts | {"files": len(manifest.files), "bytes": manifest.bytes}


def _tell_of_postgresql(manifest: Manifest, what: str) -> None:
    from overread.learning.backup import POSTGRESQL

    if manifest.database == POSTGRESQL:
        remarks.print(
            f"The PostgreSQL database {what}; see --help.", style="yellow", markup=False, soft_wrap=True
        )
