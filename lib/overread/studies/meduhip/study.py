"""The protocol: folds by patient, ground truths of n raters, every arm trained within one budget, every session played.

    <work>/data/cases/                    prepared cases
    <work>/seed_S/fold_F/ARM.pt, .json    an arm's weights and its sessions; what is there is not done again

So a long study is made in pieces, and `report` tells what is there so far.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from overread.domain import BadInputError, Grid
from overread.ensemble.compute import choose_device
from overread.ensemble.member_training import write_json
from overread.ensemble.orientation import nonzero_box
from overread.ensemble.plan import Normalisation, Plan
from overread.imaging.rated import Fold, RatedCase, RatedDataset
from overread.imaging.rated.cropped import cropped
from overread.imaging.volumes import Volume
from overread.meduhip.lessons import RatedLessons
from overread.meduhip.network import Configuration
from overread.meduhip.rated_store import RatedStore
from overread.metrics.set_distance import set_distance
from overread.raters.chance import generator_of
from overread.raters.ground_truth import draw_ground_truth
from overread.studies.made_from import changes, files_of, stamps
from overread.studies.meduhip.arms import ARMS, Bench, Contest, arms_named
from overread.studies.meduhip.pieces import rounded

LARGEST_PATCH = {2: 192, 3: 64}
SMALLEST_PATCH = 32
PATCH_STEP = 16
# A GPU takes as long for a few patches as for many.
BATCH = {"cpu": {2: 4, 3: 2}, "cuda": {2: 16, 3: 4}}
WIDTH = {2: 16, 3: 12}
FOLDS_SEED = 20240803
# Below `work/data`: what the cases there were prepared from.
ORIGIN = "origin.json"


@dataclass(frozen=True)
class Protocol:
    """How the study is done.

    Attributes:
        folds: of the cross-validation, by patient.
        seeds: repetitions of all trainings.
        minutes: budget of an arm, of one core's time.
        device: to train on; a GPU is driven by one core. Sessions are played on the CPU.
        turns: interactions at the most.
        repetitions: ground truths drawn per case and number of raters.
        arms: by name.
        ct: whether intensities are Hounsfield units.
        cases: of the data set at the most, whole patients drawn by chance; None takes all.
        crop: edge in voxels that cases are cut to, about what any rater marked; None leaves them whole.
        train_subsets, test_subsets: the published parts to learn from and to be tested on, in place of folds; none of
            either for folds.
    """

    folds: int = 5
    seeds: int = 3
    minutes: float = 4.0
    turns: int = 6
    repetitions: int = 1
    arms: tuple[str, ...] = ()
    ct: bool = False
    device: str = "cpu"
    cases: int | None = None
    crop: int | None = None
    train_subsets: tuple[str, ...] = ()
    test_subsets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.crop is not None and self.crop < SMALLEST_PATCH:
            raise BadInputError(f"crop is {self.crop}, expected at least {SMALLEST_PATCH} voxels")
        if self.turns < 1 or self.repetitions < 1 or self.seeds < 1 or self.minutes <= 0:
            raise BadInputError("a study needs at least one turn, one repetition, one seed and some minutes")
        if bool(self.train_subsets) != bool(self.test_subsets):
            raise BadInputError(
                "a published split needs a part to learn from and one to be tested on: give both --train-subset and "
                "--test-subset"
            )
        if self.train_subsets and self.folds != 1:
            raise BadInputError(f"folds is {self.folds}, and a published split has one")


def run_study(
    dataset: RatedDataset,
    work: Path,
    protocol: Protocol,
    progress: Callable[[str, float], None] = lambda _what, _share: None,
    part: tuple[int, int] = (1, 1),
) -> None:
    """Do what is not done yet, arm by arm over all folds and seeds.

    Args:
        work: keeps everything; given again, the study goes on.
        progress: hears what is being done, and the share of the study that is done.
        part: (2, 5) does the second fifth of seeds and folds, for five processes that share the work folder.

    Raises:
        BadInputError: the folder holds a study of other data or another protocol, or an arm is not known.
    """
    arms = arms_named(protocol.arms)
    dataset = part_studied(dataset, protocol.cases, protocol.train_subsets, protocol.test_subsets)
    folds = folds_of(dataset, protocol)
    if protocol.crop is not None:
        dataset = cropped(dataset, protocol.crop)
    _open(work, dataset, protocol)
    plan, configuration = prepare_study(dataset, work, protocol, progress)
    number, of = part
    if not 1 <= number <= of:
        raise BadInputError(f"there is no part {number} of {of}")
    places = [(seed, fold) for seed in range(protocol.seeds) for fold in range(len(folds))]
    mine = places[number - 1 :: of]
    # A seed is finished with all arms before the next begins.
    pieces = [
        (arm, seed, fold)
        for now in range(protocol.seeds)
        for arm in arms
        for seed, fold in mine
        if seed == now
    ]
    for done, (arm, seed, fold) in enumerate(pieces):
        folder = work / f"seed_{seed}" / f"fold_{fold}"
        progress(f"{arm}, seed {seed}, fold {fold + 1} of {len(folds)}", done / len(pieces))
        if (folder / f"{arm}.json").exists():
            continue
        bench = Bench(
            folder,
            tuple(case.id for case in folds[fold].train),
            work / "data",
            plan,
            configuration,
            protocol.minutes,
            seed,
            protocol.device,
        )
        folder.mkdir(parents=True, exist_ok=True)
        rows = {
            contest.name: play_contest(contest, folds[fold].test, work / "data", protocol, seed)
            for contest in ARMS[arm](bench)
        }
        # As they are packed, so that tables from packed sessions are the very same.
        write_json(
            rounded({"arm": arm, "seed": seed, "fold": fold, "contests": rows}), folder / f"{arm}.json"
        )
    progress("done", 1.0)


def play_contest(
    contest: Contest, cases: Sequence[RatedCase], data: Path, protocol: Protocol, seed: int
) -> dict[str, Any]:
    """All sessions of one system with one clinician over the test cases, and how its samples resemble the raters."""
    store = RatedStore(data / "cases")
    sessions, sets = [], []
    for case in cases:
        image, masks = store.whole(case.id)
        samples = contest.player.samples(image)
        if samples is not None:
            sets.append({"case": case.id, **asdict(set_distance(samples.numpy(), masks.numpy()))})
        for count in range(1, len(masks) + 1):
            for repetition in range(protocol.repetitions if count < len(masks) else 1):
                truth = draw_ground_truth(masks.numpy(), count, case.id, repetition)
                wanted = torch.from_numpy(truth.mask)
                clinician = contest.clinician.before(masks.numpy(), truth.raters)
                rng = generator_of(case.id, count, repetition, seed)
                turns = protocol.turns if contest.interacts else 0
                trace = contest.player.play(image, wanted, clinician, turns, rng)
                dice = list(trace.dice) + [trace.dice[-1]] * (protocol.turns - turns)
                sessions.append(
                    {
                        "case": case.id,
                        "patient": case.patient,
                        "raters": count,
                        "repetition": repetition,
                        "empty": not bool(wanted.any()),
                        "dice": dice,
                        "best_of_samples": _or_none(trace.best_of_samples),
                        "best_of_candidates": _or_none(trace.best_of_candidates),
                    }
                )
    return {"sessions": sessions, "sets": sets}


def part_studied(
    dataset: RatedDataset, most: int | None, train: Sequence[str] = (), test: Sequence[str] = ()
) -> RatedDataset:
    """What a study takes of a data set: published parts where some are named, and at most so many cases.

    Raises:
        NotFoundError: there is no such part.
    """
    return some_of(dataset.of_subset(*train, *test) if train or test else dataset, most)


def folds_of(dataset: RatedDataset, protocol: Protocol) -> tuple[Fold, ...]:
    """The folds by patient, or the published split as the only one.

    Raises:
        BadInputError: there are fewer patients than folds, a patient is in both parts of a published split, or a part
            has no case.
    """
    if not protocol.train_subsets:
        return dataset.folds(protocol.folds, np.random.default_rng(FOLDS_SEED))
    train, test = (
        tuple(case for case in dataset.cases if case.subset in names)
        for names in (protocol.train_subsets, protocol.test_subsets)
    )
    if twice := sorted({case.patient for case in train} & {case.patient for case in test}):
        raise BadInputError(
            f"patients of {dataset.name} are in the part to learn from and in the one to be tested on, such as "
            f"{twice[0]} ({len(twice)} in all): what is learnt from a patient cannot be tested on them"
        )
    for part, names in ((train, protocol.train_subsets), (test, protocol.test_subsets)):
        if not part:
            raise BadInputError(
                f"no case of {dataset.name} is left of {' and '.join(names)}: take more --cases"
            )
    return (Fold(train, test),)


def some_of(dataset: RatedDataset, most: int | None) -> RatedDataset:
    """The data set with at most so many cases, whole patients, the same ones always."""
    if most is None or len(dataset.cases) <= most:
        return dataset
    left = Counter(case.patient for case in dataset.cases)
    chosen: set[str] = set()
    count = 0
    for patient in np.random.default_rng(FOLDS_SEED).permutation(sorted(left)):
        if count + left[patient] <= most:
            chosen.add(str(patient))
            count += left[patient]
    return replace(dataset, cases=tuple(case for case in dataset.cases if case.patient in chosen))


def _open(work: Path, dataset: RatedDataset, protocol: Protocol) -> None:
    ids = hashlib.sha256(
        "\n".join(f"{case.id} {case.patient}" for case in dataset.cases).encode()
    ).hexdigest()
    fixed = {key: value for key, value in asdict(protocol).items() if key not in ("arms", "seeds")}
    # They came later; what was begun before goes on.
    for later in ("crop", "train_subsets", "test_subsets"):
        if not fixed[later]:
            del fixed[later]
    wanted = json.loads(json.dumps({"dataset": dataset.name, "cases": ids, "protocol": fixed}))
    path = work / "study.json"
    if path.exists():
        there = json.loads(path.read_text())
        if there != wanted:
            raise BadInputError(
                f"{work} holds a study of {there['dataset']} with {there['protocol']}; "
                f"give another --work for {dataset.name} with {fixed}"
            )
    work.mkdir(parents=True, exist_ok=True)
    write_json(wanted, path)


def prepare_study(
    dataset: RatedDataset,
    work: Path,
    protocol: Protocol,
    progress: Callable[[str, float], None] = lambda _what, _share: None,
) -> tuple[Plan, Configuration]:
    """The plan and sizes of all arms, and every case prepared below `work/data`; what is there is kept.

    Where only one person labelled the cases, pseudo-raters stand for several (see `RatedLessons`).

    Raises:
        BadInputError: what is there was prepared from files that are not the same any more.
    """
    _ensure_same_files(dataset, work)
    lessons = RatedLessons(dataset, "structure")
    first = dataset.cases[0].read()
    axes, channels = first.image.ndim - 1, len(first.image)
    store = RatedStore(work / "data" / "cases")
    path = work / "data" / "plan.json"
    if not path.exists():
        progress("measuring", 0.0)
        images = [_seen(case.read().image) for case in dataset.cases]
        shape = np.median([image.shape[1:] for image in images], axis=0)
        path.parent.mkdir(parents=True, exist_ok=True)
        batch = BATCH[choose_device(protocol.device).type][axes]
        plan = study_plan(tuple(int(n) for n in shape), channels, _rules(images, protocol.ct), batch)
        write_json(plan.to_json(), path)
    plan = Plan.from_json(json.loads(path.read_text()))
    rng = np.random.default_rng(0)
    for case in dataset.cases:
        if not store.holds(case.id):
            volume, labels = lessons.read(case.id)
            plain = Grid(volume.grid.shape, np.eye(4))
            store.add_rated(case.id, Volume(volume.voxels, plain), labels, plan, rng)
    configuration = Configuration(
        backend="unet2d" if axes == 2 else "unet3d", channels=channels, width=WIDTH[axes]
    )
    return plan, configuration


def _ensure_same_files(dataset: RatedDataset, work: Path) -> None:
    origin, files = work / "data" / ORIGIN, files_of(case.source for case in dataset.cases)
    if origin.exists():
        if what := changes(json.loads(origin.read_text()), files):
            raise BadInputError(
                f"{work} was prepared from files of {dataset.name} that are not the same any more ({what}); "
                "give another --work, where the study begins anew"
            )
    # Earlier versions did not keep the files.
    elif not (work / "data" / "plan.json").exists():
        origin.parent.mkdir(parents=True, exist_ok=True)
        write_json(stamps(files), origin)


def study_plan(shape: tuple[int, ...], channels: int, rules: tuple[Normalisation, ...], batch: int) -> Plan:
    """Patch and batch for images of about `shape` voxels; the spacing is left as it is."""
    axes = len(shape)
    patch = tuple(
        int(np.clip(PATCH_STEP * (n // PATCH_STEP), SMALLEST_PATCH, LARGEST_PATCH[axes])) for n in shape
    )
    one, two, three = (1,) * axes, (2,) * axes, (3,) * axes
    return Plan(
        spacing_mm=(1.0,) * axes,
        patch=patch,
        batch=batch,
        kernels=(three, three, three),
        strides=(one, two, two),
        features=(16, 32, 64),
        normalisation=rules if len(rules) == channels else rules[:1] * channels,
        mirror_axes=tuple(range(axes)),
        classes=2,
    )


def _rules(images: Sequence[np.ndarray], ct: bool) -> tuple[Normalisation, ...]:
    if not ct:
        return tuple(Normalisation("zscore") for _ in images[0])
    rules = []
    for channel in range(len(images[0])):
        values = np.concatenate([image[channel].ravel()[::7] for image in images])
        low, high = np.percentile(values, (0.5, 99.5))
        inside = values.clip(low, high)
        rules.append(Normalisation("ct", float(low), float(high), float(inside.mean()), float(inside.std())))
    return tuple(rules)


def _seen(image: np.ndarray) -> np.ndarray:
    """The image cut to where it is not 0, as preparation cuts it."""
    return image[(slice(None), *(slice(*edge) for edge in nonzero_box(image)))]


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value
