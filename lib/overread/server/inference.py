"""One served model: an image in, a label map with doubt bands and the facts about it out."""

from __future__ import annotations

import logging
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferTask

from overread.domain import BadInputError, Grid, OverreadError
from overread.ensemble.ensemble import Ensemble
from overread.ensemble.prediction import predict
from overread.imaging.volumes import read_volume, write_nifti, write_nrrd
from overread.learning.champions import HASH_LENGTH
from overread.server.card import Choices, ModelCard
from overread.server.doubt import BANDS_OFF, DOUBT_MODES, DoubtMode, band_facts, draw
from overread.server.maps import MapKey, MapStore
from overread.server.models import ServedModels
from overread.server.settings import AUTO
from overread.uncertainty.calibration import band_map

logger = logging.getLogger(__name__)

# Where a request's image comes from.
STUDIES, SESSION, UPLOAD = "studies", "session", "upload"
RESULT_SUFFIXES = (".nrrd", ".nii.gz", ".nii")


@dataclass(frozen=True)
class Options(Choices):
    """What the reader chose for one inference, and the file that the client wants."""

    suffix: str
    compress: bool


class EnsembleTask(InferTask):
    """A recipe's champion as a `segmentation` model.

    Attributes:
        card: what it tells about itself.
    """

    def __init__(self, recipe: str, models: ServedModels, maps: MapStore) -> None:
        self.card, self.models, self.maps = ModelCard(recipe, models), models, maps
        super().__init__("segmentation", None, 3, self.card.recipe.description)

    def is_valid(self) -> bool:
        """Whether the model can be asked now."""
        return self.card.is_served

    def info(self) -> dict[str, Any]:
        """What clients show."""
        return self.card.info(3)

    def config(self) -> dict[str, Any]:
        """Options for the viewer's table."""
        return self.card.config()

    def options(self, request: dict[str, Any]) -> Options:
        """The reader's choices, with the defaults for what was not sent.

        Raises:
            BadInputError: a choice that is not in the table, or a kind of file that is not written.
        """
        chosen = self.card.choices(request)
        suffix, compress = file_wishes(request)
        return Options(chosen.measure, chosen.doubt, chosen.members, suffix, compress)

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Answer a request.

        Args:
            request: `image` is the path of the file; `image_id` its id where it belongs to the studies, and
                `image_name` what to call it in messages; `as_listed` where the client gets no label names with the
                answer; the rest is what the client sent.

        Returns:
            The label map's file, which the caller deletes, and plain JSON.
        """
        started = time.perf_counter()
        ensemble = self.models.ensemble(self.card.recipe.name)
        options = self.options(request)
        path = Path(request["image"])
        with called(path, request.get("image_name") or path.name):
            volume = read_volume([path])
        read_at = time.perf_counter()
        with self.models.turn:
            turn_at = time.perf_counter()
            prediction = predict(
                ensemble,
                volume,
                measures=(options.measure,),
                members=options.members,
                cascade=self._cascade(),
                precision=self.models.settings.precision,
                device=self.models.device,
            )
        predicted_at = time.perf_counter()
        thresholds = ensemble.calibration.bands.get(options.measure)
        values = prediction.maps[options.measure].values
        bands = None if thresholds is None else band_map(values, thresholds)
        drawing = draw(prediction.labels, bands, ensemble.classes, options.doubt, self.card.lists_bands())
        if request.get("as_listed"):
            drawing = drawing.as_listed(self.card.label_values())
        file = write_answer(drawing.values, volume.grid, options.suffix, options.compress)
        facts = self._facts(ensemble, options, bands)
        if request.get("image_id"):
            key = MapKey(self.card.recipe.name, ensemble.identity[:HASH_LENGTH], request["image_id"])
            self.maps.keep(key, prediction, ensemble.classes, floats=self.models.settings.keep_maps)
            shown: DoubtMode = (
                BANDS_OFF if bands is None and options.doubt == DOUBT_MODES[0] else options.doubt
            )
            self.maps.record_shown(key, str(request.get("client_id") or ""), shown)
        finished = time.perf_counter()
        logger.info("%s answered in %.1f s", self.card.recipe.name, finished - started)
        return str(file), {
            "label_names": drawing.names,
            "scores": prediction.scores,
            "latencies": {
                "total": round(finished - started, 3),
                "pre": round(read_at - started, 3),
                "waiting": round(turn_at - read_at, 3),
                "infer": round(predicted_at - turn_at, 3),
                "post": round(finished - predicted_at, 3),
            },
            **facts,
        }

    def _cascade(self) -> float | None:
        chosen = self.models.settings.cascade
        return None if chosen == AUTO else chosen

    def _facts(self, ensemble: Ensemble, options: Options, bands: np.ndarray | None) -> dict[str, Any]:
        thresholds = ensemble.calibration.bands.get(options.measure)
        doubt = band_facts(options.measure, thresholds) | {"shown": options.doubt}
        if bands is not None:
            doubt["voxels"] = {"high": int((bands == 2).sum()), "moderate": int((bands == 1).sum())}
        return {
            "model": self.card.recipe.name,
            "champion": ensemble.identity[:HASH_LENGTH],
            "members": options.members or len(ensemble.members),
            "doubt": doubt,
        }


def file_wishes(request: Mapping[str, Any]) -> tuple[str, bool]:
    """Suffix of the file that a client wants, and whether to compress it.

    Raises:
        BadInputError: a kind of file that is not written.
    """
    suffix = request.get("result_extension") or RESULT_SUFFIXES[0]
    if suffix not in RESULT_SUFFIXES:
        raise BadInputError(
            f"result_extension {suffix!r} is not written; there are {', '.join(RESULT_SUFFIXES)}"
        )
    return suffix, request.get("result_compress") not in (False, "false")


def answer_file(suffix: str) -> Path:
    """A file of its own in the temporary folder."""
    return Path(tempfile.gettempdir()) / f"answer-{uuid.uuid4().hex}{suffix}"


def write_answer(values: np.ndarray, grid: Grid, suffix: str, compress: bool) -> Path:
    """Write a label map as a client wants it; the caller deletes the file."""
    file = answer_file(suffix)
    if suffix == ".nrrd":
        write_nrrd(file, values, grid, compress=compress)
    else:
        write_nifti(file, values, grid)
    return file


@contextmanager
def called(path: Path, name: str) -> Iterator[None]:
    """Errors about the file at `path` call it `name`: clients do not know the server's paths."""
    try:
        yield
    except OverreadError as error:
        raise type(error)(str(error).replace(str(path), name)) from error
