"""What must hold after `kill -9`: labels that were answered are there, the champion loads, all memories agree."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from sqlalchemy import Connection

from overread.domain import OverreadError
from overread.ensemble.storage import load_ensemble
from overread.imaging.volumes import read_labelmap
from overread.learning.accepted import FINAL
from overread.learning.champions import INCOMING, MANIFEST
from overread.learning.label_files import SUFFIX, sha256_of, sidecar_of
from overread.learning.process import ACCEPTED, PROGRESS, REQUEST
from overread.state import audit
from overread.state.database import Database
from overread.state.decisions import DecisionRow, decisions
from overread.state.labels import LabelRow, labels
from overread.state.models import CHAMPION, models
from overread.state.servings import open_servings
from overread.studies.kill_place import RECIPE, Place
from overread.studies.kill_reader import Ledger, digest_of

INDEX = "datastore_v2.json"


def while_dead(place: Place) -> tuple[list[str], list[str]]:
    """What the killed left behind, while nothing runs: what is wrong, and what the next start has to put right."""
    manifest = place.store.recipe_folder(RECIPE) / MANIFEST
    own = [place.studies / INDEX, place.training / REQUEST, place.training / PROGRESS, manifest]
    wrong = [sentence for path in own for sentence in _half_written(path)]
    database = Database.open(place.database)
    try:
        with database.reading() as c:
            wrong += _damage(c)
            rows, decided = labels(c), decisions(c, RECIPE)
    finally:
        database.close()
    return wrong, [*_unfinished_labels(place, rows), *_unfinished_promotions(place, decided)]


def _half_written(path: Path) -> Iterable[str]:
    """Files that are there and are no JSON."""
    try:
        json.loads(path.read_text())
    except FileNotFoundError:
        return
    except ValueError as error:
        yield f"{path.name} is half written: {error}"


def _unfinished_labels(place: Place, rows: Sequence[LabelRow]) -> Iterable[str]:
    folder, known = place.studies / ACCEPTED, {row.file for row in rows}
    if any(folder.glob(f"*/.*{SUFFIX}")):
        yield "a half-written label"
    if _files(folder) - known:
        yield "a label without its row"


def _unfinished_promotions(place: Place, decided: Sequence[DecisionRow]) -> Iterable[str]:
    folder, current = place.store.recipe_folder(RECIPE), place.store.current(RECIPE).name
    if any(folder.glob(f"{INCOMING}*")):
        yield "a half-copied challenger"
    known = {place.starter, *(row.challenger for row in decided)}
    if any(path.is_dir() and path.name not in known for path in folder.glob("[!.]*")):
        yield "a challenger without its decision"
    for row in decided:
        if row.promoted and not row.applied:
            applied = row.challenger == current
            yield "a promotion that was not noted" if applied else "a decision that was not applied"


def _files(folder: Path) -> set[str]:
    """Labels that are there, by their path below the label store."""
    return {path.relative_to(folder).as_posix() for path in folder.glob(f"[!.]*/[!.]*{SUFFIX}")}


def labels_kept(place: Place, ledger: Ledger) -> list[str]:
    """What is wrong with labels while the server runs and nobody submits; a sentence each."""
    database = Database.open(place.database)
    try:
        with database.reading() as c:
            rows = labels(c)
            told = [row for row in audit.rows(c) if row.action in ("label accepted", "label restored")]
    finally:
        database.close()
    wrong = [*_kept(place, ledger, rows), *_shown(place, rows)]
    if len(told) != len(rows):
        wrong.append(f"there are {len(rows)} labels, but {len(told)} in the audit log")
    return wrong


def memories_agree(place: Place) -> list[str]:
    """What is wrong with database, champion store and the decisions between them; a sentence each."""
    wrong = []
    try:
        load_ensemble(place.store.current(RECIPE), verify=True)
    except OverreadError as error:
        wrong.append(f"the champion cannot be loaded: {error}")
    database = Database.open(place.database)
    try:
        with database.reading() as c:
            wrong += _damage(c)
            wrong += _decisions(place, c)
            held = sorted(serving.case_id for serving in open_servings(c))
    finally:
        database.close()
    if len(held) != len(set(held)):
        wrong.append(f"a case is with two readers: {', '.join(held)}")
    return wrong


def _damage(c: Connection) -> list[str]:
    said = [row[0] for row in c.exec_driver_sql("PRAGMA integrity_check")]
    return [*(f"the database: {words}" for words in said if words != "ok"), *audit.verify(c)]


def _kept(place: Place, ledger: Ledger, rows: Sequence[LabelRow]) -> Iterable[str]:
    """Every label that was answered is kept as it was sent; what else is kept was sent too."""
    folder, by_id = place.studies / ACCEPTED, {row.id: row for row in rows}
    sent = {label.digest: label for label in ledger.sent}
    kept: dict[str, LabelRow] = {}
    for row in rows:
        file = folder / row.file
        if not file.exists() or not sidecar_of(file).exists():
            yield f"label {row.id} of {row.case_id}: {row.file} or its sidecar is gone"
            continue
        if sha256_of(file) != row.sha256:
            yield f"label {row.id} of {row.case_id}: {row.file} is not what was accepted"
        digest = _digest(file)
        if digest in kept:
            yield f"labels {kept[digest].id} and {row.id} are the same"
        kept[digest] = row
        if digest not in sent or sent[digest].case != row.case_id:
            yield f"label {row.id} of {row.case_id} was never sent"
    for label in ledger.answered():
        row = by_id.get(int((label.accepted or {})["id"]))
        if row is None or kept.get(label.digest) != row:
            yield f"the label of {label.case} that was answered with {label.accepted} is lost"
    if strays := _files(folder) - {row.file for row in rows}:
        yield f"files without a row: {sorted(strays)}"


def _shown(place: Place, rows: Sequence[LabelRow]) -> Iterable[str]:
    """Viewers see the newest label of each case."""
    try:
        index = json.loads((place.studies / INDEX).read_text())["objects"]
    except ValueError as error:
        yield f"{INDEX} cannot be read: {error}"
        return
    if missing := set(place.names()) - index.keys():
        yield f"{INDEX} lacks {', '.join(sorted(missing))}"
    for case, row in {row.case_id: row for row in rows}.items():
        shown, kept = (
            place.studies / "labels" / FINAL / f"{case}{SUFFIX}",
            place.studies / ACCEPTED / row.file,
        )
        if FINAL not in index.get(case, {}).get("labels", {}) or not shown.exists():
            yield f"the label of {case} is not shown"
        elif kept.exists() and _digest(shown) != _digest(kept):
            yield f"the label of {case} that is shown is not its newest"


def _digest(file: Path) -> str:
    return digest_of(read_labelmap(file)[0])


def _decisions(place: Place, c: Connection) -> Iterable[str]:
    current, store = place.store.current(RECIPE).name, place.store
    for row in decisions(c, RECIPE):
        if row.promoted and not row.applied:
            yield f"the decision for {row.challenger} is not applied"
    promoted = [row.challenger for row in decisions(c, RECIPE) if row.promoted]
    terms = {term.champion for term in store.history(RECIPE)}
    if lost := [name for name in promoted if name not in terms]:
        yield f"promoted, but never in service: {lost}"
    if strays := terms - {*promoted, place.starter}:
        yield f"in service without a decision: {sorted(strays)}"
    named = [row.identity for row in models(c, RECIPE) if row.status == CHAMPION]
    if named != [current]:
        yield f"the database has {named} for champion, the manifest {current}"
