"""Labels that others stored into the PACS, such as OHIF's users, are taken in like submitted ones."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from overread.domain import BadInputError, NotFoundError, UnavailableError
from overread.imaging.dicom.origin import plain_name
from overread.imaging.dicom.segmentation import (
    Segments,
    read_segmentation_object,
    referenced_instances,
    referenced_series,
)
from overread.imaging.headers import read_grid
from overread.imaging.volumes import write_nifti
from overread.learning.accepted import FINAL, AcceptedLabels
from overread.server.labels import NOT_CLASSES
from overread.server.maps import MapStore
from overread.server.models import ServedModels
from overread.server.overlays import OVERLAY_NAMES
from overread.server.pacs.client import Pacs, SeriesEntry
from overread.server.pacs.ledger import INSTANCE, Ledger
from overread.server.pacs.patience import Patience
from overread.server.pacs.store import PacsStore
from overread.state.labels import labels as label_rows

logger = logging.getLogger(__name__)

# In an accepted label's details: the SOPInstanceUID that it was read from.
FROM_PACS = "pacs_instance"
# Who stored a label that does not name its maker.
UNKNOWN = "PACS"
# What is noted of a SEG: the study and the series that it belongs to, and why it is no label.
STUDY, CASE, BECAUSE = "study", "case", "because"


class NoLabelError(BadInputError):
    """A segmentation that nobody means as a label for this server: made by a machine, or of a series not served."""


class LabelsIn:
    """Takes each DICOM SEG of others in once.

    Args:
        seen: what became of each SEG, and how many files each SEG series had.
        sent: what we stored ourselves.
        senders: who was signed in when a SEG was stored through this server.
    """

    def __init__(
        self,
        pacs: Pacs,
        store: PacsStore,
        accepted: AcceptedLabels,
        models: ServedModels,
        maps: MapStore,
        seen: Ledger,
        sent: Ledger,
        senders: Ledger,
    ) -> None:
        self._pacs, self._store, self._accepted = pacs, store, accepted
        self._models, self._maps = models, maps
        self._seen, self._sent, self._senders = seen, sent, senders
        self._patience = Patience()

    def note_sender(self, uid: str, user: str) -> None:
        """A SEG is about to be stored by somebody who is signed in: what its file says of its maker counts less."""
        self._senders.note(uid, user)

    def refused(self) -> list[dict[str, str]]:
        """What somebody drew and is not learnt from, the latest last.

        One item each with the `segmentation`'s SOPInstanceUID, its `study` and `case` (none where the file cannot be
        read), its `name` in viewers, who `drew` it and why (`because`). A later one of the same case that was taken in
        makes up for those before it.
        """
        refused: dict[str, dict[str, str]] = {}
        for uid, verdict in self._seen.items():
            # Segmentations seen by earlier versions have a sentence, series have their number of files.
            if not isinstance(verdict, dict):
                continue
            if BECAUSE in verdict:
                refused[uid] = {"segmentation": uid, **verdict}
            elif "file" in verdict:
                refused = {key: it for key, it in refused.items() if not _is_of(it, verdict)}
        return list(refused.values())

    def look(self) -> None:
        """Take in what is new. Raises UnavailableError where the PACS does not answer."""
        self._patience.begin()
        ours = {each[INSTANCE] for _, stored in self._sent.items() for each in stored}
        for entry in self._pacs.series({"Modality": "SEG"}):
            key = f"series {entry.uid}"
            if entry.count is not None and self._seen.get(key) == entry.count:
                continue
            new = [uid for uid in self._pacs.instances(entry) if uid not in ours and uid not in self._seen]
            decided = [self._take(entry, uid) for uid in new]
            if all(decided):
                self._seen.note(key, entry.count)

    def _take(self, entry: SeriesEntry, uid: str) -> bool:
        """Whether it is decided what becomes of a segmentation."""
        verdict, instance = {STUDY: entry.study_uid}, Dataset()
        try:
            instance = self._pacs.file(entry, uid)
            verdict[CASE] = self._case_of(instance, entry)
            verdict["file"] = self._accept(instance, verdict[CASE])
        except UnavailableError as error:
            self._patience.failed(f"Segmentation {uid}", error)
            return False
        except NoLabelError as error:
            verdict["left_alone"] = str(error)
        except BadInputError as error:
            verdict |= {BECAUSE: str(error), "name": str(instance.get("SeriesDescription") or "")}
            verdict["drew"] = self._senders.get(uid) or plain_name(instance.get("ContentCreatorName"))
        if BECAUSE in verdict:
            logger.warning("Segmentation %s in the PACS is not taken in: %s", uid, verdict[BECAUSE])
        elif "left_alone" in verdict:
            logger.info("Segmentation %s in the PACS is left alone: %s", uid, verdict["left_alone"])
        else:
            logger.info("Segmentation %s in the PACS is taken in: %s", uid, verdict["file"])
        self._patience.worked(f"Segmentation {uid}")
        self._seen.note(uid, verdict)
        return True

    def _accept(self, instance: Dataset, case: str) -> str:
        uid = str(instance.SOPInstanceUID)
        before = self._taken_before(case, uid)
        if before:
            return before
        segments = read_segmentation_object(instance, self._store.geometry(case))
        if segments.is_automatic:
            raise NoLabelError("no person had a hand in it (algorithm type AUTOMATIC)")
        sender = self._senders.get(uid) or ""
        segments = replace(segments, names=self._our_names(segments.names))
        segments = self._those_meant(segments, case, sender)
        names = segments.names
        labels = label_map(segments, names)
        file = Path(tempfile.gettempdir()) / f"{uid}.nii.gz"
        try:
            write_nifti(file, labels, read_grid(self._store.known_image(case)))
            facts = self._store.submit(
                case,
                file,
                FINAL,
                {"label_info": [{"name": name} for name in names], "client_id": sender},
                user=sender or plain_name(segments.creator) or UNKNOWN,
                details={FROM_PACS: uid, "manufacturer": segments.manufacturer},
            )
        finally:
            file.unlink(missing_ok=True)
        return str(facts["file"])

    def _case_of(self, instance: Dataset, entry: SeriesEntry) -> str:
        """The series that a segmentation belongs to. Raises NoLabelError where there is none."""
        for uid in referenced_series(instance):
            try:
                self._store.known_image(uid)
            except NotFoundError:
                continue
            return uid
        wanted = referenced_instances(instance)
        for case in self._store.list_images():
            if self._store.study_of(case) == entry.study_uid and any(
                str(image.SOPInstanceUID) in wanted for image in self._store.geometry(case).instances
            ):
                return case
        raise NoLabelError("it names no series that is served here")

    def _taken_before(self, case: str, uid: str) -> str:
        """File of the label that was made of a segmentation just before a crash; empty for none."""
        with self._accepted.database.reading() as c:
            rows = label_rows(c, case_id=case)
        return next((row.file for row in rows if row.details.get(FROM_PACS) == uid), "")

    def _those_meant(self, segments: Segments, case: str, client: str) -> Segments:
        """Without the empty ones where they say nothing: OHIF lists the classes of all models, whichever was asked."""
        drawn = drawn_of(segments)
        asked = self._maps.seen_last(case, client, self._models.with_classes(classes_in(drawn)))
        return drawn if asked or not self._models.with_classes(classes_in(segments)) else segments

    def _our_names(self, names: Sequence[str]) -> tuple[str, ...]:
        """The names as the models spell them, where that differs in case or blanks only."""
        known: set[str] = set(OVERLAY_NAMES)
        for model in self._models.names():
            known |= set(self._models.classes(model) or ())
        spelled = {_folded(name): name for name in known}
        return tuple(spelled.get(_folded(name), name) for name in names)


def _is_of(refused: Mapping[str, str], accepted: Mapping[str, str]) -> bool:
    """Whether a segmentation belongs to the case of another; to its study where the case is not known."""
    return refused[STUDY] == accepted[STUDY] and refused.get(CASE, accepted[CASE]) == accepted[CASE]


def classes_in(segments: Segments) -> set[str]:
    """Names of segments that are to be classes of a model."""
    return set(segments.names) - NOT_CLASSES


def drawn_of(segments: Segments) -> Segments:
    """The segments that have a voxel; all of them where none has one."""
    drawn = segments.masks.any(axis=(1, 2, 3))
    if not drawn.any():
        return segments
    names = tuple(name for name, is_drawn in zip(segments.names, drawn, strict=True) if is_drawn)
    return replace(segments, names=names, masks=segments.masks[drawn])


def label_map(segments: Segments, names: Collection[str]) -> np.ndarray:
    """One value a segment, from 1, uint8 `(i, j, k)`.

    Where segments overlap the later one wins, as in 3D Slicer, and each wins over the bands of doubt.

    Raises:
        BadInputError: more segments than 8 bits hold.
    """
    if len(segments.names) > np.iinfo(np.uint8).max:
        raise BadInputError(
            f"it has {len(segments.names)} segments, at most {np.iinfo(np.uint8).max} are read"
        )
    labels = np.zeros(segments.masks.shape[1:], np.uint8)
    drawn = sorted(enumerate(names, start=1), key=lambda each: each[1] not in OVERLAY_NAMES)
    for value, _ in drawn:
        labels[segments.masks[value - 1]] = value
    return labels


def _folded(name: str) -> str:
    return " ".join(name.casefold().split())
