"""The series of a PACS as studies: each is a volume of the local folder, under its SeriesInstanceUID."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from monailabel.datastore.local import DataModel, ImageLabelModel
from pydicom.dataset import Dataset

from overread.domain import BadInputError, NotFoundError
from overread.imaging.dicom.geometry_file import SUFFIX, read_geometry, write_geometry
from overread.imaging.dicom.series import Series, SeriesGeometry, read_series
from overread.imaging.volumes import write_nifti
from overread.learning.accepted import AcceptedLabels
from overread.server.datastore import BYTES_A_VOXEL, LABEL_SUFFIX, StudyStore
from overread.server.maps import MapStore
from overread.server.models import ServedModels
from overread.server.names import ANONYMOUS, checked_name
from overread.server.pacs.client import Pacs, SeriesEntry
from overread.server.pacs.ledger import Ledger

logger = logging.getLogger(__name__)

# PS3.5 chapter 9.
UID = re.compile(r"[0-9]+(\.[0-9]+)+")
LONGEST_UID = 64
HEADERS = "series"
REFUSED = "refused.jsonl"
PATIENT, COUNT = "patient", "instances"
# Objects that belong to images and are none, by the modality of their series.
NOT_IMAGES = frozenset(
    {"SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "SR", "PR", "KO", "REG", "FID", "RWV", "DOC", "PLAN"}
    | {"AU", "ECG", "EPS", "HD", "RESP", "SMR", "STAIN"}
)


class PacsStore(StudyStore):
    """A local copy of the series of a PACS, as a folder of studies.

    The images in the folder can be deleted and are fetched again. What is accepted of them lies beside them.

    Attributes:
        folder: of the copies.
        refused: why series are not served, by SeriesInstanceUID.
    """

    def __init__(
        self, folder: Path, models: ServedModels, maps: MapStore, accepted: AcceptedLabels, pacs: Pacs
    ):
        self.folder, self._pacs = folder, pacs
        self._fetching = threading.RLock()
        self._headers = folder / HEADERS
        self.refused = Ledger(folder / REFUSED)
        super().__init__(str(folder), [f"*{LABEL_SUFFIX}"], models, maps, accepted)
        self.patient_of = self._patient_of

    def known_image(self, image_id: str) -> Path:
        """File of an image, fetched from the PACS where it is not here yet.

        Raises:
            BadInputError: a name that cannot be one, or a series that is no volume. NotFoundError: the PACS does not
                have it. UnavailableError: it is not here, and the PACS does not answer.
        """
        try:
            return super().known_image(image_id)
        except NotFoundError:
            if not is_uid(image_id):
                raise NotFoundError(
                    f"no series is called {image_id!r}; images are named by SeriesInstanceUID"
                ) from None
        found = self._pacs.series({**dict(self._models.settings.pacs_filter), "SeriesInstanceUID": image_id})
        entry = next((entry for entry in found if entry.uid == image_id), None)
        if entry is None or entry.modality in NOT_IMAGES:
            raise NotFoundError(f"the PACS has no series {image_id} of images")
        self.fetch(entry)
        return super().known_image(image_id)

    def add_image(
        self, image_id: str, image_filename: str, image_info: dict[str, Any], may_replace: bool = True
    ) -> str:
        """Images come from the PACS. Raises BadInputError."""
        raise BadInputError(f"images come from the PACS here: store {image_id!r} into {self._pacs.shown_url}")

    def remove_image(self, image_id: str) -> None:
        """Images go with the PACS. Raises BadInputError."""
        raise BadInputError(f"images come from the PACS here: delete {image_id!r} in {self._pacs.shown_url}")

    def geometry(self, image_id: str) -> SeriesGeometry:
        """Where the slices of a series really lie. Raises as `known_image`."""
        self.known_image(image_id)
        return read_geometry(self._headers / f"{checked_name(image_id, 'image id')}{SUFFIX}")

    def study_of(self, image_id: str) -> str:
        """StudyInstanceUID of a series that is here."""
        return str(self.get_image_info(image_id).get("StudyInstanceUID") or "")

    def is_current(self, entry: SeriesEntry) -> bool:
        """Whether the copy of a series holds all that the PACS has, or was refused as it is."""
        refused = self.refused.get(entry.uid)
        if refused and refused[COUNT] == entry.count:
            return True
        with self._change:
            known = self._datastore.objects.get(entry.uid)
        return known is not None and known.image.info.get(COUNT) == entry.count

    def fetch(self, entry: SeriesEntry) -> None:
        """Copy a series, in the place of an earlier copy.

        Raises:
            BadInputError: it is no volume; why is noted in `refused`. UnavailableError: the PACS does not answer.
        """
        with self._fetching:
            if self.is_current(entry) and super().get_image_uri(entry.uid):
                return
            started = time.perf_counter()
            try:
                series = read_series(self._within_limit(entry))
            except BadInputError as error:
                self.refused.note(entry.uid, {COUNT: entry.count, "because": str(error)})
                logger.warning("Series %s (%s) is not served: %s", entry.uid, entry.modality, error)
                raise BadInputError(f"series {entry.uid} cannot be served: {error}") from error
            self._keep(entry, series)
            if self.refused.get(entry.uid):
                self.refused.note(entry.uid, None)
            for sentence in series.warnings:
                logger.warning("Series %s (%s): %s", entry.uid, entry.modality, sentence)
            logger.info(
                "Fetched series %s (%s), %s voxels, in %.1f s",
                entry.uid,
                entry.modality,
                "x".join(map(str, series.voxels.shape)),
                time.perf_counter() - started,
            )

    def forget(self, gone: set[str]) -> None:
        """Drop the copies of series that the PACS no longer has; accepted labels stay."""
        with self._change:
            for uid in gone:
                (Path(self._datastore.image_path()) / f"{uid}{LABEL_SUFFIX}").unlink(missing_ok=True)
                (self._headers / f"{uid}{SUFFIX}").unlink(missing_ok=True)
            self._reconcile_datastore()

    def _keep(self, entry: SeriesEntry, series: Series) -> None:
        written = self._incoming_file(LABEL_SUFFIX)
        write_nifti(written, series.voxels, series.grid)
        self._drop_labels_of_another(entry.uid, written, ANONYMOUS, may_replace=True)
        write_geometry(self._headers / f"{entry.uid}{SUFFIX}", series.geometry)
        target = Path(self._datastore.image_path()) / f"{entry.uid}{LABEL_SUFFIX}"
        info: dict[str, Any] = {
            **entry.info,
            "Modality": series.modality,
            "ts": int(time.time()),
            "name": target.name,
            PATIENT: series.patient,
            COUNT: entry.count,
        }
        if series.warnings:
            info["warnings"] = list(series.warnings)
        with self._change:
            self._init_from_datastore_file()
            self._place(written, target)
            before = self._datastore.objects.get(entry.uid)
            self._datastore.objects[entry.uid] = ImageLabelModel(
                image=DataModel(info=info, ext=LABEL_SUFFIX),
                labels=before.labels if before is not None else {},
            )
            self._update_datastore_file()
        if self._accepted is not None and before is None and self._accepted.newest(entry.uid) is not None:
            # It was here before, and people labelled it.
            self._show_accepted(self._accepted)

    def _within_limit(self, entry: SeriesEntry) -> Iterator[Dataset]:
        most, announced = self._models.settings.max_upload_bytes, 0
        for instance in self._pacs.files(entry):
            frames = int(instance.get("NumberOfFrames") or 1)
            announced += (
                int(instance.get("Rows") or 0) * int(instance.get("Columns") or 0) * frames * BYTES_A_VOXEL
            )
            if announced > most:
                raise BadInputError(f"its voxels take more than {most / 1e9:.3g} GB")
            yield instance

    def _patient_of(self, image_id: str) -> str:
        with self._change:
            known = self._datastore.objects.get(image_id)
        info: Mapping[str, Any] = known.image.info if known is not None else {}
        return str(info.get(PATIENT) or image_id)


def is_uid(name: str) -> bool:
    """Whether a name can be a UID."""
    return len(name) <= LONGEST_UID and UID.fullmatch(name) is not None
