"""One seed of a study: where its files lie, the central data, the first model, and what it says of the pool.

<seed>/division.json       who teaches, waits, judges
<seed>/central/            what the first model learns from, nnU-Net's raw layout
<seed>/first_study/        its training; <seed>/models/ the store that it was published in (or see `firsts`)
<seed>/maps/CASE.npz       what it says of the cases of the pool
<seed>/<arm>/              see `arms`
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from overread.domain import PatchLocation, PixelSize, Region
from overread.ensemble.calibrate import calibrate
from overread.ensemble.ensemble import Ensemble
from overread.ensemble.fingerprint import take_fingerprint
from overread.ensemble.plan import make_plan
from overread.ensemble.slides.maps import SlideMaps
from overread.ensemble.storage import load_ensemble
from overread.ensemble.training import TrainingOptions, hold_out, train_ensemble
from overread.imaging.dataset import read_dataset
from overread.imaging.slides.normalised import colours_of_slide, normalised
from overread.imaging.slides.slide import Slide
from overread.imaging.slides.tissue import TissueMask
from overread.learning.central import remember_central
from overread.learning.champions import ChampionStore
from overread.learning.patches import PatchImages
from overread.studies.uga.looking import Look, look_at
from overread.studies.uga.protocol import Protocol, Scale
from overread.studies.uga.sets import StudyCase, StudySet
from overread.studies.uga.splits import Division, divide

# Hears what is being done, and the share of it that is done.
Told = Callable[[str, float], None]

RECIPE = "study"
VALIDATION_SHARE = 0.2
# Patches that the first model learns from: edge in windows; cells by which structures are found.
PATCH_WINDOWS, STRUCTURE_UM = 1.5, 16.0


@dataclass(frozen=True)
class Bench:
    """One seed at work.

    Attributes:
        study_set, protocol, seed: what is done.
        folder: of the seed.
        device: to compute on.
    """

    study_set: StudySet
    protocol: Protocol
    seed: int
    folder: Path
    device: str

    @cached_property
    def division(self) -> Division:
        """Who teaches, waits and judges; drawn once."""
        path = self.folder / "division.json"
        if not path.exists():
            drawn = divide(self.study_set, self.seed, self.protocol.most_cases)
            write_whole(json.dumps(drawn.to_json(), indent=1), path)
        return Division.from_json(json.loads(path.read_text()))

    @cached_property
    def store(self) -> ChampionStore:
        """Where the first model is published, and what it was trained on is written down."""
        return ChampionStore(self.folder / "models")

    @property
    def scale(self) -> Scale:
        """How finely pictures are seen."""
        return self.protocol.scale_of(self.study_set.name)

    @property
    def central(self) -> Path:
        """The central data."""
        return self.folder / "central"

    @property
    def pool(self) -> list[StudyCase]:
        """All cases that may be asked about."""
        return [self.study_set.by_id[name] for ids in self.division.pool.values() for name in ids]

    @property
    def judges(self) -> list[StudyCase]:
        """All cases that judge."""
        return [self.study_set.by_id[name] for ids in self.division.test.values() for name in ids]

    @cached_property
    def patches(self) -> PatchImages:
        """Pictures cut from slides and pictures, in the model's pixels."""
        folder = self.study_set.cases[0].image.parent
        um, file_um = self.study_set.pixel_size.um, PixelSize(self.study_set.file_um)
        if not self.protocol.normalised:
            return PatchImages(folder, self.folder / "patches", um, file_um)
        return PatchImages(
            folder, self.folder / "normalised", um, file_um, self.reference, self.study_set.alike
        )

    @cached_property
    def reference(self) -> np.ndarray | None:
        """Colours that everything is brought to: of the slides that teach; None where they stay as they are."""
        if not self.protocol.normalised:
            return None
        moments = []
        for name in self.division.train:
            with self.study_set.open(self.study_set.by_id[name]) as slide:
                moments.append(colours_of_slide(slide, self.study_set.pixel_size))
        return np.mean(moments, axis=0)

    def seen(self, slide: Slide) -> Slide:
        """A picture or slide as the model sees it."""
        return normalised(slide, self.reference, self.study_set.pixel_size)

    def image_of(self, name: str) -> Path | None:
        """The image that belongs to a label: a patch's picture, or the volume."""
        location = PatchLocation.parse(name)
        if self.study_set.axes == 2 or location is None:
            return self.patches.image_of(name)
        return self.study_set.by_id[location.slide].image

    def maps_file(self, case: StudyCase) -> Path:
        """Where the first model's maps of a case are kept."""
        return self.folder / "maps" / f"{case.id}.npz"

    def first_maps(self, case: StudyCase) -> SlideMaps:
        """What the first model says of a case of the pool."""
        return SlideMaps.load(self.maps_file(case))

    def load(self, folder: Path) -> Ensemble:
        """An ensemble on the study's device."""
        return load_ensemble(folder, self.device, verify=False)

    def look(self, ensemble: Ensemble, case: StudyCase) -> Look:
        """What an ensemble says of a case."""
        return look_at(
            ensemble, self.study_set, case, self.device, self.protocol.step, self.scale.look_windows
        )

    def train_first(self, name: str, stain: float) -> Path:
        """Train a model on the central data, calibrate and publish it under a name; what is there is kept.

        Args:
            stain: strength of the stain augmentation; of volumes it is left out.
        """
        recipe_folder = self.store.recipe_folder(name)
        if (recipe_folder / "central.json").exists() and name in self.store.recipes():
            return self.store.current(name)
        if not self.central.exists():
            self._write_central()
        dataset = read_dataset(self.central)
        protocol = self.protocol
        options = TrainingOptions(
            members=protocol.members,
            iterations=protocol.starter_iterations,
            seed=self.seed,
            validation_share=VALIDATION_SHARE,
            device=self.device,
            threads=1,
            optimiser="adamw",
        )
        decided: dict[str, object] = {"batch": protocol.batch}
        if self.study_set.axes == 2:
            window = self.scale.window_px
            decided = {"batch": self.scale.batch, "patch": (window, window), "norm": "batch", "stain": stain}
        fingerprint = take_fingerprint(dataset, np.random.default_rng(self.seed))
        plan = make_plan(fingerprint, protocol.hardware(self.scale), decided).to_json()
        trained = train_ensemble(name, dataset, self.folder / f"first_{name}", options, plan)
        calibrate(trained, dataset, device=self.device)
        remember_central(recipe_folder, self.central, dataset, hold_out(dataset, options)[0])
        return self.store.publish(name, trained)

    def _write_central(self) -> None:
        """The central data; the folder appears whole or not at all."""
        staging = self.folder / ".central"
        shutil.rmtree(staging, ignore_errors=True)
        for part in ("imagesTr", "labelsTr"):
            (staging / part).mkdir(parents=True)
        cases = [self.study_set.by_id[name] for name in self.division.train]
        if self.study_set.has_glass:
            self._cut_central(cases, staging)
        else:
            self._copy_central(cases, staging)
        staging.rename(self.central)

    def _cut_central(self, cases: Sequence[StudyCase], folder: Path) -> None:
        """Patches of central slides, half of them about a structure and half anywhere in tissue."""
        rng = np.random.default_rng([self.seed, 7])
        names: dict[str, str] = {}
        for case in cases:
            with self.study_set.open(case) as slide:
                zoom = self.study_set.pixel_size / slide.pixel_size
                edge = round(PATCH_WINDOWS * self.scale.window_px * zoom)
                wanted = self._structures(slide, case), self.study_set.tissue(slide)
                for number in range(self.protocol.patches_per_slide):
                    where = wanted[0] if number % 2 == 0 and wanted[0].mask.any() else wanted[1]
                    name = PatchLocation(case.id, patch_about(where, slide, edge, rng)).name
                    if name not in names:
                        self._write_patch(slide, name, folder)
                        names[name] = case.patient
        self._describe(names, ".png", folder)

    def _structures(self, slide: Slide, case: StudyCase) -> TissueMask:
        """Cells of the slide with any structure."""
        cell = PixelSize(STRUCTURE_UM)
        size = (
            max(1, round(slide.size_px[0] * slide.pixel_size.um / cell.um)),
            max(1, round(slide.size_px[1] * slide.pixel_size.um / cell.um)),
        )
        return TissueMask(self.study_set.truth(case, slide.bounds, size) > 0, cell, slide.pixel_size)

    def _write_patch(self, slide: Slide, name: str, folder: Path) -> None:
        location = PatchLocation.parse(name)
        assert location is not None
        picture = self.seen(slide).read(location.region, self.study_set.pixel_size)
        case, size = self.study_set.by_id[location.slide], (picture.shape[1], picture.shape[0])
        Image.fromarray(picture).save(folder / "imagesTr" / f"{name}_0000.png")
        Image.fromarray(self.study_set.truth(case, location.region, size)).save(
            folder / "labelsTr" / f"{name}.png"
        )

    def _copy_central(self, cases: Sequence[StudyCase], folder: Path) -> None:
        is_picture = self.study_set.axes == 2
        ending = ".png" if is_picture else "".join(cases[0].label.suffixes[-2:])
        for case in cases:
            image, label = (
                folder / "imagesTr" / f"{case.id}_0000{ending}",
                folder / "labelsTr" / f"{case.id}{ending}",
            )
            if is_picture:
                with self.study_set.open(case) as slide:
                    picture = self.seen(slide).read(slide.bounds, self.study_set.pixel_size)
                    truth = self.study_set.truth(case, slide.bounds, (picture.shape[1], picture.shape[0]))
                Image.fromarray(picture).save(image)
                Image.fromarray(truth).save(label)
            else:
                shutil.copyfile(case.image, image)
                shutil.copyfile(case.label, label)
        self._describe({case.id: case.patient for case in cases}, ending, folder)

    def _describe(self, patients: Mapping[str, str], ending: str, folder: Path) -> None:
        description: dict[str, object] = {
            "name": self.study_set.name,
            "channel_names": {str(index): name for index, name in enumerate(self.study_set.channels)},
            "labels": {name: value for value, name in enumerate(self.study_set.classes)},
            "numTraining": len(patients),
            "file_ending": ending,
            "patients": dict(patients),
        }
        if self.study_set.um_per_px is not None:
            description["um_per_px"] = self.study_set.um_per_px
        if self.reference is not None:
            description["colours"] = self.reference.tolist()
        (folder / "dataset.json").write_text(json.dumps(description, indent=2) + "\n")

    def label_of(self, location: PatchLocation) -> np.ndarray:
        """The truth about a patch in the model's pixels, axes as `read_volume` gives them; of a volume all of it."""
        case = self.study_set.by_id[location.slide]
        if self.study_set.axes == 3:
            return self.study_set.volume_truth(case)
        picture = self.image_of(location.name)
        assert picture is not None
        with Image.open(picture) as opened:
            size = opened.size
        return self.study_set.truth(case, location.region, size).T


def patch_about(where: TissueMask, slide: Slide, edge: int, rng: np.random.Generator) -> Region:
    """A square of that edge in level-0 pixels, its middle in one of the cells; on a small slide less."""
    width, height = (min(edge, size) for size in slide.size_px)
    cells = np.argwhere(where.mask)
    middle = (cells[rng.integers(len(cells))] + rng.random(2)) if len(cells) else np.zeros(2)
    y, x = (middle * (where.cell / slide.pixel_size)).astype(int)
    left = int(np.clip(x - width // 2, 0, slide.size_px[0] - width))
    top = int(np.clip(y - height // 2, 0, slide.size_px[1] - height))
    return Region(left, top, width, height)


def write_whole(text: str, path: Path) -> None:
    """Write whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)
