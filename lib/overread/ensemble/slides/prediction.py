"""All members over a whole slide, or a part of it, in memory that does not grow with the slide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Event

import numpy as np
import torch

from overread.domain import PixelSize, Region
from overread.ensemble.compute import Precision
from overread.ensemble.ensemble import Ensemble
from overread.ensemble.slides.maps import SlideMaps
from overread.imaging.slides.mosaic import LabelMosaic
from overread.imaging.slides.slide import Slide
from overread.imaging.slides.tissue import TissueMask


@dataclass(frozen=True)
class SlideOptions:
    """How the windows of a slide are gone through; none of it but `cascade`, `members` and `precision` changes answers.

    Attributes:
        step: distance of neighbouring windows as a share of the window; None takes the ensemble's.
        batch: windows that a member sees at a time.
        workers: threads that read.
        ahead: most pieces of the slide that wait to be used.
        cascade: windows where the first member's doubt is below this are not shown to the others; None takes none.
        precision: see `compute.autocast_for`.
        members: use only the first so many.
    """

    step: float | None = None
    batch: int = 8
    workers: int = 2
    ahead: int = 16
    cascade: float | None = None
    precision: Precision = "auto"
    members: int | None = None


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
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class SlidePrediction:
    """What the ensemble says about a region.

    Attributes:
        labels: class of the largest mean probability, at the ensemble's pixel size; its origin is the region's corner.
        some: a class other than the background that any member votes for; 0 where none does.
        every: the class that all members vote for; 0 where they differ.
        bands: 1 where doubt is moderate, 2 where it is high, by the calibrated thresholds; empty without them.
        maps: with the region's cells filled in.
        region: what was looked at, on whole pixels of the ensemble.
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
    """Let the members speak about a slide, or a region of it."""
    raise NotImplementedError


def glance(
    ensemble: Ensemble,
    slide: Slide,
    tissue: TissueMask,
    seconds: float,
    rng: np.random.Generator,
    device: torch.device | str = "cpu",
) -> SlideMaps:
    """A coarse first pass within a time budget."""
    raise NotImplementedError
