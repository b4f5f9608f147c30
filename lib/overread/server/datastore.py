"""The studies folder: MONAI Label's own store, with a guard in front of everything that is written."""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore

from overread.domain import BadInputError, Grid, NotFoundError, OverreadError
from overread.domain.labels import IGNORE
from overread.imaging.headers import read_grid, read_header
from overread.imaging.volumes import READABLE_SUFFIXES, read_array, read_labelmap, read_volume, write_nifti
from overread.learning.accepted import FINAL, AcceptedLabels
from overread.server.index import reconciled
from overread.server.inference import called
from overread.server.labels import NOT_CLASSES, AcceptedLabel, accept, names_in_order, read_segmentation
from overread.server.maps import MapStore
from overread.server.models import ServedModels
from overread.server.names import ANONYMOUS, checked_name, rater_name
from overread.server.partial import labelled_part
from overread.server.patients import Patients
from overread.server.provenance import label_facts, submission_of
from overread.state.labels import QUARANTINED, WITHDRAWN, LabelRow
from overread.state.labels import labels as label_rows

logger = logging.getLogger(__name__)

LABEL_SUFFIX = ".nii.gz"
# A voxel of an image takes at most 8 bytes in the files we read, and 4 where it is kept in memory.
BYTES_A_VOXEL = 4
# Uploads wait here, on the disk where they will be kept, so that they appear whole.
INCOMING = ".incoming"
# Files that come one after another, as in a copy of a large folder, are taken note of together.
SETTLING_S = 0.5
# Labels that a person made: of MONAI Label's clients, and of 3D Slicer's reviewer module. What else is sent, such
# as tag `original`, is kept for viewers only.
ACCEPTED_TAGS = re.compile(rf"{FINAL}|version_\d+")
# Where the index says which accepted label a viewer gets.
ACCEPTED = "accepted"


class StudyStore(LocalDatastore):
    """A folder of studies.

    What is sent is checked before a byte of the store changes; a refused label leaves the earlier one in place.
    Changes are made one at a time, and the store's index is replaced whole, because requests run in several
    threads here.

    What viewers see is one label a tag, the newest. What people made is kept beside it in `accepted`, of every rater
    and for good.

    Attributes:
        patient_of: from an image's id to its patient.
    """

    def __init__(
        self,
        folder: str,
        extensions: list[str],
        models: ServedModels,
        maps: MapStore,
        accepted: AcceptedLabels | None = None,
    ) -> None:
        self._models, self._maps, self._accepted = models, maps, accepted
        self._change = threading.RLock()
        self._seen = threading.Event()
        self.patient_of: Callable[[str], str] = Patients(Path(folder))
        super().__init__(folder, extensions=tuple(extensions), auto_reload=True)
        # Programs such as rsync write under another name first.
        self._handler.on_moved = self._on_any_event
        threading.Thread(target=self._follow_the_folder, name="studies folder", daemon=True).start()
        self._incoming = Path(folder) / INCOMING
        shutil.rmtree(self._incoming, ignore_errors=True)
        if accepted is not None:
            self._show_accepted(accepted)

    # -- what is there ------------------------------------------------------------------------------------------

    def known_image(self, image_id: str) -> Path:
        """File of an image. Raises BadInputError for a name that cannot be one, NotFoundError where it is not."""
        checked_name(image_id, "image id")
        path = self.get_image_uri(image_id)
        if not path and self._lies_in_folder(image_id):
            # It was put there a moment ago, and nobody has looked since.
            self._reconcile_datastore()
            path = self.get_image_uri(image_id)
        if not path or not Path(path).is_file():
            raise NotFoundError(f"no image is called {image_id!r} in the studies folder")
        return Path(path)

    def known_label(self, label_id: str, label_tag: str) -> Path:
        """File of a label. Raises BadInputError for names that cannot be, NotFoundError where it is not."""
        checked_name(label_id, "label id")
        checked_name(label_tag, "tag")
        path = self.get_label_uri(label_id, label_tag)
        if not path or not Path(path).is_file():
            raise NotFoundError(f"image {label_id!r} has no label with tag {label_tag!r}")
        return Path(path)

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """What is known of an image, finite numbers only. Raises NotFoundError for an unknown one."""
        self.known_image(image_id)
        return finite(super().get_image_info(image_id))

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """What is known of a label. Raises NotFoundError for an unknown one."""
        self.known_label(label_id, label_tag)
        return finite(super().get_label_info(label_id, label_tag))

    def image_files(self) -> dict[str, Path]:
        """Files of all images, by id."""
        with self._change:
            folder = Path(self._datastore.image_path())
            return {
                case: folder / self._filename(case, entry.image.ext)
                for case, entry in self._datastore.objects.items()
            }

    def list_images(self) -> list[str]:
        """Ids of all images."""
        with self._change:
            return super().list_images()

    def get_unlabeled_images(
        self, label_tag: str | None = None, labels: list[str] | None = None
    ) -> list[str]:
        """Ids of the images without a final label."""
        with self._change:
            return super().get_unlabeled_images(label_tag, labels)

    def status(self) -> dict[str, Any]:
        """Counts for `/info/`."""
        with self._change:
            return super().status()

    def json(self) -> dict[str, Any]:
        """The whole index; numbers that JSON cannot hold are None."""
        with self._change:
            return finite(super().json())

    # -- what changes -------------------------------------------------------------------------------------------

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Take an image in.

        Raises:
            BadInputError: a name that cannot be a file's, an unreadable volume, or one larger than allowed.
        """
        source = Path(image_filename)
        suffix = volume_suffix(source.name)
        image_id = checked_name(image_id, "image id")
        if image_id.endswith(READABLE_SUFFIXES):
            raise BadInputError(f"image id {image_id!r} ends as a file does; leave the suffix out")
        if f"*{suffix}" not in self._extensions:
            raise BadInputError(
                f"images of kind {suffix} are not listed here; {', '.join(self._extensions)} are"
            )
        check_volume(source, image_id, self._models.settings.max_upload_bytes)
        target = Path(self._datastore.image_path()) / self._filename(image_id, suffix)
        info = {**as_dict(image_info, "params"), "ts": int(time.time()), "name": target.name}
        self._drop_labels_of_another(image_id, source, str(info.get("user") or ANONYMOUS))
        with self._change:
            self._place(source, target)
            self._init_from_datastore_file()
            self._datastore.objects[image_id] = ImageLabelModel(image=DataModel(info=info, ext=suffix))
            self._update_datastore_file()
        return image_id

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]
    ) -> str:
        """Take a label in, as `submit`; its id."""
        self.submit(image_id, Path(label_filename), label_tag, label_info)
        return image_id

    def submit(
        self, image_id: str, file: Path, tag: str, params: dict[str, Any], user: str = ""
    ) -> dict[str, Any]:
        """Take a label in; see `overread.server.labels` for what becomes of its values.

        Args:
            params: what the client sent with it: `label_info`, `client_id`, `model`, and `region` or `slices`.
            user: who is signed in; empty where nobody has to.

        Returns:
            Facts about the label, plain JSON. When it is returned the label is kept for good.

        Raises:
            NotFoundError: no such image. BadInputError: the label cannot be used; the earlier one stays.
        """
        image = self.known_image(image_id)
        checked_name(tag, "tag")
        info = dict(as_dict(params, "params"))
        client = str(info.get("client_id") or "")
        rater = rater_name(user, client)
        with called(image, f"image {image_id}"):
            grid = read_grid(image)
        with called(file, "the label"):
            values, names = read_segmentation(file, grid)
        names = names or names_in_order(info.get("label_info"))
        part = labelled_part(info, grid.shape)
        recipe = self._recipe_of(names, info.get("model"))
        classes = None if recipe is None else self._models.classes(recipe)
        proposal = cache(lambda: self._maps.proposal(image_id, client, recipe))
        accepted = accept(values, names, classes, proposal)
        labels = accepted.labels if part is None else np.where(part, accepted.labels, IGNORE).astype(np.uint8)
        facts: dict[str, Any] = {}
        row = None
        if self._accepted is not None and ACCEPTED_TAGS.fullmatch(tag):
            submission = submission_of(
                self._accepted.database,
                image_id,
                client,
                rater=rater,
                patient=self.patient_of(image_id),
                tag=tag,
                recipe=recipe,
                classes=classes,
                shape=grid.shape,
                proposal=proposal,
            )
            row = self._accepted.add(labels, grid, submission, time.time())
            facts = label_facts(row)
            info[ACCEPTED] = facts
        info |= self._provenance(accepted, names, recipe)
        self._show(image_id, tag, labels, grid, info, row)
        return facts

    def _show(
        self,
        image_id: str,
        tag: str,
        labels: np.ndarray,
        grid: Grid,
        info: dict[str, Any],
        row: LabelRow | None,
    ) -> None:
        """Make a label the one that viewers see, unless a newer one came meanwhile. Not labelled is shown as 0."""
        target = Path(self._datastore.label_path(tag)) / self._filename(image_id, LABEL_SUFFIX)
        info |= {"ts": int(time.time()), "name": target.name}
        written = self._incoming_file(LABEL_SUFFIX)
        write_nifti(written, np.where(labels == IGNORE, 0, labels).astype(np.uint8), grid)
        with self._change:
            self._init_from_datastore_file()
            if row is not None and self._accepted is not None:
                newest = self._accepted.newest(image_id, tag)
                if newest is None or newest.id != row.id:
                    written.unlink()
                    return
            self._place(written, target)
            self._datastore.objects[image_id].labels[tag] = DataModel(info=info, ext=LABEL_SUFFIX)
            self._update_datastore_file()

    def _show_accepted(self, accepted: AcceptedLabels) -> None:
        """Put right what a crash left between an accepted label and what viewers see of it."""
        with accepted.database.reading() as c:
            newest = {(row.case_id, row.tag): row for row in label_rows(c) if row.status != QUARANTINED}
        for (case, tag), row in newest.items():
            item = self._datastore.objects.get(case)
            file = accepted.folder / row.file
            if item is None or not file.exists():
                continue
            shown = item.labels.get(tag)
            if row.status == WITHDRAWN:
                if shown is not None and shown.info.get(ACCEPTED, {}).get("file") == row.file:
                    super().remove_label(case, tag)
                    self.refresh()
            elif shown is None or shown.info.get(ACCEPTED, {}).get("file") != row.file:
                try:
                    labels, grid = read_labelmap(file)
                except BadInputError as error:
                    # `AcceptedLabels.check` quarantines it before the next training.
                    logger.warning("The label of image %s cannot be shown: %s", case, error)
                    continue
                names = {name: index for index, name in enumerate(row.details.get("classes", ())) if index}
                info = {
                    ACCEPTED: label_facts(row),
                    "client_id": row.client_id,
                    "label_info": [{"name": name, "idx": index} for name, index in names.items()],
                    "label_names": names,
                    "recipe": row.recipe or None,
                }
                self._show(case, tag, labels, grid, info, row)
                logger.warning("The label of image %s (tag %s) is shown again", case, tag)

    def remove_image(self, image_id: str) -> None:
        """Remove an image with its labels. Raises NotFoundError for an unknown one."""
        self.known_image(image_id)
        self._withdraw(image_id, None, ANONYMOUS, "its image was removed")
        with self._change:
            super().remove_image(image_id)
            self.refresh()

    def remove_label(self, label_id: str, label_tag: str, by: str = ANONYMOUS) -> None:
        """Take a label out of use, of whichever rater; viewers no longer see it.

        Raises:
            NotFoundError: there is no such label.
        """
        self.known_label(label_id, label_tag)
        self._withdraw(label_id, label_tag, by, "removed")
        with self._change:
            super().remove_label(label_id, label_tag)
            self.refresh()

    def _withdraw(self, image_id: str, tag: str | None, by: str, reason: str) -> None:
        if self._accepted is not None:
            self._accepted.withdraw(image_id, tag, by, reason, time.time())

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Add to what is known of an image. Raises NotFoundError for an unknown one."""
        self.known_image(image_id)
        with self._change:
            super().update_image_info(image_id, finite(as_dict(info, "info")))

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Add to what is known of a label; a reviewer's verdict decides whether it is learnt from.

        Raises:
            NotFoundError: no such label. BadInputError: a verdict that is not known.
        """
        self.known_label(label_id, label_tag)
        info = finite(as_dict(info, "info"))
        self._review(label_id, label_tag, info)
        with self._change:
            super().update_label_info(label_id, label_tag, info)

    def _review(self, image_id: str, tag: str, info: dict[str, Any]) -> None:
        """Note the verdict of 3D Slicer's reviewer module, where the info holds one."""
        verdict = as_dict(info.get("segmentationMeta"), "segmentationMeta")
        status = verdict.get("status")
        if self._accepted is None or not status:
            return
        by = str(verdict.get("approvedBy") or info.get("user") or ANONYMOUS)
        # A label that was put into the folder by hand is no accepted one; its verdict stands in the index.
        with suppress(NotFoundError):
            comment = str(verdict.get("comment") or "")
            self._accepted.review(image_id, tag, str(status), by, comment, time.time())

    def _drop_labels_of_another(self, image_id: str, source: Path, by: str) -> None:
        """Labels of an image say nothing about another volume that takes its name."""
        item = self._datastore.objects.get(image_id)
        if item is None or same_volume(source, Path(self.get_image_uri(image_id))):
            return
        self._withdraw(image_id, None, by, "another volume took its image's place")
        with self._change:
            for tag in list(item.labels):
                super().remove_label(image_id, tag)
            self.refresh()

    # -- inside -------------------------------------------------------------------------------------------------

    def _on_any_event(self, event: Any) -> None:
        self._seen.set()

    def _lies_in_folder(self, image_id: str) -> bool:
        folder = Path(self._datastore.image_path())
        return any(
            (folder / f"{image_id}{pattern.removeprefix('*')}").is_file() for pattern in self._extensions
        )

    def _follow_the_folder(self) -> None:
        """Take note of files that others put into the folder, or took away."""
        while True:
            self._seen.wait()
            time.sleep(SETTLING_S)
            self._seen.clear()
            try:
                self._reconcile_datastore()
            except OSError:
                logger.exception("The studies folder could not be read")

    def _reconcile_datastore(self) -> None:
        with self._change:
            self._init_from_datastore_file()
            objects = reconciled(
                self._datastore.objects,
                Path(self._datastore.image_path()),
                Path(self._datastore.label_path(None)),
                [pattern.removeprefix("*") for pattern in self._extensions],
            )
            if objects != self._datastore.objects:
                logger.info("%d images in the studies folder", len(objects))
                self._datastore.objects = objects
                self._update_datastore_file()

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        with self._change:
            super()._init_from_datastore_file(throw_exception)

    def _update_datastore_file(self, lock: bool = True) -> None:
        """Replace the index whole: a reader, or a power cut, never meets half of it."""
        index = Path(self._datastore_config_path)
        with self._change, FileLock(self._lock_file):
            text = self._datastore.model_dump_json(exclude={"base_path"}, indent=2, fallback=str)
            temporary = index.with_name(f".{index.name}.new")
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(index)
            self._config_ts = os.stat(index).st_mtime  # noqa: PTH116

    def _recipe_of(self, names: list[str] | None, model: Any) -> str | None:
        """The model whose classes a label speaks of: the one it names, else the only one that knows the names."""
        served = self._models.names()
        if isinstance(model, str) and model:
            if model in served:
                return model
            raise NotFoundError(f"no model is called {model!r}; there are {', '.join(served) or 'none'}")
        if names is not None and len(served) > 1:
            wanted = set(names) - NOT_CLASSES
            served = self._models.with_classes(wanted) or served
        return served[0] if served else None

    def _provenance(
        self, accepted: AcceptedLabel, names: list[str] | None, recipe: str | None
    ) -> dict[str, Any]:
        return {
            "label_info": [{"name": name, "idx": index} for name, index in accepted.names.items()],
            "label_names": accepted.names,
            "submitted_names": names,
            "recipe": recipe,
            "doubt_voxels_returned_to_proposal": accepted.returned,
        }

    def _incoming_file(self, suffix: str) -> Path:
        self._incoming.mkdir(exist_ok=True)
        return self._incoming / f"{uuid.uuid4().hex}{suffix}"

    def _place(self, source: Path, target: Path) -> None:
        """Put a file in its place, whole or not at all."""
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.parent != self._incoming:
            copied = self._incoming_file("".join(target.suffixes))
            shutil.copyfile(source, copied)
            source = copied
        source.replace(target)


def volume_suffix(name: str) -> str:
    """The suffix of a volume's file name. Raises BadInputError for a kind that is not read here."""
    lower = name.lower()
    for suffix in sorted(READABLE_SUFFIXES, key=len, reverse=True):
        if lower.endswith(suffix):
            return suffix
    raise BadInputError(
        f"file {Path(name).name!r} is of no kind that is read here: {', '.join(READABLE_SUFFIXES)}"
    )


def check_volume(path: Path, name: str, most_bytes: int) -> None:
    """Raise BadInputError unless the file is a volume or picture of finite values within the limit."""
    with called(path, f"image {name}"):
        announced = read_header(path).voxels * BYTES_A_VOXEL
        if announced > most_bytes:
            raise BadInputError(
                f"image {name} announces {announced / 1e9:.3g} GB of voxels, at most {most_bytes / 1e9:.3g} are taken"
            )
        read_volume([path])


def same_volume(first: Path, second: Path) -> bool:
    """Whether two files hold the same voxels at the same place."""
    try:
        (voxels, grid), (others, other_grid) = read_array(first), read_array(second)
    except OverreadError:
        return False
    return grid.difference_from(other_grid) is None and np.array_equal(voxels, others)


def upload_limit(store: StudyStore, image_id: str) -> int:
    """The most bytes that a label of this image can have: 8 a voxel, and a header."""
    return read_header(store.known_image(image_id)).voxels * 8 + (1 << 20)


def as_dict(value: Any, what: str) -> dict[str, Any]:
    """The value itself, if it is a JSON object. Raises BadInputError otherwise."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadInputError(f'{what} is a JSON {type(value).__name__}, expected an object like {{"key": 1}}')
    return value


def finite(value: Any) -> Any:
    """The same JSON with None for NaN and infinities, which JSON cannot hold and no client can read."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
