"""Accepted labels go into the PACS: as DICOM SEG, and on wish with the probabilities and the doubt behind them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import numpy as np
from pydicom.dataset import Dataset

from overread.domain import BadInputError, OverreadError, UnavailableError
from overread.imaging.dicom.origin import Origin
from overread.imaging.dicom.parametric import doubt_map
from overread.imaging.dicom.segmentation import label_segmentation, probability_segmentation
from overread.imaging.dicom.series import SeriesGeometry
from overread.imaging.volumes import read_array, read_labelmap
from overread.learning.accepted import IN_USE, AcceptedLabels
from overread.server.maps import MapKey, MapStore
from overread.server.pacs.client import Pacs
from overread.server.pacs.labels_in import FROM_PACS
from overread.server.pacs.ledger import INSTANCE, SERIES, Ledger
from overread.server.pacs.patience import Patience
from overread.server.pacs.store import PacsStore
from overread.server.store import ACCEPTED_TAGS
from overread.state.labels import LabelRow
from overread.state.labels import labels as label_rows
from overread.uncertainty.measures import MEASURES

logger = logging.getLogger(__name__)

PROBABILITY = "probability_"


class LabelsOut:
    """Stores each accepted label once. UIDs follow from the label, so that a repetition changes nothing.

    Args:
        with_maps: whether probabilities and doubt go along.
        sent: which label files were stored, with the UIDs of their objects.
    """

    def __init__(
        self,
        pacs: Pacs,
        store: PacsStore,
        accepted: AcceptedLabels,
        maps: MapStore,
        sent: Ledger,
        with_maps: bool,
    ) -> None:
        self._pacs, self._store, self._accepted = pacs, store, accepted
        self._maps, self._with_maps, self._sent = maps, with_maps, sent
        # How many waited at the last look, and what the PACS refused; that is tried again at the next start.
        self.count = 0
        self._patience = Patience()
        self.refused: dict[str, str] = {}

    def waiting(self) -> list[LabelRow]:
        """Accepted labels that the PACS does not have yet; what came from there is there."""
        with self._accepted.database.reading() as c:
            return [
                row
                for row in label_rows(c)
                if row.status in IN_USE
                and ACCEPTED_TAGS.fullmatch(row.tag)
                and FROM_PACS not in row.details
                and len(row.details.get("classes", ())) > 1
                and row.file not in self._sent
                and row.file not in self.refused
            ]

    def look(self) -> None:
        """Store what waits. Raises UnavailableError where the PACS does not answer; then it goes on waiting."""
        self._patience.begin()
        rows = self.waiting()
        self.count = len(rows)
        for row in rows:
            try:
                stored = [self._store_one(made) for made in self._objects(row)]
            except UnavailableError as error:
                self._patience.failed(f"Label {row.file}", error)
                continue
            except OverreadError as error:
                self.refused[row.file] = str(error)
                self.count -= 1
                logger.error("Label %s cannot be stored into the PACS: %s", row.file, error)
                continue
            self._patience.worked(f"Label {row.file}")
            self._sent.note(row.file, stored)
            self.count -= 1
            logger.info("Label %s is in the PACS as %s", row.file, stored[0][INSTANCE])

    def _store_one(self, made: Callable[[], tuple[Dataset, str]]) -> dict[str, str]:
        instance, study = made()
        self._pacs.store(instance, study)
        return {SERIES: str(instance.SeriesInstanceUID), INSTANCE: str(instance.SOPInstanceUID)}

    def _objects(self, row: LabelRow) -> Iterator[Callable[[], tuple[Dataset, str]]]:
        """What is made of a label, one at a time: maps are large."""
        geometry, study = self._store.geometry(row.case_id), self._store.study_of(row.case_id)
        yield lambda: (self._label(row, geometry), study)
        if self._with_maps and row.champion:
            key = MapKey(row.recipe, row.champion, row.case_id)
            names = self._maps.names(key)
            probabilities = [name for name in names if name.startswith(PROBABILITY)]
            if probabilities:
                yield lambda: (self._probabilities(row, geometry, key), study)
            for name in (name for name in names if name in MEASURES):
                yield lambda name=name: (self._doubt(row, geometry, key, name), study)

    def _label(self, row: LabelRow, geometry: SeriesGeometry) -> Dataset:
        labels, _ = read_labelmap(self._accepted.folder / row.file)
        if labels.shape != geometry.shape:
            raise BadInputError(f"it has shape {labels.shape}, its series {geometry.shape}")
        return label_segmentation(geometry, labels, row.details["classes"], label_origin(row))

    def _probabilities(self, row: LabelRow, geometry: SeriesGeometry, key: MapKey) -> Dataset:
        classes = [
            name for name in row.details["classes"][1:] if f"{PROBABILITY}{name}" in self._maps.names(key)
        ]
        stack = np.stack([read_array(self._maps.path(key, f"{PROBABILITY}{name}"))[0] for name in classes])
        return probability_segmentation(geometry, stack, classes, self._machines(row, "probabilities"))

    def _doubt(self, row: LabelRow, geometry: SeriesGeometry, key: MapKey, name: str) -> Dataset:
        doubt = read_array(self._maps.path(key, name))[0]
        return doubt_map(geometry, doubt, name, MEASURES[name].unit, self._machines(row, name))

    def _machines(self, row: LabelRow, what: str) -> Origin:
        """Origin of what a champion said of a case, whoever accepts how many labels of it."""
        return Origin("|".join((row.case_id, row.recipe, row.champion, what)), "", row.recipe, row.champion)


def label_origin(row: LabelRow) -> Origin:
    """Where an accepted label comes from, as its DICOM object says it."""
    partial = "; voxels that nobody labelled are in no segment" if row.partial else ""
    return Origin(
        key=f"{row.file}|{row.sha256}",
        reader=row.rater,
        recipe=row.recipe,
        champion=row.champion,
        description=f"accepted label, revision {row.revision}{partial}",
    )
