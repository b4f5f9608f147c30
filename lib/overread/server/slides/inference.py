"""One served model for slides: a rectangle of a slide in, outlines of classes and doubt out."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferTask

from overread.domain import BadInputError, PixelSize, Region
from overread.ensemble.ensemble import Calibration, Ensemble
from overread.ensemble.slides.maps import SlideMaps
from overread.ensemble.slides.prediction import SlideOptions, SlidePrediction, predict_slide
from overread.imaging.slides.annotations import name_in_qupath
from overread.imaging.slides.mosaic import LabelMosaic
from overread.imaging.slides.outlines import Outline
from overread.imaging.slides.slide import Slide
from overread.learning.champions import HASH_LENGTH
from overread.meduhip.doubt import doubt_facts
from overread.meduhip.storage import KIND as MEDUHIP
from overread.queue.patches.parts import parts_of_region
from overread.server.card import Choices, ModelCard
from overread.server.doubt import band_facts
from overread.server.inference import called
from overread.server.labels import BACKGROUND
from overread.server.maps import MapKey
from overread.server.meduhip.preferences import Wish
from overread.server.models import ServedModels
from overread.server.names import own_name
from overread.server.settings import AUTO
from overread.server.slides.answers import kept_outlines, mosaic_of, outlines_in
from overread.server.slides.card import SlideTurnCard
from overread.server.slides.clicks import apply_clicks, drawn_large_enough, in_order, pixel_of
from overread.server.slides.maps import SlideMapStore
from overread.server.slides.opened import OpenedSlides, all_tissue, version_of
from overread.server.slides.request import Click, Place
from overread.server.slides.turns import Asker, SlideTurns

logger = logging.getLogger(__name__)

# Radius of a cell's nucleus with what lies around it: what a click stands for where no member saw anything.
NUCLEUS = PixelSize(8.0)
# Predictions that a further click can be added to without asking the members again.
KEPT_PREDICTIONS = 4


@dataclass(frozen=True, eq=False)
class SlideAnswer:
    """What a viewer gets.

    Attributes:
        outlines: in level-0 pixels of the slide, or of the picture that was sent.
        facts: about them; plain JSON.
    """

    outlines: list[Outline]
    facts: dict[str, Any]


class SlideTask(InferTask):
    """A recipe's champion as a `segmentation` model for slides.

    Attributes:
        card: what it tells about itself.
    """

    def __init__(
        self,
        recipe: str,
        models: ServedModels,
        slides: OpenedSlides,
        maps: SlideMapStore,
        turns: SlideTurns,
    ) -> None:
        # A recipe whose champion is of another kind one day gets another task.
        self._takes_turns = models.kind(recipe) == MEDUHIP
        self.card = SlideTurnCard(recipe, models) if self._takes_turns else ModelCard(recipe, models)
        self.models, self.slides, self.maps, self.turns = models, slides, maps, turns
        self._recent: OrderedDict[object, SlidePrediction] = OrderedDict()
        self._guard = threading.Lock()
        super().__init__("segmentation", None, 2, self.card.recipe.description)

    def is_valid(self) -> bool:
        """Whether the model can be asked now."""
        return self.card.is_served

    def info(self) -> dict[str, Any]:
        """What clients show. QuPath removes objects of these classes before it draws them anew."""
        info = self.card.info(2)
        labels = {name_in_qupath(name): value for name, value in info["labels"].items()}
        return info | {"labels": labels, "pathology": True, "cascade": self._cascade_facts()}

    def _cascade_facts(self) -> dict[str, Any]:
        """Below which doubt of the first member the others are not asked, and what validation slides said of that."""
        calibration = self.models.calibration(self.card.recipe.name)
        return {
            "threshold_nat": cascade_of(calibration, self.models.settings.cascade),
            "calibrated": None if calibration.cascade is None else asdict(calibration.cascade),
        }

    def config(self) -> dict[str, Any]:
        """Options, for clients that show them."""
        return self.card.config()

    def __call__(self, request: dict[str, Any]) -> tuple[None, dict[str, Any]]:
        """As `answer`, the facts alone."""
        return None, self.answer(request, ()).facts

    def answer(self, request: Mapping[str, Any], earlier: Iterable[Mapping[str, Any]]) -> SlideAnswer:
        """Answer a request.

        Args:
            request: `image` is the path of the file; `image_id` its id where it belongs to the studies, and
                `image_name` what to call it in messages; `person`, whose preferences apply, empty where that is not
                known; the rest is what the client sent.
            earlier: what the same client asked about the same slide, oldest first.

        Raises:
            BadInputError: something in the request cannot be meant, or it asks for too much at once.
        """
        started = time.perf_counter()
        path, name = Path(request["image"]), str(request.get("image_name") or "the image")
        place, chosen = Place.read(request), self.card.choices(request)
        wish = Wish.read(request, self.models.settings.preference) if self._takes_turns else None
        ensemble = self.models.ensemble(self.card.recipe.name)
        with called(path, name), self.slides.open(path) as slide:
            region = place.within(slide.bounds)
            key = MapKey(ensemble.name, ensemble.identity, str(request.get("image_id") or ""))
            kept = self._kept_maps(ensemble, slide, region, key, place, chosen)
            opened = time.perf_counter()
            is_usual_style = False
            if kept is not None:
                prediction, maps = None, kept
                thresholds = ensemble.calibration.bands.get(chosen.measure)
                found = kept_outlines(maps, region, thresholds, chosen.doubt, place.min_area_px)
            else:
                prediction = self._prediction(ensemble, slide, region, chosen, bool(key.case))
                maps = prediction.maps
                clicks = in_order(earlier, place)
                labels = prediction.labels
                if wish is not None:
                    asker = Asker(own_name(request), str(request.get("person") or ""), wish)
                    labels, is_usual_style = self._turn(prediction, slide, clicks, asker, place.min_area_px)
                elif clicks:
                    labels = self._after_clicks(prediction, slide, clicks)
                found = outlines_in(
                    prediction,
                    labels,
                    ensemble.classes,
                    slide.pixel_size,
                    chosen.doubt,
                    place.min_area_px,
                    clicks,
                )
            facts = self._facts(ensemble, slide, region, chosen, prediction)
            if parts := parts_of_region(maps, region):
                facts["doubt_parts"] = doubt_facts(parts)
            if wish is not None:
                facts["preference"] = wish.told(is_usual_style)
        finished = time.perf_counter()
        logger.info(
            "%s answered about %s of %s in %.1f s",
            self.card.recipe.name,
            list(region.bbox),
            name,
            finished - started,
        )
        computed = 0.0 if prediction is None else prediction.report.seconds
        latencies = {
            "total": round(finished - started, 3),
            "pre": round(opened - started, 3),
            "infer": round(computed, 3),
            "post": round(max(0.0, finished - opened - computed), 3),
        }
        return SlideAnswer(found, facts | {"latencies": latencies})

    def _kept_maps(
        self,
        ensemble: Ensemble,
        slide: Slide,
        region: Region,
        key: MapKey,
        place: Place,
        chosen: Choices,
    ) -> SlideMaps | None:
        """What the background scoring made of the slide, where a region is more than a request may compute.

        Raises:
            BadInputError: it is too much, and nothing is kept of it.
        """
        pixel = model_pixel(ensemble)
        wanted = region.area_px * (slide.pixel_size / pixel) ** 2
        limit = self.models.settings.max_region_px
        if wanted <= limit:
            return None
        edge = math.floor(math.sqrt(limit) * (pixel / slide.pixel_size))
        too_much = (
            f"the rectangle of {region.width} x {region.height} pixels holds {wanted / 1e6:.4g} million of the "
            f"model's pixels, and one request may have {limit / 1e6:.4g} million computed (--conf max_region_px): "
            f"draw a smaller one, such as {edge} x {edge}"
        )
        if place.clicks:
            raise BadInputError(f"{too_much}, around the clicks")
        # Scored are all members.
        maps = self.maps.scored(key, slide.path) if key.case and chosen.members is None else None
        if maps is None:
            raise BadInputError(f"{too_much}, or wait for the background scoring of the whole slide")
        return maps

    def _prediction(
        self, ensemble: Ensemble, slide: Slide, region: Region, chosen: Choices, of_studies: bool
    ) -> SlidePrediction:
        """What the members say about a region; remembered for the clicks that follow.

        Args:
            of_studies: not a picture that was sent, in which everything is meant.
        """
        settings = self.models.settings
        key = (ensemble.identity, version_of(slide.path), region, chosen.measure, chosen.members)
        if (known := self._remembered(key)) is not None:
            return known
        tissue = self.slides.tissue(slide) if of_studies else all_tissue(slide)
        with self.models.turn:
            # Another reader may have asked the same meanwhile.
            prediction = self._remembered(key)
            if prediction is None:
                prediction = predict_slide(
                    ensemble,
                    slide,
                    region=region,
                    tissue=tissue,
                    measure=chosen.measure,
                    options=SlideOptions(
                        batch=settings.slide_batch,
                        workers=settings.slide_workers,
                        cascade=cascade_of(ensemble.calibration, settings.cascade),
                        precision=settings.precision,
                        members=chosen.members,
                    ),
                    device=self.models.device,
                )
        with self._guard:
            self._recent[key] = prediction
            while len(self._recent) > KEPT_PREDICTIONS:
                self._recent.popitem(last=False)
        return prediction

    def _remembered(self, key: object) -> SlidePrediction | None:
        with self._guard:
            if key in self._recent:
                self._recent.move_to_end(key)
            return self._recent.get(key)

    def _turn(
        self,
        prediction: SlidePrediction,
        slide: Slide,
        clicks: tuple[Click, ...],
        asker: Asker,
        min_area_px: float,
    ) -> tuple[LabelMosaic, bool]:
        """What a MedUHIP champion answers, and whether it began as the person usually draws."""
        recipe = self.card.recipe.name
        classes = self.models.classes(recipe)
        scale = prediction.pixel_size / slide.pixel_size
        made = _pixels_of(clicks, prediction, scale)
        named = [
            (
                row,
                column,
                classes[_likeliest_at(prediction, scale, row, column)] if is_positive else BACKGROUND,
            )
            for row, column, is_positive in made
        ]
        turn = self.turns.take(recipe, asker, slide, prediction, named)
        if turn.labels is None:
            return prediction.labels, turn.is_usual_style
        radius = NUCLEUS / prediction.pixel_size
        drawn = drawn_large_enough(turn.labels, made, min_area_px / scale**2, radius)
        return mosaic_of(drawn), turn.is_usual_style

    def _after_clicks(
        self, prediction: SlidePrediction, slide: Slide, clicks: tuple[Click, ...]
    ) -> LabelMosaic:
        """The outlines as clicks move them: as far as what the members said apart."""
        width, height = prediction.labels.size
        scale = prediction.pixel_size / slide.pixel_size
        drawn = apply_clicks(
            prediction.labels.read(0, 0, width, height),
            prediction.some.read(0, 0, width, height),
            prediction.every.read(0, 0, width, height),
            _pixels_of(clicks, prediction, scale),
            NUCLEUS / prediction.pixel_size,
            lambda row, column: _likeliest_at(prediction, scale, row, column),
        )
        return mosaic_of(drawn)

    def _facts(
        self,
        ensemble: Ensemble,
        slide: Slide,
        region: Region,
        chosen: Choices,
        prediction: SlidePrediction | None,
    ) -> dict[str, Any]:
        thresholds = ensemble.calibration.bands.get(chosen.measure)
        return {
            "model": self.card.recipe.name,
            "champion": ensemble.identity[:HASH_LENGTH],
            "members": chosen.members or len(ensemble.members),
            "region": list(region.bbox),
            "um_per_px": slide.pixel_size.um,
            "um_per_px_is_assumed": slide.is_pixel_size_assumed,
            "doubt": band_facts(chosen.measure, thresholds) | {"shown": chosen.doubt},
            "from": "the background scoring" if prediction is None else prediction.report.words(),
        }


def model_pixel(ensemble: Ensemble) -> PixelSize:
    """At which the members look. Raises BadInputError for a model that was not trained on slides."""
    if ensemble.um_per_px is None:
        raise BadInputError(
            f"model {ensemble.name} does not say how many µm its pixels have, so it cannot be asked about slides"
        )
    return PixelSize(ensemble.um_per_px)


def cascade_of(calibration: Calibration, chosen: float | str | None) -> float | None:
    """Where the first member's doubt is below this, the others are not asked; None where they always are."""
    if chosen != AUTO:
        return None if chosen is None else float(chosen)
    return None if calibration.cascade is None else calibration.cascade.threshold


def likeliest_class(maps: SlideMaps, x: int, y: int) -> int:
    """Foreground class of the largest mean probability around a level-0 pixel."""
    rows, columns = maps.cells(Region(x, y, 1, 1))
    said = maps.probability[1:, rows, columns].astype(np.float32)
    return 1 + int(said.sum(axis=(1, 2)).argmax())


def _pixels_of(
    clicks: tuple[Click, ...], prediction: SlidePrediction, scale: float
) -> list[tuple[int, int, bool]]:
    """Row, column and side of each click in the prediction's pictures.

    Args:
        scale: level-0 pixels along one of these.
    """
    size = prediction.labels.size
    return [(*pixel_of(each, prediction.region, scale, size), each.is_positive) for each in clicks]


def _likeliest_at(prediction: SlidePrediction, scale: float, row: int, column: int) -> int:
    x = prediction.region.x + int((column + 0.5) * scale)
    y = prediction.region.y + int((row + 0.5) * scale)
    return likeliest_class(prediction.maps, x, y)
