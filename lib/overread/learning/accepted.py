"""What clinicians accepted: every label of every rater, where it came from, and what training may use.

A label is never written over: it gets the next revision of its rater and case. It is kept when `add` returns: voxels
and sidecar are on the disk, and its row is in the database. A process that is killed before leaves at most a draft,
which `settle` removes, or both files without their row, which `settle` writes anew.

Protected labels judge challengers and are never trained on. They come from the control arm only, never from cases
that were chosen by doubt. A patient's first label for a recipe decides, for ever: a patient who was learnt from is
never protected, and nothing of a protected patient is learnt from.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from sqlalchemy import Connection

from overread.domain import BadInputError, Grid, NotFoundError, OverreadError
from overread.domain.labels import IGNORE
from overread.imaging.headers import read_grid
from overread.imaging.volumes import label_difference, read_labelmap, write_nifti
from overread.learning.consensus import checked_consensus, counting, fused, per_rater
from overread.learning.label_files import (
    SIDECAR_SUFFIX,
    SUFFIX,
    at_work,
    file_name,
    read_sidecar,
    sha256_of,
    sidecar_of,
    sync,
    write_sidecar,
)
from overread.metrics.overlap import dice
from overread.state.audit import append
from overread.state.database import Database
from overread.state.labels import (
    ACCEPTED,
    APPROVED,
    FLAGGED,
    QUARANTINED,
    WITHDRAWN,
    LabelRow,
    add_label,
    labels,
    protections,
    set_status,
)
from overread.state.servings import CONTROL, SUBMITTED, Serving, end

logger = logging.getLogger(__name__)

FINAL = "final"
CACHE = ".consensus"
# Words of 3D Slicer's reviewer module; the last two take an earlier verdict back.
REVIEWS = {"approved": APPROVED, "flagged": FLAGGED, "segmented": ACCEPTED, "not segmented": ACCEPTED}
IN_USE = (ACCEPTED, APPROVED)


@dataclass(frozen=True, eq=False, kw_only=True)
class Submission:
    """Where a label comes from.

    Attributes:
        case_id, patient: of the image.
        rater: who made it.
        client_id: from which client.
        recipe: the model whose classes it speaks of; empty where none is known, and then it is not trained on.
        champion: identity of the ensemble that proposed; empty where none did.
        tag: `final`, or `version_N` of the reviewer module.
        interactions: what the client asked about this case before, plain JSON.
        serving: how the case came to the client; None where it was opened by hand.
        proposal: class indices that the champion proposed to this client, `(*space)`; None where it saw none.
        classes: names, the background first; empty where none are known.
        details: what else belongs to the label, plain JSON.
    """

    case_id: str
    patient: str
    rater: str
    client_id: str = ""
    recipe: str
    champion: str = ""
    tag: str = FINAL
    interactions: Sequence[Mapping[str, Any]] = ()
    serving: Serving | None = None
    proposal: np.ndarray | None = None
    classes: Sequence[str] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AcceptedCase:
    """A case that can be learnt from or judged on.

    Attributes:
        id, patient: of the image.
        image, label: files; the label holds class indices, and `IGNORE` where nobody labelled.
        raters: whose labels it is made of.
        protected: judges challengers and is never trained on; then it was drawn by the control arm.
        arm: how the case was chosen; empty where it was opened by hand.
        partial: some voxels are `IGNORE`.
        ratings: each rater's own label, where several gave one.
    """

    id: str
    patient: str
    image: Path
    label: Path
    raters: tuple[str, ...]
    protected: bool
    arm: str
    partial: bool
    ratings: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Settled:
    """What was put right after a crash.

    Attributes:
        restored: files of labels whose row was missing.
        dropped: files that were half written.
        unclear: sentences about files that are left as they are.
    """

    restored: tuple[str, ...]
    dropped: tuple[str, ...]
    unclear: tuple[str, ...]


class AcceptedLabels:
    """The accepted labels below one folder, `<studies>/accepted`."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder, self.database = Path(folder), database

    # -- taking in ----------------------------------------------------------------------------------------------

    def add(self, voxels: np.ndarray, grid: Grid, submission: Submission, now: float) -> LabelRow:
        """Keep a label; its row. See the module's docstring for what holds when this returns.

        Args:
            voxels: class indices on the image's grid, `IGNORE` where the rater did not label.

        Raises:
            BadInputError: another shape than the grid's, values that are no class, or nothing labelled at all.
        """
        return self.add_all([(voxels, grid, submission)], now)[0]

    def add_all(self, submitted: Sequence[tuple[np.ndarray, Grid, Submission]], now: float) -> list[LabelRow]:
        """Keep several labels that were sent as one: all of them, or none where an error is raised.

        Args:
            submitted: voxels, grid and origin of each label, as for `add`.

        Raises:
            BadInputError: one of them could not be added.
        """
        checked = [(_checked(voxels, grid, origin), grid, origin) for voxels, grid, origin in submitted]
        drafts: list[Path] = []
        with at_work(self.folder):
            try:
                for label, grid, submission in checked:
                    folder = self.folder / file_name(submission.case_id)
                    folder.mkdir(exist_ok=True)
                    drafts.append(folder / f".{uuid4().hex}{SUFFIX}")
                    write_nifti(drafts[-1], label, grid)
                    sync(drafts[-1])
                return self._place_all(drafts, [(label, origin) for label, _, origin in checked], now)
            finally:
                for draft in drafts:
                    draft.unlink(missing_ok=True)

    def _place_all(
        self, drafts: Sequence[Path], labels: Sequence[tuple[np.ndarray, Submission]], now: float
    ) -> list[LabelRow]:
        """Names for the files and rows for the database, in one transaction. An error takes all files back."""
        facts = [_against_proposal(label, origin) for label, origin in labels]
        digests = [sha256_of(draft) for draft in drafts]
        rows: list[LabelRow] = []
        try:
            with self.database.writing() as c:
                for draft, digest, (label, origin), known in zip(drafts, digests, labels, facts, strict=True):
                    row = self._row(c, origin, known, now)
                    row = replace(row, sha256=digest, partial=bool((label == IGNORE).any()))
                    rows.append(self._place(c, draft, row, now))
        except BaseException:
            for row in rows:
                self._take_back(row)
            raise
        return rows

    def _row(self, c: Connection, submission: Submission, facts: Mapping[str, Any], now: float) -> LabelRow:
        case, rater, serving = submission.case_id, submission.rater, submission.serving
        same = [row.revision for row in labels(c, case_id=case) if row.rater == rater]
        revision = max(same, default=0) + 1
        stem = f"{file_name(case)}/{file_name(rater)}"
        while any((self.folder / f"{stem}-{revision}{end}").exists() for end in (SUFFIX, SIDECAR_SUFFIX)):
            revision += 1
        arm = serving.arm if serving else ""
        return LabelRow(
            case_id=case,
            patient=submission.patient,
            rater=rater,
            client_id=submission.client_id,
            revision=revision,
            file=f"{stem}-{revision}{SUFFIX}",
            sha256="",
            tag=submission.tag,
            recipe=submission.recipe,
            champion=submission.champion,
            serving_id=serving.id if serving else None,
            strategy=serving.strategy if serving else "",
            arm=arm,
            reason=serving.reason if serving else "",
            took_s=max(0.0, now - serving.served_at) if serving else None,
            dice_to_proposal=facts["dice_to_proposal"],
            details={
                **submission.details,
                **facts["details"],
                "interactions": [dict(turn) for turn in submission.interactions],
            },
            partial=False,
            protected=_is_protected(c, submission.recipe, submission.patient, arm == CONTROL),
            submitted_at=now,
        )

    def _place(self, c: Connection, draft: Path, row: LabelRow, now: float) -> LabelRow:
        """Give the files their names and the database its row. An error takes the files back."""
        target = self.folder / row.file
        try:
            # The sidecar comes first: a label's file is never without it.
            write_sidecar(target, row)
            draft.replace(target)
            sync(target.parent)
            sync(self.folder)
            return self._record(c, row, "label accepted", now)
        except BaseException:
            self._take_back(row)
            raise

    def _take_back(self, row: LabelRow) -> None:
        target = self.folder / row.file
        target.unlink(missing_ok=True)
        sidecar_of(target).unlink(missing_ok=True)

    def _record(self, c: Connection, row: LabelRow, action: str, now: float) -> LabelRow:
        row = replace(row, id=add_label(c, row))
        told = (
            "rater",
            "revision",
            "file",
            "sha256",
            "tag",
            "recipe",
            "champion",
            "arm",
            "partial",
            "protected",
        )
        details = {name: getattr(row, name) for name in told}
        append(c, actor=row.rater, action=action, subject=row.case_id, details=details, now=now)
        if row.serving_id is not None:
            # A database that was lost took its servings with it.
            with suppress(NotFoundError):
                end(c, row.serving_id, SUBMITTED, now)
        return row

    # -- after a crash ------------------------------------------------------------------------------------------

    def settle(self, now: float) -> Settled:
        """Remove half-written files, and give every whole label its row. To be called when a server starts."""
        restored: list[str] = []
        dropped: list[str] = []
        unclear: list[str] = []
        with at_work(self.folder, alone=True), self.database.writing() as c:
            for draft in (*self.folder.glob("[!.]*/.*"), *self.folder.glob(f"{CACHE}/*/.*")):
                draft.unlink()
                dropped.append(str(draft.relative_to(self.folder)))
            known = {row.file for row in labels(c)}
            lost = []
            for sidecar in sorted(self.folder.glob(f"[!.]*/*{SIDECAR_SUFFIX}")):
                label = sidecar.with_name(sidecar.name.removesuffix(SIDECAR_SUFFIX) + SUFFIX)
                name = label.relative_to(self.folder).as_posix()
                if name in known:
                    continue
                if not label.exists():
                    sidecar.unlink()
                    dropped.append(str(sidecar.relative_to(self.folder)))
                    continue
                try:
                    lost.append(replace(read_sidecar(sidecar), file=name))
                except BadInputError as error:
                    unclear.append(str(error))
            for row in sorted(lost, key=lambda row: (row.submitted_at, row.revision)):
                protected = _is_protected(c, row.recipe, row.patient, row.protected)
                self._record(c, replace(row, protected=protected), "label restored", now)
                restored.append(row.file)
        for sentence in unclear:
            logger.warning("%s", sentence)
        if restored or dropped:
            logger.warning(
                "Accepted labels: %d rows restored, %d drafts removed", len(restored), len(dropped)
            )
        return Settled(tuple(restored), tuple(dropped), tuple(unclear))

    def check(
        self, recipe: str, image_of: Callable[[str], Path | None], classes: Sequence[str], now: float
    ) -> list[str]:
        """Quarantine labels that turned bad: gone, changed, unreadable, off the image's grid, or with odd values.

        Their files stay. Labels of images that are not here are left alone.

        Args:
            classes: the background first.

        Returns:
            A sentence for each label that was quarantined now.
        """
        with self.database.reading() as c:
            rows = [row for row in labels(c, recipe=recipe) if row.status in IN_USE]
        found = []
        for row in rows:
            image = image_of(row.case_id)
            why = None if image is None else self._fault(row, image, len(classes))
            if why is None:
                continue
            with self.database.writing() as c:
                set_status(c, row.id, QUARANTINED, why)
                details = {"file": row.file, "rater": row.rater, "because": why}
                append(
                    c,
                    actor="label check",
                    action="label quarantined",
                    subject=row.case_id,
                    details=details,
                    now=now,
                )
            found.append(
                f"label of {row.case_id} by {row.rater} (revision {row.revision}) is quarantined: {why}"
            )
            logger.warning("%s", found[-1])
        return found

    def _fault(self, row: LabelRow, image: Path, classes: int) -> str | None:
        path = self.folder / row.file
        try:
            if not path.exists():
                return f"{row.file} is gone"
            if sha256_of(path) != row.sha256:
                return f"{row.file} is not what was accepted: its sha256 differs"
            voxels, grid = read_labelmap(path)
            odd = voxels[((voxels < 0) | (voxels >= classes)) & (voxels != IGNORE)]
        except (OverreadError, OSError) as error:
            return str(error).replace(str(path), row.file)
        if odd.size:
            return f"{row.file} holds {odd[0]}, expected 0..{classes - 1} or {IGNORE}"
        try:
            wanted = read_grid(image)
        except (OverreadError, OSError) as error:
            # Not the label's fault; whoever reads the image will say so.
            logger.warning("Image of %s: %s", row.case_id, error)
            return None
        difference = label_difference(grid, wanted)
        return f"{row.file} lies on another grid than the image: {difference}" if difference else None

    # -- verdicts -----------------------------------------------------------------------------------------------

    def review(self, case_id: str, tag: str, status: str, by: str, comment: str, now: float) -> LabelRow:
        """Note a reviewer's verdict on the newest label of a case and tag; its row.

        Args:
            status: `approved`, `flagged`, `segmented` or `not segmented`.

        Raises:
            BadInputError: an unknown status, or the label is quarantined. NotFoundError: there is no such label.
        """
        if status not in REVIEWS:
            raise BadInputError(f"no review status is called {status!r}; there are {', '.join(REVIEWS)}")
        with self.database.writing() as c:
            row = _newest(c, case_id, tag)
            if row is None:
                raise NotFoundError(f"case {case_id!r} has no accepted label with tag {tag!r}")
            if row.status == QUARANTINED:
                raise BadInputError(
                    f"the label of case {case_id!r} with tag {tag!r} is quarantined: {row.status_reason}"
                )
            reason = f"{status} by {by}" + (f": {comment}" if comment else "")
            reason = "" if REVIEWS[status] == ACCEPTED and row.status == ACCEPTED else reason
            set_status(c, row.id, REVIEWS[status], reason)
            details = {
                "file": row.file,
                "tag": tag,
                "status": status,
                "comment": comment,
                "before": row.status,
            }
            append(c, actor=by, action="label reviewed", subject=case_id, details=details, now=now)
            return replace(row, status=REVIEWS[status], status_reason=reason)

    def withdraw(self, case_id: str, tag: str | None, by: str, reason: str, now: float) -> int:
        """Take all labels of a case with a tag (None: with any) out of use, whoever made them; how many.

        Their files stay.
        """
        with self.database.writing() as c:
            rows = [
                row
                for row in labels(c, case_id=case_id)
                if row.status != WITHDRAWN and tag in (None, row.tag)
            ]
            for row in rows:
                set_status(c, row.id, WITHDRAWN, reason)
                details = {"file": row.file, "tag": row.tag, "because": reason, "before": row.status}
                append(c, actor=by, action="label withdrawn", subject=case_id, details=details, now=now)
        return len(rows)

    # -- giving out ---------------------------------------------------------------------------------------------

    def newest(self, case_id: str, tag: str = FINAL) -> LabelRow | None:
        """The newest label of a case and tag that was not withdrawn, whoever made it."""
        with self.database.reading() as c:
            return _newest(c, case_id, tag)

    def cases(
        self,
        recipe: str,
        image_of: Callable[[str], Path | None],
        consensus: str = "latest",
        classes: Sequence[str] = (),
    ) -> list[AcceptedCase]:
        """What training and the gate may use, in the order of the cases' names. Call `check` before.

        Left out are cases whose image is not here, and cases of a protected patient that were not drawn by the
        control arm: they may neither be learnt from nor judge.

        Args:
            image_of: file of a case's image; None where it is not here.
            consensus: `latest`, the newest label that counts; `majority` or `staple` over each rater's newest.
            classes: the background first; needed where raters are fused.

        Raises:
            BadInputError: an unknown consensus, or labels that cannot be fused.
        """
        consensus = checked_consensus(consensus)
        by_case: dict[str, list[LabelRow]] = {}
        with self.database.reading() as c:
            for row in labels(c, recipe=recipe):
                by_case.setdefault(row.case_id, []).append(row)
        found = []
        for case, rows in sorted(by_case.items()):
            image, words = image_of(case), counting(rows)
            if image is None or not words:
                continue
            arms = [row.arm for row in rows if row.arm]
            arm = CONTROL if CONTROL in arms else next(iter(arms), "")
            protected = any(row.protected for row in rows)
            if protected and arm != CONTROL:
                continue
            of_raters = per_rater(words)
            ratings = tuple(self.folder / row.file for row in of_raters) if len(of_raters) > 1 else ()
            if consensus == "latest" or not ratings:
                label, raters, partial = self.folder / words[-1].file, (words[-1].rater,), words[-1].partial
            else:
                label, partial = fused(self.folder, self.folder / CACHE, of_raters, consensus, classes)
                raters = tuple(row.rater for row in of_raters)
            found.append(
                AcceptedCase(
                    case,
                    rows[0].patient,
                    image,
                    label,
                    raters,
                    protected,
                    arm,
                    partial=partial,
                    ratings=ratings,
                )
            )
        return found


def _newest(c: Connection, case_id: str, tag: str) -> LabelRow | None:
    rows = [row for row in labels(c, case_id=case_id) if row.tag == tag and row.status != WITHDRAWN]
    return rows[-1] if rows else None


def _is_protected(c: Connection, recipe: str, patient: str, first: bool) -> bool:
    """Whether a patient's labels are protected; `first` decides where this is the first of them."""
    earlier = protections(c, recipe, patient)
    return any(earlier) if earlier else first


def _checked(voxels: np.ndarray, grid: Grid, submission: Submission) -> np.ndarray:
    for name in ("case_id", "patient", "rater", "tag"):
        if not getattr(submission, name):
            raise BadInputError(f"a label's {name} is empty")
    if voxels.shape != grid.shape:
        raise BadInputError(f"the label has shape {voxels.shape}, its grid {grid.shape}")
    if voxels.dtype.kind not in "iub":
        raise BadInputError(f"the label holds {voxels.dtype}, expected whole numbers")
    highest = len(submission.classes) - 1 if submission.classes else IGNORE - 1
    odd = voxels[((voxels < 0) | (voxels > highest)) & (voxels != IGNORE)]
    if odd.size:
        raise BadInputError(f"the label holds {odd[0]}, expected 0..{highest} or {IGNORE} (not labelled)")
    if (voxels == IGNORE).all():
        raise BadInputError("nothing is labelled: every voxel is marked as not labelled")
    return voxels.astype(np.uint8)


def _against_proposal(label: np.ndarray, submission: Submission) -> dict[str, Any]:
    """How much was corrected, over the voxels that were labelled. Classes that neither side holds are left out."""
    known = label != IGNORE
    details: dict[str, Any] = {"classes": list(submission.classes), "voxels_labelled": int(known.sum())}
    proposal, classes = submission.proposal, len(submission.classes)
    if proposal is None or proposal.shape != label.shape or classes < 2 or proposal.max(initial=0) >= classes:
        return {"dice_to_proposal": None, "details": details}
    per_class = dice(proposal[known], label[known], classes, both_empty=float("nan"))
    values = {
        name: round(float(value), 6)
        for name, value in zip(submission.classes[1:], per_class, strict=True)
        if np.isfinite(value)
    }
    changed = int((proposal[known] != label[known]).sum())
    details |= {"dice": values, "voxels_changed": changed}
    return {"dice_to_proposal": float(np.mean(list(values.values()))) if values else None, "details": details}
