"""The studies folder: volumes and pictures, and label maps of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.datastore.local import DataModel, ImageLabelModel

from overread.domain import BadInputError, Grid, OverreadError
from overread.domain.labels import IGNORE
from overread.imaging.headers import read_grid, read_header
from overread.imaging.volumes import READABLE_SUFFIXES, read_array, read_labelmap, read_volume, write_nifti
from overread.learning.accepted import AcceptedLabels
from overread.server.inference import called
from overread.server.labels import NOT_CLASSES, AcceptedLabel, accept, names_in_order, read_segmentation
from overread.server.maps import MapStore
from overread.server.models import ServedModels
from overread.server.names import ANONYMOUS, checked_name, rater_name
from overread.server.partial import labelled_part
from overread.server.provenance import label_facts, submission_of
from overread.server.store import ACCEPTED, ACCEPTED_TAGS, GuardedStore, as_dict
from overread.state.labels import LabelRow

LABEL_SUFFIX = ".nii.gz"
# A voxel of an image takes at most 8 bytes in the files we read, and 4 where it is kept in memory.
BYTES_A_VOXEL = 4


class StudyStore(GuardedStore):
    """A folder of studies: volumes, and label maps on their grids.

    Attributes:
        on_accepted: told the case, the rater, the recipe and the class indices of each label that is accepted.
    """

    def __init__(
        self,
        folder: str,
        extensions: list[str],
        models: ServedModels,
        maps: MapStore,
        accepted: AcceptedLabels | None = None,
    ) -> None:
        self._maps = maps
        self.on_accepted: Callable[[str, str, str, np.ndarray], None] | None = None
        super().__init__(folder, extensions, models, accepted)

    def add_image(
        self, image_id: str, image_filename: str, image_info: dict[str, Any], may_replace: bool = True
    ) -> str:
        """Take an image in.

        Args:
            may_replace: whether it may take the place of another one, whose labels no longer hold then.

        Raises:
            ForbiddenError: another one is there, and may not be replaced.
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
        self._drop_labels_of_another(image_id, source, str(info.get("user") or ANONYMOUS), may_replace)
        with self._change:
            self._place(source, target)
            self._init_from_datastore_file()
            before = self._datastore.objects.get(image_id)
            self._datastore.objects[image_id] = ImageLabelModel(
                image=DataModel(info=info, ext=suffix), labels=before.labels if before is not None else {}
            )
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
        spoken_of = None if names is None else set(names) - NOT_CLASSES
        # Several models may know these classes, and older clients do not say which they asked.
        fitting = self._models.names() if spoken_of is None else self._models.with_classes(spoken_of)
        model = info.get("model") or self._maps.seen_last(image_id, client, fitting)
        recipe = self._recipe_of(spoken_of, model)
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
        if row is not None and recipe is not None and self.on_accepted is not None:
            self.on_accepted(image_id, rater, recipe, labels)
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

        def is_newest() -> bool:
            if row is None or self._accepted is None:
                return True
            newest = self._accepted.newest(image_id, tag)
            return newest is not None and newest.id == row.id

        written = self._incoming_file(LABEL_SUFFIX)
        write_nifti(written, np.where(labels == IGNORE, 0, labels).astype(np.uint8), grid)
        self._show_file(image_id, tag, written, LABEL_SUFFIX, info, is_newest)

    def _show_again(self, image_id: str, row: LabelRow, file: Path) -> None:
        labels, grid = read_labelmap(file)
        names = {name: index for index, name in enumerate(row.details.get("classes", ())) if index}
        info = {
            ACCEPTED: label_facts(row),
            "client_id": row.client_id,
            "label_info": [{"name": name, "idx": index} for name, index in names.items()],
            "label_names": names,
            "recipe": row.recipe or None,
        }
        self._show(image_id, row.tag, labels, grid, info, row)

    def _is_same_image(self, image_id: str, source: Path) -> bool:
        return same_volume(source, Path(self.get_image_uri(image_id)))

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
    check_announced(path, f"image {name}", most_bytes)
    with called(path, f"image {name}"):
        read_volume([path])


def check_announced(path: Path, name: str, most_bytes: int) -> None:
    """Raise BadInputError for a file whose header cannot be read, or announces more than is taken."""
    with called(path, name):
        announced = read_header(path).voxels * BYTES_A_VOXEL
    if announced > most_bytes:
        raise BadInputError(
            f"{name} announces {announced / 1e9:.3g} GB of voxels, at most {most_bytes / 1e9:.3g} are taken"
        )


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
