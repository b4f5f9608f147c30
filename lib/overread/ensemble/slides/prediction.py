"""All members over a whole slide, or a part of it, in memory that does not grow with the slide."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event

import numpy as np
import torch

from overread.domain import BadInputError, PixelSize, Region
from overread.ensemble.compute import Precision
from overread.ensemble.ensemble import Ensemble
from overread.ensemble.slides.answers import Answers, Pictures
from overread.ensemble.slides.blending import Strip
from overread.ensemble.slides.glance import glance
from overread.ensemble.slides.maps import KEPT_MEASURES, SlideMaps
from overread.ensemble.slides.speakers import Speakers, as_seen, lattice_of, pixel_size_of
from overread.ensemble.slides.sweep import Sweep, bands_of
from overread.ensemble.slides.windows import WindowReader
from overread.ensemble.training import StoppedError
from overread.imaging.slides.mosaic import LabelMosaic
from overread.imaging.slides.slide import Slide
from overread.imaging.slides.tissue import TissueMask, find_tissue
from overread.uncertainty.measures import MEASURES

__all__ = ["SlideOptions", "SlidePrediction", "SlideReport", "glance", "predict_slide"]

# The members' logits of one window's height take so many bytes; what is wider goes in bands.
STRIP_BYTES = {"cpu": 256 << 20, "cuda": 2 << 30}


@dataclass(frozen=True)
class SlideOptions:
    """How the windows of a slide are gone through; only `step`, `cascade`, `precision` and `members` change answers.

    Attributes:
        step: distance of neighbouring windows as a share of the window; None takes the ensemble's.
        batch: windows that a member sees at a time.
        workers: threads that read.
        ahead: most pieces of the slide that wait to be used.
        cascade: windows where the first member's doubt is below this are not shown to the others, whose logits are
            taken to be those of the first. None shows all to all.
        precision: see `compute.autocast_for`.
        members: use only the first so many.
        strip_bytes: for the members' logits of one window's height; None takes what suits the device.
    """

    step: float | None = None
    batch: int = 8
    workers: int = 2
    ahead: int = 16
    cascade: float | None = None
    precision: Precision = "auto"
    members: int | None = None
    strip_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.step is not None and not 0 < self.step <= 1:
            raise BadInputError(f"windows lie a share of their edge apart, in (0, 1]; step is {self.step}")
        for name in ("batch", "workers", "ahead"):
            if getattr(self, name) < 1:
                raise BadInputError(f"{name} is {getattr(self, name)}, expected at least 1")


@dataclass(frozen=True)
class SlideReport:
    """What it took.

    Attributes:
        tiles: windows that were looked at.
        evaluations: windows times members that looked at them.
        spared: share of the other members' windows that the cascade left out; 0 without.
        waited_share: share of the wall time that the members waited for the reader.
        seconds: wall time.
        tiles_per_s: windows by wall time.
        tissue_share: share of the region's cells that hold tissue.
    """

    tiles: int
    evaluations: int
    spared: float
    waited_share: float
    seconds: float
    tiles_per_s: float
    tissue_share: float

    def words(self) -> str:
        """One sentence for people."""
        spared = (
            f", the cascade spared {self.spared:.0%} of the other members' windows" if self.spared else ""
        )
        return (
            f"{self.tiles} windows ({self.tissue_share:.0%} of the area is tissue) in {self.seconds:.1f} s, "
            f"{self.tiles_per_s:.1f} a second; {self.waited_share:.0%} of the time went on waiting for the "
            f"reader{spared}"
        )


@dataclass(frozen=True, eq=False)
class SlidePrediction:
    """What the ensemble says about a region.

    Attributes:
        labels: class of the largest mean probability, at the ensemble's pixel size; its origin is the region's corner.
        some: the class other than the background with most of the members' votes; 0 where it has none.
        every: the class that all members vote for; 0 where they differ.
        bands: 1 where doubt is moderate, 2 where it is high, by the calibrated thresholds; empty without them.
        maps: with the region's cells filled in.
        region: what was looked at, out to whole pixels of the ensemble; at the slide's ends cut to the slide.
        pixel_size: of the four pictures.
        report: what it took.
    """

    labels: LabelMosaic
    some: LabelMosaic
    every: LabelMosaic
    bands: LabelMosaic
    maps: SlideMaps
    region: Region
    pixel_size: PixelSize
    report: SlideReport


def predict_slide(
    ensemble: Ensemble,
    slide: Slide,
    *,
    region: Region | None = None,
    tissue: TissueMask | None = None,
    measure: str = "predictive_entropy",
    options: SlideOptions = SlideOptions(),
    device: torch.device | str = "cpu",
    maps: SlideMaps | None = None,
    progress: Callable[[float], None] | None = None,
    stop: Event | None = None,
) -> SlidePrediction:
    """Let the members speak about a slide, or a region of it.

    Windows lie on one lattice over the slide, blended with Gaussian weights, and those without tissue in their core
    are left out: there is background without doubt. Rows of windows go from top to bottom; what no later window
    touches becomes opinions, pictures and cells of maps, and is forgotten. So memory holds one window's height of
    the members' logits, whatever the slide. A region is answered as it would be within the whole slide: windows
    that reach into it are looked at as well, and its outermost cells are completed.

    Args:
        region: in level-0 pixels; the whole slide by default. Parts outside the slide are left out.
        tissue: found where it is not given.
        measure: the doubt that `bands` cuts; it is in the maps as well.
        maps: of the same slide and ensemble; the region's cells in them are written. Made where not given.
        progress: told the share done, in (0, 1]; may raise to cancel.
        stop: ends the work soon after it is set.

    Raises:
        BadInputError: the ensemble cannot be asked about slides, or the region lies outside.
        StoppedError: `stop` was set; the rows of `maps` that were done are kept.
    """
    started = time.perf_counter()
    pixel = pixel_size_of(ensemble)
    speakers = Speakers(ensemble, options.members, options.precision, device)
    measures = tuple(dict.fromkeys((*KEPT_MEASURES, MEASURES[measure].name)))
    within = slide.bounds.intersection(region or slide.bounds)
    if within is None:
        raise BadInputError(
            f"the region {region} lies outside {slide.id}, which has {slide.size_px[0]} x {slide.size_px[1]} pixels"
        )
    if maps is None:
        found = tissue or find_tissue(slide)
        maps = SlideMaps.empty(slide, ensemble, found, members=len(speakers), measures=measures)
    _ensure_fitting(maps, slide, ensemble, len(speakers))
    maps.maps.setdefault(measure, np.zeros(maps.shape, np.float16))
    lattice = lattice_of(slide, ensemble, maps.cell, options.step)
    left, top, right, bottom = lattice.pixels_of(within)
    pictures = Pictures.blank(left, top, right, bottom)
    covered = lattice.region_of(left, top, right, bottom)
    # Cells are completed, so that a region's border leaves no half-filled ones.
    cells = maps.cells(covered)
    looked_at = lattice.tissue_in_cores(maps.tissue) > 0
    a_column = 4 * len(speakers) * len(ensemble.classes) * lattice.y.patch
    strip_bytes = options.strip_bytes or STRIP_BYTES.get(speakers.device.type, STRIP_BYTES["cpu"])
    bands = bands_of(lattice, looked_at, cells, max(2 * lattice.x.patch, strip_bytes // a_column))
    rows = [row for band in bands for row in band.rows]
    reader = WindowReader(
        as_seen(slide, ensemble), lattice, rows, workers=options.workers, ahead=options.ahead
    )
    sweep = Sweep(speakers, lattice, reader, options.batch, options.cascade)
    total = sum(len(row.columns) for row in rows)
    try:
        for band in bands:
            answers = Answers(
                lattice,
                ensemble.calibration.temperature,
                measures,
                maps.kinds_of(ensemble),
                ensemble.calibration.bands.get(measure),
                (cells[0], band.cells),
                pictures,
                maps,
                speakers.device,
            )
            strip = Strip(
                lattice,
                looked_at,
                (len(speakers), len(ensemble.classes)),
                (band.left, band.right),
                speakers.device,
                answers.add,
            )
            for done in sweep.go_through(band, strip, answers):
                if stop is not None and stop.is_set():
                    raise StoppedError(f"looking at {slide.id} was stopped; it can be done again at any time")
                if progress is not None:
                    progress(done / total)
    finally:
        reader.close()
    if covered == lattice.region_of(0, 0, lattice.x.size, lattice.y.size):
        maps.is_coarse = False
    seconds = time.perf_counter() - started
    tiles = len({(row.window, column) for row in rows for column in row.columns})
    shown = _on_slide(covered, slide.bounds)
    report = SlideReport(
        tiles=tiles,
        evaluations=speakers.evaluations,
        spared=sweep.spared / max(sweep.windows, 1),
        waited_share=min(1.0, reader.waited_s / seconds),
        seconds=seconds,
        tiles_per_s=tiles / seconds,
        tissue_share=float(maps.tissue[cells].mean()),
    )
    return SlidePrediction(
        pictures.labels, pictures.some, pictures.every, pictures.bands, maps, shown, pixel, report
    )


def _ensure_fitting(maps: SlideMaps, slide: Slide, ensemble: Ensemble, members: int) -> None:
    theirs = (maps.slide_size_px, maps.classes, len(maps.sizes))
    ours = (slide.size_px, ensemble.classes, members)
    if theirs != ours:
        raise BadInputError(
            f"the maps are of a slide of {theirs[0]} pixels, classes {theirs[1]} and {theirs[2]} members; "
            f"{slide.id} has {ours[0]} pixels, {ensemble.name} classes {ours[1]} and {ours[2]} members"
        )


def _on_slide(region: Region, bounds: Region) -> Region:
    """A pixel of the ensemble may reach beyond the slide's end."""
    return region.intersection(bounds) or region
