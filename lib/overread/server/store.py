"""What every store of the server needs: MONAI Label's own, with a guard in front of everything that is written."""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
import threading
import time
import uuid
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore

from overread.access.roles import ForbiddenError
from overread.domain import BadInputError, NotFoundError
from overread.learning.accepted import FINAL, AcceptedLabels
from overread.server.faults import STORE_GONE, OutOfOrderError
from overread.server.index import reconciled
from overread.server.models import ServedModels
from overread.server.names import ANONYMOUS, checked_name
from overread.server.patients import Patients
from overread.state.labels import QUARANTINED, WITHDRAWN, LabelRow
from overread.state.labels import labels as label_rows

logger = logging.getLogger(__name__)

# Uploads wait here, on the disk where they will be kept, so that they appear whole.
INCOMING = ".incoming"
# Files that come one after another, as in a copy of a large folder, are taken note of together.
SETTLING_S = 0.5
# Labels that a person made: of MONAI Label's clients, and of 3D Slicer's reviewer module. What else is sent, such
# as tag `original`, is kept for viewers only.
ACCEPTED_TAGS = re.compile(rf"{FINAL}|version_\d+")
# Where the index says which accepted label a viewer gets.
ACCEPTED = "accepted"


class GuardedStore(LocalDatastore):
    """A folder of images.

    What is sent is checked before a byte of the store changes; a refused label leaves the earlier one in place.
    Changes are made one at a time, and the store's index is replaced whole, because requests run in several
    threads here.

    What viewers see is one label a tag, the newest. What people made is kept beside it in `accepted`, of every rater
    and for good.

    Attributes:
        patient_of: from an image's id to its patient.
    """

    def __init__(
        self, folder: str, extensions: Sequence[str], models: ServedModels, accepted: AcceptedLabels | None
    ) -> None:
        self._models, self._accepted = models, accepted
        self._change = threading.RLock()
        self._seen = threading.Event()
        self._was_there = True
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
            self._ensure_there()
            raise NotFoundError(f"no image is called {image_id!r} in the studies folder")
        return Path(path)

    def sole_file(self, image_id: str) -> Path:
        """File of an image that is no more than that file. Raises as `known_image`."""
        return self.known_image(image_id)

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

    def is_there(self) -> bool:
        """Whether the folder can be seen: not where its disk is gone, nor where an empty mount point is left of it."""
        if not Path(self._datastore_path).is_dir():
            return False
        if Path(self._datastore_config_path).is_file():
            return True
        # Somebody may have removed the index alone.
        files = self.image_files().values()
        return not files or any(file.is_file() for file in files)

    def look(self) -> None:
        """Notice that the folder went, or came back; called again and again."""
        there = self.is_there()
        if there == self._was_there:
            return
        self._was_there = there
        if not there:
            logger.error("The studies folder %s is gone", self._datastore_path)
            return
        logger.warning("The studies folder %s is there again", self._datastore_path)
        # What watched it ended with it.
        self._observer.unschedule_all()
        self._observer.schedule(self._handler, self._datastore_path, recursive=True)
        self._seen.set()

    def _ensure_there(self) -> None:
        if not self.is_there():
            raise OutOfOrderError(STORE_GONE)

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

    def remove_image(self, image_id: str, by: str = ANONYMOUS) -> None:
        """Remove an image with its labels; of a link, the link. Raises NotFoundError for an unknown one."""
        self.known_image(image_id)
        self._withdraw(image_id, None, by, "its image was removed")
        with self._change:
            file = self.image_files()[image_id]
            if file.is_symlink():
                # MONAI Label would remove what it leads to: an archive's own file.
                file.unlink()
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

    def _withdraw(self, image_id: str, tag: str | None, by: str, reason: str) -> None:
        if self._accepted is not None:
            for case in self._cases_of(image_id):
                self._accepted.withdraw(case, tag, by, reason, time.time())

    def _review(self, image_id: str, tag: str, info: dict[str, Any]) -> None:
        """Note the verdict of 3D Slicer's reviewer module, where the info holds one."""
        verdict = as_dict(info.get("segmentationMeta"), "segmentationMeta")
        status = verdict.get("status")
        if self._accepted is None or not status:
            return
        by = str(verdict.get("approvedBy") or info.get("user") or ANONYMOUS)
        comment = str(verdict.get("comment") or "")
        for case in self._cases_of(image_id):
            # A label that was put into the folder by hand is no accepted one; its verdict stands in the index.
            with suppress(NotFoundError):
                self._accepted.review(case, tag, str(status), by, comment, time.time())

    def _drop_labels_of_another(self, image_id: str, source: Path, by: str, may_replace: bool) -> None:
        """Labels of an image say nothing about another image that takes its name."""
        item = self._datastore.objects.get(image_id)
        if item is None or self._is_same_image(image_id, source):
            return
        if not may_replace:
            raise ForbiddenError(f"{by} may add images, but another image is called {image_id!r} already")
        self._withdraw(image_id, None, by, "another volume took its image's place")
        with self._change:
            for tag in list(item.labels):
                super().remove_label(image_id, tag)
            self.refresh()

    def _show_file(
        self,
        image_id: str,
        tag: str,
        written: Path,
        suffix: str,
        info: dict[str, Any],
        is_newest: Callable[[], bool],
    ) -> None:
        """Make a label's file the one that viewers see, unless a newer one came meanwhile."""
        target = Path(self._datastore.label_path(tag)) / self._filename(image_id, suffix)
        info |= {"ts": int(time.time()), "name": target.name}
        with self._change:
            self._init_from_datastore_file()
            if not is_newest():
                written.unlink()
                return
            self._place(written, target)
            self._datastore.objects[image_id].labels[tag] = DataModel(info=info, ext=suffix)
            self._update_datastore_file()

    def _show_accepted(self, accepted: AcceptedLabels) -> None:
        """Put right what a crash left between an accepted label and what viewers see of it."""
        with accepted.database.reading() as c:
            rows = [row for row in label_rows(c) if row.status != QUARANTINED]
        newest = {(self._image_of(row.case_id), row.tag): row for row in rows}
        for (image_id, tag), row in newest.items():
            item = self._datastore.objects.get(image_id)
            file = accepted.folder / self._seen_file(row)
            if item is None or not file.is_file():
                continue
            shown = item.labels.get(tag)
            is_shown = shown is not None and shown.info.get(ACCEPTED, {}).get("file") == self._seen_file(row)
            if row.status == WITHDRAWN:
                if is_shown:
                    super().remove_label(image_id, tag)
                    self.refresh()
            elif not is_shown:
                try:
                    self._show_again(image_id, row, file)
                except BadInputError as error:
                    # `AcceptedLabels.check` quarantines it before the next training.
                    logger.warning("The label of image %s cannot be shown: %s", image_id, error)
                    continue
                logger.warning("The label of image %s (tag %s) is shown again", image_id, tag)

    # -- what each kind of store decides ------------------------------------------------------------------------

    def _image_of(self, case_id: str) -> str:
        """The image that an accepted label belongs to."""
        return case_id

    def _cases_of(self, image_id: str) -> list[str]:
        """Under which ids labels of an image are accepted."""
        return [image_id]

    def _seen_file(self, row: LabelRow) -> str:
        """What viewers see of an accepted label, below the folder of accepted labels."""
        return row.file

    @abstractmethod
    def _show_again(self, image_id: str, row: LabelRow, file: Path) -> None:
        """Show an accepted label. Raises BadInputError where its file cannot be read."""

    @abstractmethod
    def _is_same_image(self, image_id: str, source: Path) -> bool:
        """Whether an upload is what the store has under this name."""

    def _as_the_folder_says(self) -> dict[str, ImageLabelModel]:
        """The index as the files say it."""
        return reconciled(
            self._datastore.objects,
            Path(self._datastore.image_path()),
            Path(self._datastore.label_path(None)),
            [pattern.removeprefix("*") for pattern in self._extensions],
        )

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
            except (OSError, OutOfOrderError):
                logger.exception("The studies folder could not be read")

    def _reconcile_datastore(self) -> None:
        with self._change:
            self._ensure_there()
            self._init_from_datastore_file()
            objects = self._as_the_folder_says()
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

    def _recipe_of(self, names: set[str] | None, model: Any) -> str | None:
        """The model whose classes a label speaks of: the one it names, else the only one that knows the names.

        Args:
            names: of the classes that the label holds; None where it names none.
        """
        served = self._models.names()
        if isinstance(model, str) and model:
            if model in served:
                return model
            # A damaged champion says so itself.
            self._models.current(model)
            raise NotFoundError(f"no model is called {model!r}; there are {', '.join(served) or 'none'}")
        if names is not None and len(served) > 1:
            served = self._models.with_classes(names) or served
        return served[0] if served else None

    def _incoming_file(self, suffix: str) -> Path:
        self._ensure_there()
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


def as_dict(value: Any, what: str) -> dict[str, Any]:
    """The value itself, if it is a JSON object. Raises BadInputError otherwise."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadInputError(f'{what} is a JSON {type(value).__name__}, expected an object like {{"key": 1}}')
    return value


def finite(value: Any) -> Any:
    """The same as JSON that every client can read: with None for NaN and infinities, `?` for halves of characters."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, str) and not value.isascii():
        return value.encode(errors="replace").decode()
    return None if isinstance(value, float) and not math.isfinite(value) else value
