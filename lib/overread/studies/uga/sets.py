"""What a study is made on: cases with their truth, the place that each was made at, and whose it is."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import shapely
from PIL import Image
from shapely.geometry import shape

from overread.domain import BadInputError, PixelSize, Region
from overread.imaging.slides.normalised import some_of
from overread.imaging.slides.outlines import polygons_in, rasterise
from overread.imaging.slides.slide import ASSUMED, Slide, open_slide
from overread.imaging.slides.tissue import TissueMask, find_tissue
from overread.imaging.volumes import read_label_of, read_volume

DESCRIPTION = "set.json"
OUTLINES = ".geojson"
# Cells of the tissue of a picture that was cut from tissue: all of it.
PICTURE_CELL = PixelSize(8.0)


@dataclass(frozen=True)
class StudyCase:
    """One labelled image.

    Attributes:
        id: its name.
        image: a slide, a picture or a volume.
        label: classes on the image's own grid, or, of a slide, outlines of the first class as GeoJSON.
        domain: where it was made, or what kind of image it is.
        patient: whose it is, or what else must not be divided between learning and judging.
        kind: class of case, such as `macro` or `negative`; may be empty.
    """

    id: str
    image: Path
    label: Path
    domain: str
    patient: str
    kind: str = ""

    @property
    def has_outlines(self) -> bool:
        """Whether the truth is polygons."""
        return self.label.name.endswith(OUTLINES)


@dataclass(frozen=True)
class StudySet:
    """Cases of several places.

    Attributes:
        name: of the set.
        axes: 2 for pictures and slides, 3 for volumes.
        classes: the background first.
        channels: of the images.
        central: the domain that the model is first trained on.
        cases: sorted by id.
        um_per_px: pixel of the model, in micrometres; None for volumes.
        file_um: level-0 pixel of pictures and slides whose files do not tell theirs.
        patch_px: edge of an asked patch in the model's pixels; None: cases are small and asked about as a whole.
        has_glass: parts of the images are empty glass, which is not asked about.
        of_places: the colours of an image are measured on images of its domain (see `imaging.slides.normalised`).
    """

    name: str
    axes: int
    classes: tuple[str, ...]
    channels: tuple[str, ...]
    central: str
    cases: tuple[StudyCase, ...]
    um_per_px: float | None = None
    file_um: float = ASSUMED.um
    patch_px: int | None = None
    has_glass: bool = False
    of_places: bool = False

    def __post_init__(self) -> None:
        domains = {case.domain for case in self.cases}
        if self.central not in domains:
            raise BadInputError(
                f"{self.name} has no case of the central domain {self.central!r}; it has {sorted(domains)}"
            )
        if len(domains) < 2:
            raise BadInputError(
                f"{self.name} has the domain {self.central} alone; a study needs another place"
            )
        if (self.axes == 2) != (self.um_per_px is not None):
            raise BadInputError(
                f"{self.name} has {self.axes} axes; pictures, and no others, have µm per pixel"
            )

    @cached_property
    def by_id(self) -> dict[str, StudyCase]:
        """Cases by id."""
        return {case.id: case for case in self.cases}

    @property
    def local_domains(self) -> list[str]:
        """All domains but the central one, sorted."""
        return sorted({case.domain for case in self.cases} - {self.central})

    @property
    def pixel_size(self) -> PixelSize:
        """The model's pixel; only of pictures."""
        return PixelSize(self.um_per_px or 0.0)

    def with_patch(self, um_per_px: float | None, patch_px: int | None) -> StudySet:
        """The same at another pixel size, or asked about in other patches; None leaves what is there."""
        return replace(self, um_per_px=um_per_px or self.um_per_px, patch_px=patch_px or self.patch_px)

    def save(self, folder: Path) -> None:
        """Write `set.json`, whole or not at all; files in the folder are named as seen from there."""

        def named(path: Path) -> str:
            inside = path.is_relative_to(folder)
            return path.relative_to(folder).as_posix() if inside else str(path.resolve())

        values = asdict(self)
        values["cases"] = [
            {**asdict(case), "image": named(case.image), "label": named(case.label)} for case in self.cases
        ]
        temporary = folder / f".{DESCRIPTION}"
        temporary.write_text(json.dumps(values, indent=1) + "\n")
        temporary.replace(folder / DESCRIPTION)

    @classmethod
    def load(cls, folder: Path) -> StudySet:
        """Read what `save` wrote."""
        values = json.loads((folder / DESCRIPTION).read_text())
        cases = tuple(
            StudyCase(**{**case, "image": folder / case["image"], "label": folder / case["label"]})
            for case in values["cases"]
        )
        lists = {name: tuple(values[name]) for name in ("classes", "channels")}
        return cls(**{**values, **lists, "cases": cases})

    def open(self, case: StudyCase) -> Slide:
        """A picture or slide; the caller closes it."""
        return open_slide(case.image, PixelSize(self.file_um), self.alike(case.image))

    def alike(self, image: Path) -> tuple[Path, ...]:
        """The images on which the colours of one are measured."""
        return self._alike.get(image, (image,))

    @cached_property
    def _alike(self) -> dict[Path, tuple[Path, ...]]:
        if not self.of_places:
            return {}
        images: dict[str, list[Path]] = {}
        for case in self.cases:
            images.setdefault(case.domain, []).append(case.image)
        return {case.image: some_of(images[case.domain]) for case in self.cases}

    def tissue(self, slide: Slide) -> TissueMask:
        """What may be asked about: all of a picture that shows nothing but tissue."""
        if self.has_glass:
            return _tissue(slide.path, self.file_um)
        edge = PICTURE_CELL / slide.pixel_size
        columns, rows = (int(np.ceil(length / edge - 1e-6)) for length in slide.size_px)
        return TissueMask(np.ones((rows, columns), bool), PICTURE_CELL, slide.pixel_size)

    def truth(self, case: StudyCase, region: Region, size: tuple[int, int]) -> np.ndarray:
        """Classes of a region of a picture, `(height, width)` uint8.

        Args:
            region: in level-0 pixels.
            size: width and height wanted.
        """
        if case.has_outlines:
            return rasterise([(polygon, 1) for polygon in _outlines(case.label)], region, size)
        picture = _label_picture(case.label)
        cut = Image.fromarray(picture[region.y : region.bottom, region.x : region.right])
        return np.asarray(cut if cut.size == size else cut.resize(size, Image.Resampling.NEAREST))

    def outlines(self, case: StudyCase) -> tuple[shapely.Polygon, ...]:
        """The polygons of the first class, in level-0 pixels; of a case whose truth is polygons."""
        return _outlines(case.label)

    def volume_truth(self, case: StudyCase) -> np.ndarray:
        """Classes of a volume, `(*space)` int32."""
        return read_label_of(case.label, read_volume((case.image,)).grid)


@lru_cache(maxsize=256)
def _tissue(path: Path, file_um: float) -> TissueMask:
    with open_slide(path, PixelSize(file_um)) as slide:
        return find_tissue(slide)


@lru_cache(maxsize=256)
def _outlines(path: Path) -> tuple[shapely.Polygon, ...]:
    features = json.loads(path.read_text())["features"]
    return tuple(part for feature in features for part in polygons_in(shape(feature["geometry"])))


@lru_cache(maxsize=256)
def _label_picture(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)
