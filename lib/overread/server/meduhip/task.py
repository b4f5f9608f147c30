"""A recipe whose champion is a MedUHIP model: an image and what was said in, a proposal and candidates out."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferTask

from overread.domain import BadInputError, Grid
from overread.ensemble.prediction import Prediction
from overread.imaging.volumes import Volume, read_volume
from overread.learning.champions import HASH_LENGTH
from overread.meduhip.doubt import PARTS, doubt_facts
from overread.meduhip.reader import Reader
from overread.server.doubt import BANDS_OFF, band_facts
from overread.server.inference import STUDIES, answer_file, called, file_wishes, write_answer
from overread.server.maps import MapKey, MapStore
from overread.server.meduhip.card import TurnCard, TurnChoices
from overread.server.meduhip.clicks import ALL_STAND, read_clicks
from overread.server.meduhip.encoded import EncodedImages, Opened
from overread.server.meduhip.markups import SUFFIX, write_markups
from overread.server.meduhip.memory import Memory, teaches
from overread.server.meduhip.opinions import bands_of, prediction_of, with_parts
from overread.server.meduhip.sittings import Sitting, Sittings, Who
from overread.server.meduhip.turns import Turns
from overread.server.meduhip.views import View
from overread.server.models import ServedModels
from overread.server.ohif.panel import POINTS, WHOLE
from overread.server.overlays import CANDIDATE_NAMES, REGIONS_OFF, draw_turn, holds_classes

logger = logging.getLogger(__name__)


@dataclass
class Watch:
    """Seconds by stage of a request."""

    started: float
    stages: dict[str, float]

    def note(self, stage: str, since: float) -> float:
        """Add what passed since a moment to a stage; the moment now."""
        now = time.perf_counter()
        self.stages[stage] = self.stages.get(stage, 0.0) + now - since
        return now

    def latencies(self) -> dict[str, float]:
        """For the answer."""
        stages = {name: round(seconds, 3) for name, seconds in self.stages.items()}
        return {"total": round(time.perf_counter() - self.started, 3), **stages}


class MedUHIPTask(InferTask):
    """A recipe's champion as a `deepedit` model.

    Attributes:
        card: what it tells about itself.
        encoded: images that were encoded; shared by all models.
        sittings: where each client is.
        memory: what is known of each person.
        image_of: the file of a case of the studies; None where it is gone.
    """

    def __init__(
        self,
        recipe: str,
        models: ServedModels,
        maps: MapStore,
        encoded: EncodedImages,
        sittings: Sittings,
        memory: Memory,
        image_of: Callable[[str], Path | None],
    ) -> None:
        self.card, self.models, self.maps = TurnCard(recipe, models), models, maps
        self.encoded, self.sittings, self.memory, self.image_of = encoded, sittings, memory, image_of
        super().__init__("deepedit", None, self.card.dimension, self.card.recipe.description)

    def is_valid(self) -> bool:
        """Whether the model can be asked now."""
        return self.card.is_served

    def info(self) -> dict[str, Any]:
        """What clients show."""
        return self.card.info(self.card.dimension)

    def config(self) -> dict[str, Any]:
        """Options for the viewer's table."""
        return self.card.config()

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Answer a request.

        Args:
            request: as for `EnsembleTask`, and `image_source`; `asked_by`, whose sitting it is; `person`, whose
                preferences apply, empty where that is not known; `panel`, how OHIF shows the answer, where it asks;
                the clicks.

        Returns:
            The file of the label map, or of markups, which the caller deletes, and plain JSON.
        """
        started = time.perf_counter()
        watch = Watch(started, dict.fromkeys(("waiting", "pre", "encode", "decode", "post"), 0.0))
        reader = self.models.reader(self.card.recipe.name)
        self.memory.meet(self.card.recipe.name, reader.identity, self._read_case)
        chosen = self.card.turn_choices(request)
        if request.get("panel") == POINTS:
            # What lay over a class would be a hole in it there.
            chosen = replace(chosen, candidates=REGIONS_OFF, doubt=BANDS_OFF)
        suffix, compress = file_wishes(request)
        path = Path(request["image"])
        with called(path, request.get("image_name") or path.name):
            image_key = content_key(request, path)
        now = watch.note("pre", started)
        with self.models.turn:
            watch.note("waiting", now)
            opened, was_encoded = self._opened(reader, request, path, image_key, watch)
            who = Who(
                case=request.get("image_id") or None,
                client=str(request.get("asked_by") or request.get("client_id") or ""),
                recipe=self.card.recipe.name,
                champion=reader.identity[:HASH_LENGTH],
                image=image_key,
            )
            sitting, view = self._turn(reader, opened, who, request, chosen, watch)
        drawing_at = time.perf_counter()
        thresholds = reader.calibration.bands.get(chosen.measure)
        prediction = self._prediction(reader, opened, view, chosen, request, sitting)
        bands = None if prediction is None else bands_of(prediction, thresholds, sitting.said)
        regions = view.regions[sitting.focus]
        listed = self.card.lists_bands()
        drawing = draw_turn(
            view.labels,
            regions,
            None if bands is None else bands.reshape(view.labels.shape),
            reader.classes,
            chosen.candidates,
            chosen.doubt,
            listed,
        )
        if request.get("as_listed"):
            drawing = drawing.as_listed(self.card.label_values())
        if chosen.markups:
            file = answer_file(SUFFIX)
            write_markups(file, view.offers[sitting.focus], opened.grid)
        else:
            values = drawing.values.reshape(opened.grid.shape)
            file = write_answer(values, opened.grid, suffix, compress)
        self._keep(who, request, sitting, view, opened, reader, prediction, chosen, bands is not None)
        watch.note("post", drawing_at)
        facts = self._facts(reader, opened, view, sitting, chosen, bands)
        if prediction is not None:
            facts["scores"] = prediction.scores
            facts["doubt_parts"] = doubt_facts(
                {name: prediction.scores[name] for name in prediction.maps if name in PARTS}
            )
        latencies = watch.latencies()
        logger.info("%s answered in %.2f s", self.card.recipe.name, latencies["total"])
        return str(file), {
            "label_names": drawing.names,
            "encoded": "cached" if was_encoded else "new",
            "latencies": latencies,
            **facts,
        }

    def sitting_of(self, case: str, person: str, path: Path) -> tuple[Sitting, str] | None:
        """A person's last sitting at an image of the studies, with the image's key; None where there was none."""
        recipe = self.card.recipe.name
        champion = str(self.models.description(recipe)["identity"])[:HASH_LENGTH]
        key = content_key({"image_id": case, "image_source": STUDIES}, path)
        sitting = self.sittings.last(Who(case, person, recipe, champion, key))
        return None if sitting is None else (sitting, key)

    def teach(self, case: str, person: str, path: Path, labels: np.ndarray, now: float) -> None:
        """Let the preferences learn from a label that a person gave, where the person sat at the case with them.

        Args:
            labels: class indices `(*space)` as stored.
        """
        found = self.sitting_of(case, person, path)
        if found is None or not teaches(found[0].wish, labels):
            return
        sitting, key = found
        recipe = self.card.recipe.name
        reader = self.models.reader(recipe)
        request = {"image_name": f"image {case}"}
        watch = Watch(time.perf_counter(), {})
        with self.models.turn:
            opened, _ = self._opened(reader, request, path, key, watch)
            self.memory.accepted(person, recipe, sitting.purpose, reader, opened.image, labels, case, now)

    def _read_case(self, case: str, reader: Reader) -> Volume | None:
        path = self.image_of(case)
        return None if path is None else as_seen(read_volume([path]), reader.plan.axes)

    def _opened(
        self, reader: Reader, request: Mapping[str, Any], path: Path, image_key: str, watch: Watch
    ) -> tuple[Opened, bool]:
        key = ("image", image_key, reader.identity)
        opened = self.encoded.get(key)
        if opened is not None:
            return opened, True
        at = time.perf_counter()
        with called(path, request.get("image_name") or path.name):
            volume = read_volume([path])
        at = watch.note("pre", at)
        image = reader.open(as_seen(volume, reader.plan.axes), self.models.device)
        watch.note("encode", at)
        opened = Opened(image, volume.grid)
        self.encoded.put(key, opened, image.bytes)
        return opened, False

    def _turn(
        self,
        reader: Reader,
        opened: Opened,
        who: Who,
        request: Mapping[str, Any],
        chosen: TurnChoices,
        watch: Watch,
    ) -> tuple[Sitting, View]:
        """Where the client is now, and what it sees."""
        at = time.perf_counter()
        turns = Turns(reader.model, opened, reader.classes)
        panel = request.get("panel")
        clicks = read_clicks(request, reader.classes, opened.grid, reader.plan.axes)
        before = self.sittings.last(who)
        if panel == WHOLE:
            clicks = ALL_STAND
        elif panel == POINTS and before is not None:
            chosen = replace(chosen, wish=before.wish, candidate=before.option)
        person = str(request.get("person") or "")
        is_new = before is None or chosen.reset or not self.memory.goes_on(before, who, person, chosen.wish)
        if is_new or before is None:
            sitting, shown = self.memory.begun(reader, who, person, chosen.wish), None
            # What was not shown yet cannot be chosen from.
            option = ""
        else:
            # In OHIF the whole answer is asked for again to be seen, not to say the same again.
            is_repeated = panel is not None and chosen.candidate == before.option
            sitting, option = before, "" if is_repeated else chosen.candidate
            focus = self._focus(reader, request, before.focus)
            if focus != before.focus and option == before.option:
                # 3D Slicer goes on sending what was chosen for the class before; of this one nothing was shown yet.
                option = ""
            if option:
                sitting = replace(sitting, focus=focus)
            shown = self.encoded.get(_view_key(who, before))
        sitting, view = turns.take(sitting, clicks, option, shown)
        view = view or turns.view(sitting)
        if before is not None:
            self.encoded.forget(_view_key(who, before))
        sitting = replace(
            sitting,
            option=chosen.candidate,
            focus=self._focus(reader, request, view.most_disputed if is_new else sitting.focus),
            offered=chosen.candidates != REGIONS_OFF,
        )
        self.encoded.put(_view_key(who, sitting), view, view.bytes)
        self.sittings.keep(who, sitting, time.time())
        watch.note("decode", at)
        return sitting, view

    def _focus(self, reader: Reader, request: Mapping[str, Any], otherwise: int) -> int:
        """Whose candidates are shown: the selected class's, where one is selected."""
        label = request.get("label")
        return reader.classes.index(label) - 1 if label in reader.classes[1:] else otherwise

    def _prediction(
        self,
        reader: Reader,
        opened: Opened,
        view: View,
        chosen: TurnChoices,
        request: Mapping[str, Any],
        sitting: Sitting,
    ) -> Prediction | None:
        """The samples as opinions, where doubt is shown or maps are kept."""
        is_shown = chosen.doubt != BANDS_OFF and chosen.measure in reader.calibration.bands
        is_kept = bool(request.get("image_id")) and not sitting.said
        if not is_shown and not is_kept:
            return None
        temperature = reader.calibration.temperature
        if chosen.measure not in PARTS:
            return prediction_of(opened, view, (chosen.measure,), temperature)
        prediction = prediction_of(opened, view, (), temperature)
        with self.models.turn:
            return with_parts(prediction, opened, temperature)

    def _keep(
        self,
        who: Who,
        request: Mapping[str, Any],
        sitting: Sitting,
        view: View,
        opened: Opened,
        reader: Reader,
        prediction: Prediction | None,
        chosen: TurnChoices,
        has_bands: bool,
    ) -> None:
        """Keep what a submitted label is completed from: of each client its own, for each is shown another proposal.

        Maps and probabilities are those of the image before anybody said anything.
        """
        if who.case is None:
            return
        key = MapKey(who.recipe, who.champion, who.case)
        client = str(request.get("client_id") or "")
        if not sitting.said and prediction is not None:
            floats = self.models.settings.keep_maps
            self.maps.keep(key, prediction, reader.classes, floats=floats, client=client)
        else:
            self.maps.keep_own(key, client, view.labels.reshape(opened.grid.shape), opened.grid)
        if chosen.markups:
            return
        self.maps.record_shown(
            key,
            client,
            chosen.doubt if has_bands else BANDS_OFF,
            chosen.candidates,
            has_classes=holds_classes(chosen.candidates, chosen.doubt),
        )

    def _facts(
        self,
        reader: Reader,
        opened: Opened,
        view: View,
        sitting: Sitting,
        chosen: TurnChoices,
        bands: np.ndarray | None,
    ) -> dict[str, Any]:
        doubt = band_facts(chosen.measure, reader.calibration.bands.get(chosen.measure))
        doubt["shown"] = chosen.doubt
        if bands is not None:
            doubt["voxels"] = {"high": int((bands == 2).sum()), "moderate": int((bands == 1).sum())}
        structures = reader.classes[1:]
        return {
            "model": self.card.recipe.name,
            "champion": reader.identity[:HASH_LENGTH],
            "turn": len(sitting.said),
            "candidates": {
                name: [offer.to_json() for offer in offers]
                for name, offers in zip(structures, view.offers, strict=True)
            },
            "candidates_of": structures[sitting.focus],
            "region_voxels": {
                name: int((view.regions[sitting.focus] == number).sum())
                for number, name in enumerate(CANDIDATE_NAMES, start=1)
            },
            "preference": sitting.wish.told(sitting.has_prior),
            "doubt": doubt,
        }


def as_seen(volume: Volume, axes: int) -> Volume:
    """The image as a model of so many axes takes it; of a volume of one slice, a model for pictures sees the slice.

    Raises:
        BadInputError: a model for pictures was given a volume of several slices.
    """
    shape = volume.grid.shape
    if axes == len(shape) or axes == 3:
        return volume
    if shape[2] != 1:
        raise BadInputError(
            f"this model reads pictures and volumes of one slice; the image has {shape[2]} slices"
        )
    return Volume(volume.voxels[..., 0], Grid(shape[:2], np.eye(4)))


def content_key(request: Mapping[str, Any], path: Path) -> str:
    """What tells an image's content: of a study its id and its file's time and size, else the content itself."""
    stat = path.stat()
    if request.get("image_source", STUDIES) == STUDIES and request.get("image_id"):
        return f"study {request['image_id']} {stat.st_mtime_ns} {stat.st_size}"
    return f"sha256 {_sha256(path, stat.st_mtime_ns, stat.st_size)}"


@lru_cache(maxsize=64)
def _sha256(path: Path, mtime_ns: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _view_key(who: Who, sitting: Sitting) -> tuple[Any, ...]:
    return ("view", who, sitting.session, sitting.said)
