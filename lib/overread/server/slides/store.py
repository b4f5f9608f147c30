"""The slides folder: slides as images, and what QuPath submits of them as labels of patches.

<studies>/<slide>.svs, .ndpi, ...                  the slides
<studies>/patches/<slide>-patch-x_y_w_h.png        pictures that came with a label; the slide is what is learnt from
<studies>/accepted/<patch>/<rater>-<revision>...   labels of patches (see `learning.label_files`)
<studies>/accepted/<slide>/<hash>.xml              what was submitted, as it came
<studies>/labels/<tag>/<slide>.xml                 what viewers see: the newest submission
"""

from __future__ import annotations

import filecmp
import logging
import shutil
import threading
import time
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.datastore.local import DataModel, ImageLabelModel

from overread.domain import BadInputError, NotFoundError
from overread.domain.slides import PatchLocation, PixelSize, Region
from overread.ensemble.slides.maps import SlideMaps
from overread.imaging.slides.annotations import read_asap
from overread.imaging.slides.files import MIRAX_INDEX, folder_beside, state_of
from overread.imaging.slides.slide import ASSUMED, SLIDE_SUFFIXES, find_slides, open_slide
from overread.learning.accepted import AcceptedLabels
from overread.learning.patients import read_centres
from overread.server.index import newcomer, with_labels
from overread.server.maps import MapKey
from overread.server.models import ServedModels
from overread.server.names import ANONYMOUS, checked_name, rater_name
from overread.server.patients import Patients
from overread.server.slides.maps import SlideMapStore
from overread.server.slides.proposals import proposed_in
from overread.server.slides.reader_words import class_names
from overread.server.slides.submissions import (
    SENT_AS,
    XML_FILE,
    Proposed,
    Sent,
    SlideFacts,
    accept_sent,
    read_sent,
    shown_xml,
)
from overread.server.slides.uploads import (
    PATCH_SUFFIX,
    check_patch,
    check_slide,
    slide_suffix,
)
from overread.server.store import ACCEPTED, ACCEPTED_TAGS, GuardedStore, as_dict
from overread.state.labels import WITHDRAWN, LabelRow, labels

logger = logging.getLogger(__name__)

LABEL_SUFFIX = ".xml"
PATCHES = "patches"
# A million points.
MOST_XML_BYTES = 64 << 20
# A file that changed so recently is still being copied: that it cannot be read yet is no news.
STILL_COPIED_S = 3.0


class SlideStore(GuardedStore):
    """A folder of slides.

    Labels come as outlines. Each rectangle that a submission speaks of becomes one accepted label under the name of
    its patch (see `submissions`); viewers get the newest submission of the slide as XML.

    Args:
        assumed: pixel size of slides that do not tell theirs.
        maps: what champions said of the slides, to compare labels with.

    Attributes:
        patient_of, centre_of: from the id of a slide or patch to its patient, and to its centre or "".
        on_accepted: told the person, where one is named, and the labels of each submission that is kept.
    """

    def __init__(
        self,
        folder: str,
        models: ServedModels,
        accepted: AcceptedLabels | None = None,
        assumed: PixelSize = ASSUMED,
        maps: SlideMapStore | None = None,
    ) -> None:
        self.assumed, self._maps = assumed, maps
        self.centre_of: Callable[[str], str] = Patients(Path(folder), read_centres)
        self.on_accepted: Callable[[str, list[LabelRow]], None] | None = None
        self._told: set[str] = set()
        extensions = [f"*{suffix}" for suffix in (*SLIDE_SUFFIXES, LABEL_SUFFIX)]
        # The folder of a MIRAX slide may come after its file.
        extensions += [f"*/{MIRAX_INDEX}", "*/*.dat"]
        super().__init__(folder, extensions, models, accepted)

    # -- what is there ------------------------------------------------------------------------------------------

    def slides(self) -> dict[str, Path]:
        """Files of all slides, by id."""
        return self.image_files()

    def slide(self, slide_id: str) -> Path:
        """File of a slide. Raises as `known_image`; a patch is no slide."""
        return super().known_image(slide_id)

    def facts(self, slide_id: str) -> SlideFacts:
        """Size and pixel size of a slide.

        Raises:
            NotFoundError: no such slide. BadInputError: it cannot be opened any more.
        """
        path = self.slide(slide_id)
        return _facts(path, state_of(path), self.assumed)

    def known_image(self, image_id: str) -> Path:
        """File of a slide, or of a patch's picture that was uploaded.

        Raises:
            BadInputError: a name that cannot be one. NotFoundError: there is none.
        """
        place = self._patch(image_id)
        if place is None:
            return self.slide(image_id)
        path = self._picture(place)
        if not path.is_file():
            raise NotFoundError(f"no picture of patch {image_id!r} was uploaded")
        return path

    def sole_file(self, image_id: str) -> Path:
        """The file of a slide or a patch's picture. Raises as `known_image`, and BadInputError for a MIRAX slide."""
        path = self.known_image(image_id)
        folder = folder_beside(path)
        if folder is not None:
            raise BadInputError(
                f"slide {image_id!r} is {path.name} with the folder {folder.name!r}, which cannot be sent as one file; "
                "open it from the studies folder"
            )
        return path

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """What is known of a slide: `width`, `height`, `um_per_px`, `is_assumed` and `centre` beside MONAI Label's.

        Raises as `facts`.
        """
        place = self._patch(image_id)
        if place is not None:
            return {
                "path": str(self.known_image(image_id)),
                "slide": place.slide,
                "region": place.region.bbox,
            }
        facts = self.facts(image_id)
        return super().get_image_info(image_id) | {
            "width": facts.size_px[0],
            "height": facts.size_px[1],
            "um_per_px": facts.pixel_size.um,
            "is_assumed": facts.is_pixel_size_assumed,
            "centre": self.centre_of(image_id),
        }

    def get_unlabeled_images(
        self, label_tag: str | None = None, labels: list[str] | None = None
    ) -> list[str]:
        """Ids of all slides: some patch of each always waits."""
        return self.list_images()

    def upload_limit(self, image_id: str) -> int:
        """The most bytes that a label may have. Raises NotFoundError where there is no such slide."""
        place = self._patch(image_id)
        self.slide(image_id if place is None else place.slide)
        return MOST_XML_BYTES

    # -- what changes -------------------------------------------------------------------------------------------

    def add_image(
        self, image_id: str, image_filename: str, image_info: dict[str, Any], may_replace: bool = True
    ) -> str:
        """Take a slide in; or keep the picture of a patch, which is no new image.

        Args:
            may_replace: whether it may take the place of another one, whose labels no longer hold then.

        Raises:
            ForbiddenError: another one is there, and may not be replaced.
            NotFoundError: a patch of a slide that is not here.
            BadInputError: a name that cannot be a file's, or a file that cannot be read.
        """
        source = Path(image_filename)
        image_id = checked_name(image_id, "image id")
        place = self._patch(image_id)
        if place is not None:
            check_patch(source, place, self.facts(place.slide).bounds)
            self._place(source, self._picture(place))
            return image_id
        suffix = slide_suffix(source.name)
        if image_id.lower().endswith(SLIDE_SUFFIXES):
            raise BadInputError(f"image id {image_id!r} ends as a file does; leave the suffix out")
        check_slide(source, image_id, self.assumed)
        target = Path(self._datastore.image_path()) / self._filename(image_id, suffix)
        there = self.slides().get(image_id, target)
        if there.name != target.name:
            raise BadInputError(
                f"image {image_id!r} is here already as {there.name}; remove that one first, or give this another name"
            )
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

    def remove_image(self, image_id: str, by: str = ANONYMOUS) -> None:
        """Remove a slide with its labels, its patches' pictures and the folder that a MIRAX slide has beside it; or
        the picture of a patch, whose labels stay.

        Raises NotFoundError for an unknown one.
        """
        path, place = self.known_image(image_id), self._patch(image_id)
        if place is not None:
            path.unlink(missing_ok=True)
            return
        folder = folder_beside(self.slides()[image_id])
        super().remove_image(image_id, by)
        if folder is not None and folder.is_symlink():
            folder.unlink()
        elif folder is not None and (folder / MIRAX_INDEX).is_file():
            shutil.rmtree(folder, ignore_errors=True)
        for picture in self._picture(PatchLocation(image_id, Region(0, 0, 1, 1))).parent.glob("*"):
            of = PatchLocation.parse(picture.stem)
            if of is not None and of.slide == image_id:
                picture.unlink(missing_ok=True)

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Add to what is known of a slide. Raises NotFoundError for an unknown one, and for a patch."""
        self.slide(image_id)
        super().update_image_info(image_id, info)

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]
    ) -> str:
        """Take a label in, as `submit`; its id."""
        self.submit(image_id, Path(label_filename), label_tag, label_info)
        return image_id

    def submit(
        self, image_id: str, file: Path, tag: str, params: dict[str, Any], user: str = "", person: str = ""
    ) -> dict[str, Any]:
        """Take QuPath's XML in; see `submissions` for what becomes of it.

        Args:
            image_id: of a slide, or of a patch; then coordinates count from the patch's corner.
            params: what the client sent with it: `client_id`, `model`.
            user: who is signed in; empty where nobody has to.
            person: whose preferences learn from it; empty where the client is known by its address alone.

        Returns:
            Facts about the labels, plain JSON. When it is returned they are kept for good.

        Raises:
            NotFoundError: no such slide. BadInputError: the labels cannot be used; nothing changes.
        """
        place = self._patch(image_id)
        slide_id = image_id if place is None else place.slide
        facts = self.facts(slide_id)
        checked_name(tag, "tag")
        info = dict(as_dict(params, "params"))
        client = str(info.get("client_id") or "")
        xml = file.read_bytes()
        submitted = read_asap(xml)
        recipe = self._recipe_of(class_names(submitted), info.get("model"))
        if recipe is None:
            raise BadInputError("no model is served yet, so that labels have no classes; train one first")
        sent = Sent(
            slide=slide_id,
            place=place,
            xml=xml,
            submitted=submitted,
            tag=tag,
            rater=rater_name(user, client),
            client=client,
            patient=self.patient_of(slide_id),
            recipe=recipe,
            classes=self._models.classes(recipe),
            um_per_px=self._um_per_px(recipe),
        )
        reading = read_sent(sent, facts)
        told: dict[str, Any] = {"left_out": list(reading.left_out)}
        rows: list[LabelRow] = []
        if self._accepted is not None and ACCEPTED_TAGS.fullmatch(tag):
            outcome = accept_sent(self._accepted, sent, reading, facts, time.time(), self._proposed(recipe))
            rows, told = list(outcome.added), told | outcome.told()
            if not rows:
                return told
            info[ACCEPTED] = told
        self._show(slide_id, tag, shown_xml(sent.xml, place), info | {"recipe": recipe}, rows)
        if person and rows and self.on_accepted is not None:
            self.on_accepted(person, rows)
        return told

    def _proposed(self, recipe: str) -> Proposed:
        """What champions said of patches, each slide's maps read once."""

        @cache
        def maps_of(slide: str, champion: str) -> SlideMaps | None:
            if self._maps is None:
                return None
            return self._maps.scored(MapKey(recipe, champion, slide), self.slide(slide))

        def proposed(place: PatchLocation, champion: str, size: tuple[int, int]) -> np.ndarray | None:
            maps = maps_of(place.slide, champion)
            return None if maps is None else proposed_in(maps, place.region, size)

        return proposed

    # -- inside -------------------------------------------------------------------------------------------------

    def _show(self, slide_id: str, tag: str, xml: bytes, info: dict[str, Any], rows: list[LabelRow]) -> None:
        """Make a submission the one that viewers see, unless a newer one came meanwhile."""

        def is_newest() -> bool:
            newest = [row for row in self._rows_of(slide_id) if row.tag == tag and row.status != WITHDRAWN]
            return not rows or not newest or newest[-1].id <= max(row.id for row in rows)

        written = self._incoming_file(LABEL_SUFFIX)
        written.write_bytes(xml)
        self._show_file(slide_id, tag, written, LABEL_SUFFIX, info, is_newest)

    def _show_again(self, image_id: str, row: LabelRow, file: Path) -> None:
        place = PatchLocation.parse(row.details.get(SENT_AS, ""))
        told = {"file": self._seen_file(row), "rater": row.rater}
        info = {ACCEPTED: told, "client_id": row.client_id, "recipe": row.recipe or None}
        self._show(image_id, row.tag, shown_xml(file.read_bytes(), place), info, [row])

    def _is_same_image(self, image_id: str, source: Path) -> bool:
        return filecmp.cmp(source, self.get_image_uri(image_id), shallow=False)

    def _image_of(self, case_id: str) -> str:
        place = self._patch(case_id)
        return case_id if place is None else place.slide

    def _cases_of(self, image_id: str) -> list[str]:
        return list(dict.fromkeys(row.case_id for row in self._rows_of(image_id)))

    def _seen_file(self, row: LabelRow) -> str:
        return str(row.details.get(XML_FILE, ""))

    def _rows_of(self, slide_id: str) -> list[LabelRow]:
        if self._accepted is None:
            return []
        with self._accepted.database.reading() as c:
            rows = labels(c, prefix=slide_id)
        return [row for row in rows if self._image_of(row.case_id) == slide_id]

    def _as_the_folder_says(self) -> dict[str, ImageLabelModel]:
        folder = Path(self._datastore.image_path())
        there = find_slides(folder)
        self._tell(there.problems, folder)
        known = self._datastore.objects
        found: dict[str, ImageLabelModel] = {}
        for slide_id, path in there.slides.items():
            suffix = path.name[len(slide_id) :]
            entry = known.get(slide_id)
            found[slide_id] = (
                entry.model_copy(update={"labels": dict(entry.labels)})
                if entry is not None and entry.image.ext == suffix
                else ImageLabelModel(image=newcomer(path.name, suffix))
            )
        return with_labels(found, Path(self._datastore.label_path(None)), [LABEL_SUFFIX])

    def _tell(self, problems: list[str], folder: Path) -> None:
        """Say once what cannot be read; later, where it may not be there as a whole yet."""
        if not problems:
            return
        new = [problem for problem in problems if problem not in self._told]
        now = time.time()
        files = [path for path in folder.iterdir() if path.name.lower().endswith(SLIDE_SUFFIXES)]
        if any(abs(now - state_of(path)[1] / 1e9) < STILL_COPIED_S for path in files):
            again = threading.Timer(STILL_COPIED_S, self._seen.set)
            again.daemon = True
            again.start()
            return
        for problem in new:
            logger.warning("Not listed: %s", problem)
        self._told.update(new)

    def _patch(self, image_id: str) -> PatchLocation | None:
        """The place that an id names; None for a slide, also one that is called as a patch would be."""
        place = PatchLocation.parse(checked_name(image_id, "image id"))
        return None if image_id in self._datastore.objects else place

    def _picture(self, place: PatchLocation) -> Path:
        return Path(self._datastore.image_path()) / PATCHES / f"{place.name}{PATCH_SUFFIX}"

    def _um_per_px(self, recipe: str) -> float:
        um_per_px = self._models.description(recipe)["plan"].get("um_per_px")
        if um_per_px is None:
            raise BadInputError(f"model {recipe!r} knows no pixel size, so that it cannot learn from slides")
        return float(um_per_px)


@lru_cache(maxsize=4096)
def _facts(path: Path, state: tuple[int, int], assumed: PixelSize) -> SlideFacts:
    with open_slide(path, assumed) as slide:
        return SlideFacts(slide.size_px, slide.pixel_size, slide.is_pixel_size_assumed)
