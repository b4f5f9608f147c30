"""What is kept of a slide for one champion, in a folder of its own. It can be deleted and is made again.

<maps>/<recipe>/<champion>/<slide>/maps.npz         low-power fields: a first look, then row by row the close one
                                   state.json       of which slide file they are, and how far the close look is
                                   uncertainty.tif  doubt as a picture, 255 is the most there can be
                                   thumbnail.png    the slide with its doubt in red
                                   labels.geojson   outlines of what is predicted
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Hashable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from overread.domain import BadInputError, NotFoundError
from overread.ensemble.slides.maps import SlideMaps
from overread.imaging.slides.annotations import to_geojson
from overread.imaging.slides.mosaic import LabelMosaic
from overread.imaging.slides.outlines import outlines_of
from overread.imaging.slides.pyramid import write_pyramid, write_thumbnail

# Outlines in the kept labels deviate by half a cell at most, and hold at least four.
SIMPLIFY_CELLS, LEAST_CELLS = 0.5, 4.0
# All doubt, whosever it is, also where less is asked by (`SlideMaps.asked_by`).
SHOWN = "predictive_entropy"
# How red the highest doubt is in the thumbnail.
REDNESS = 0.7


@dataclass(frozen=True)
class SlideState:
    """How far looking at a slide has come.

    Attributes:
        revision: of the slide's file.
        rows_done: so many rows of cells were looked at closely.
        is_complete: all were, and the pictures are there.
        doubt: of the most doubtful patch, in nat; None where there is no tissue.
    """

    revision: str
    rows_done: int = 0
    is_complete: bool = False
    doubt: float | None = None


class SlideFiles:
    """The folder of one slide and champion.

    Args:
        folder: `<maps>/<recipe>/<champion>/<slide>`; made when something is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.maps = self.folder / "maps.npz"
        self.uncertainty = self.folder / "uncertainty.tif"
        self.thumbnail = self.folder / "thumbnail.png"
        self.labels = self.folder / "labels.geojson"
        self._state = self.folder / "state.json"

    def version(self) -> Hashable | None:
        """Changes whenever the maps do; None where there are none."""
        try:
            status = self.maps.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size

    def read(self) -> SlideMaps | None:
        """The maps as they are now; None where there are none, or they are damaged and will be made again."""
        try:
            return SlideMaps.load(self.maps)
        except (NotFoundError, BadInputError):
            return None

    def state(self, revision: str) -> SlideState | None:
        """How far the slide's file of this revision was looked at; None where it was not."""
        try:
            state = SlideState(**json.loads(self._state.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return state if state.revision == revision and self.maps.exists() else None

    def write(self, maps: SlideMaps, state: SlideState) -> None:
        """Keep maps and state; each file is whole at any moment, and the state never says more than the maps hold."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.state(state.revision) is None:
            # Maps of another file: what is known of it ends before they do.
            self._state.unlink(missing_ok=True)
        maps.save(self.maps)
        _write_whole(self._state, json.dumps(asdict(state)))

    def write_pictures(self, maps: SlideMaps, thumbnail: np.ndarray) -> None:
        """Doubt and predicted outlines for viewers.

        Args:
            thumbnail: the slide, `(rows, columns, 3)` uint8.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        doubt = doubt_picture(maps)
        write_pyramid(self.uncertainty, doubt, maps.cell)
        write_thumbnail(self.thumbnail, reddened(thumbnail, doubt))
        predicted = np.where(maps.known, maps.probability.argmax(axis=0), 0).astype(np.uint8)
        mosaic = LabelMosaic((predicted.shape[1], predicted.shape[0]))
        mosaic.write(0, 0, predicted)
        outlines = outlines_of(
            mosaic,
            dict(enumerate(maps.classes[1:], start=1)),
            simplify_px=SIMPLIFY_CELLS,
            min_area_px=LEAST_CELLS,
            scale=maps.cell_px,
        )
        _write_whole(self.labels, json.dumps(to_geojson(outlines)))


def slide_folder(maps: Path, recipe: str, champion: str, slide: str) -> Path:
    """Where the files of a slide lie."""
    return Path(maps) / recipe / champion / slide


def doubt_picture(maps: SlideMaps) -> np.ndarray:
    """Predictive entropy `(rows, columns)` in bytes: 255 is the logarithm of the number of classes."""
    highest = math.log(max(len(maps.classes), 2))
    doubt = np.where(maps.known, maps.maps[SHOWN], 0).astype(np.float32)
    return np.round(np.clip(doubt / highest, 0, 1) * 255).astype(np.uint8)


def reddened(thumbnail: np.ndarray, doubt: np.ndarray) -> np.ndarray:
    """The thumbnail, the redder the more doubt."""
    height, width = thumbnail.shape[:2]
    resized = Image.fromarray(doubt).resize((width, height), Image.Resampling.BOX)
    weight = REDNESS * np.asarray(resized, np.float32)[..., None] / 255
    return np.round(thumbnail * (1 - weight) + np.array([255.0, 0, 0]) * weight).astype(np.uint8)


def _write_whole(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        beside.write_text(text)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
