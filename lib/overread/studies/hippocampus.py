"""Hippocampus in MR: does the ensemble beat its members and nnU-Net, and does its doubt find its errors?

Forty cases of the Medical Segmentation Decathlon's task 4 train five members and, in the same number of processor
minutes, nnU-Net's default five folds; sixty other cases, never looked at before, judge both.

    python -m overread.studies.hippocampus split    --data FOLDER --work WORK
    python -m overread.studies.hippocampus train    --work WORK --minutes 30 --threads 1
    python -m overread.studies.nnunet_rival --raw WORK/raw --work WORK/nnunet --minutes 30 --threads 1
    python -m overread.studies.hippocampus evaluate --work WORK --out docs/results

`FOLDER` holds `images/` and `labels/` with the same file names. Every step can be repeated; what is there is kept.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from overread.domain import Grid
from overread.ensemble.calibrate import calibrate
from overread.ensemble.ensemble import Calibration, Ensemble
from overread.ensemble.nnunet import import_nnunet
from overread.ensemble.prediction import Prediction, predict
from overread.ensemble.storage import calibration_to_json, load_ensemble
from overread.ensemble.training import TrainingOptions, train_ensemble
from overread.imaging.dataset import read_dataset
from overread.imaging.volumes import read_labelmap, read_volume, write_nifti
from overread.metrics.calibration import (
    expected_calibration_error,
    foreground_region,
    plot_reliability,
    reliability,
)
from overread.metrics.correlation import Interval, bootstrap_mean, spearman_interval
from overread.metrics.overlap import dice
from overread.metrics.selective import augrc, aurc
from overread.uncertainty.aggregation import AGGREGATIONS
from overread.uncertainty.calibration import band_map

CLASSES = {"background": 0, "anterior": 1, "posterior": 2}
TRAINING_CASES = 40
TEST_CASES = 60
SPLIT_SEED = 20
# Optimiser, network size and augmentation were chosen on these cases: none of them may judge.
DEVELOPMENT_SEED = 7
DEVELOPMENT_CASES = slice(60, 100)
MEASURE = "predictive_entropy"
# Room for any case of the task, and how many of them along each axis of the mosaic.
TILE, MOSAIC = (35, 51, 36), (2, 2, 2)
OURS, UNCALIBRATED, THEIRS = "Overread, 5 members", "Overread, 5 members, T = 1", "nnU-Net v2, 5 folds"
ALONE = ", one member"


def development_cases(names: list[str]) -> list[str]:
    """Those of the task's file names, sorted, on which anything was tuned."""
    shuffled = list(names)
    random.Random(DEVELOPMENT_SEED).shuffle(shuffled)
    return shuffled[DEVELOPMENT_CASES]


def untouched(data: Path, out: Path) -> Path:
    """All cases on which nothing was tuned, for the simulation: `images/` and `labels/` below `out`."""
    names = sorted(path.name for path in (data / "images").glob("*.nii.gz"))
    for folder in ("images", "labels"):
        (out / folder).mkdir(parents=True, exist_ok=True)
        for name in sorted({*names} - {*development_cases(names)}):
            shutil.copy2(data / folder / name, out / folder / name)
    return out


def split(data: Path, work: Path) -> None:
    """Draw the cases once, by seed, and lay the training cases out as nnU-Net expects them."""
    names = sorted(path.name for path in (data / "images").glob("*.nii.gz"))
    development = development_cases(names)
    order = np.random.default_rng(SPLIT_SEED).permutation(names).tolist()
    unseen = [name for name in order[TRAINING_CASES:] if name not in development]
    drawn = order[:TRAINING_CASES] + unseen[:TEST_CASES]
    raw = work / "raw"
    for folder in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (raw / folder).mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(drawn):
        part = "Tr" if index < TRAINING_CASES else "Ts"
        case = name.removesuffix(".nii.gz")
        shutil.copyfile(data / "images" / name, raw / f"images{part}" / f"{case}_0000.nii.gz")
        shutil.copyfile(data / "labels" / name, raw / f"labels{part}" / name)
    description = {
        "channel_names": {"0": "MRI"},
        "labels": CLASSES,
        "numTraining": TRAINING_CASES,
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(description, indent=2) + "\n")


def train(work: Path, minutes: float, seed: int, threads: int | None) -> Path:
    """Train and calibrate our five members; minutes are processor time, so use one thread."""
    dataset = read_dataset(work / "raw")
    options = TrainingOptions(members=5, minutes=minutes, seed=seed, threads=threads, clock="processor")
    folder = train_ensemble("hippocampus", dataset, work / f"overread-{seed}", options)
    calibrate(folder, dataset)
    return folder


def mosaic(work: Path) -> Path:
    """Eight test cases side by side in one volume, which takes several windows; for the predictor benchmark."""
    tiles = np.zeros((*MOSAIC, *TILE), np.float32)
    images = sorted((work / "raw" / "imagesTs").glob("*.nii.gz"))
    for place, image in zip(np.ndindex(*MOSAIC), images, strict=False):
        voxels = read_volume([image]).voxels[0]
        inside = tuple(slice(0, min(have, room)) for have, room in zip(voxels.shape, TILE, strict=True))
        # Scanners differ in scale; one mosaic has one.
        tiles[(*place, *inside)] = voxels[inside] / np.percentile(voxels, 99)
    joined = tiles.transpose(0, 3, 1, 4, 2, 5).reshape([m * t for m, t in zip(MOSAIC, TILE, strict=True)])
    path = work / "mosaic_0000.nii.gz"
    write_nifti(path, joined, Grid(joined.shape, np.eye(4)))
    return path


@dataclass(frozen=True)
class Judged:
    """One system on one test case.

    Attributes:
        dice: per foreground class.
        ece, aurc, augrc: over the voxels near the structures; doubt is predictive entropy, risk is being wrong.
        score: 1 - mean pairwise Dice of the members; foreground_entropy: mean doubt near the prediction.
        caught, shown: share of the wrong voxels in the band `high`, and the band's share of all voxels.
    """

    dice: list[float]
    ece: float
    aurc: float
    augrc: float
    score: float
    foreground_entropy: float
    wrong_voxels: int
    caught: float | None
    shown: float | None


def judge(ensemble: Ensemble, prediction: Prediction, truth: np.ndarray, region: np.ndarray) -> Judged:
    """Compare a prediction with the rater's label; `region` is near the structures."""
    wrong = prediction.labels != truth
    doubt = prediction.maps[MEASURE]
    confidence = prediction.probabilities.amax(dim=0).numpy()
    bands = ensemble.calibration.bands.get(MEASURE)
    high = band_map(doubt.values, bands) == 2 if bands else None
    return Judged(
        dice=[float(d) for d in dice(prediction.labels, truth, len(CLASSES), both_empty=1.0)],
        ece=expected_calibration_error(confidence[region], ~wrong[region]),
        aurc=aurc(doubt.values.numpy()[region], wrong[region]),
        augrc=augrc(doubt.values.numpy()[region], wrong[region]),
        score=prediction.scores["pairwise_dice_disagreement"],
        foreground_entropy=float(AGGREGATIONS["foreground_mean"](doubt, prediction.labels)),
        wrong_voxels=int(wrong.sum()),
        caught=float(high[wrong].mean()) if high is not None and wrong.any() else None,
        shown=float(high.mean()) if high is not None else None,
    )


def evaluate(work: Path, out: Path, seed: int) -> None:
    """Judge every system on the test cases; write `hippocampus.json`, `.md` and the reliability diagram."""
    ours = load_ensemble(work / f"overread-{seed}" / "ensemble")
    systems = {OURS: ours, UNCALIBRATED: replace(ours, calibration=Calibration(bands=ours.calibration.bands))}
    systems |= _alone("Overread", ours)
    rival = work / "nnunet" / "nnUNet_results"
    if rival.exists():
        folder = work / "nnunet-imported"
        if not folder.exists():
            import_nnunet(next(rival.glob("Dataset*")), "nnunet", folder)
        theirs = load_ensemble(folder)
        systems |= {THEIRS: theirs} | _alone("nnU-Net", theirs)

    images = sorted((work / "raw" / "imagesTs").glob("*.nii.gz"))
    judged: dict[str, list[Judged]] = {name: [] for name in systems}
    reliable: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {
        name: [] for name in (OURS, UNCALIBRATED, THEIRS)
    }
    for image in track(images, "test cases"):
        volume = read_volume([image])
        truth, _ = read_labelmap(work / "raw" / "labelsTs" / image.name.replace("_0000", ""))
        for name, ensemble in systems.items():
            prediction = predict(ensemble, volume, measures=[MEASURE])
            region = foreground_region(truth, prediction.labels, spacing_mm=volume.grid.spacing_mm)
            judged[name].append(judge(ensemble, prediction, truth, region))
            if name in reliable:
                confidence = prediction.probabilities.amax(dim=0).numpy()
                reliable[name].append((confidence[region], (prediction.labels == truth)[region]))
    out.mkdir(parents=True, exist_ok=True)
    diagrams = {
        name: reliability(np.concatenate([c for c, _ in pairs]), np.concatenate([r for _, r in pairs]))
        for name, pairs in reliable.items()
        if pairs
    }
    plot_reliability(out / "hippocampus-reliability.png", diagrams)
    facts = {
        "training_cases": TRAINING_CASES,
        "test_cases": len(images),
        "split_seed": SPLIT_SEED,
        "seed": seed,
        "training": {"overread": ours.metadata, "nnunet": _nnunet_facts(rival)},
        "calibration": calibration_to_json(ours.calibration),
        "cases": [image.name.replace("_0000.nii.gz", "") for image in images],
        "systems": {name: [vars(case) for case in cases] for name, cases in judged.items()},
    }
    (out / "hippocampus.json").write_text(json.dumps(facts, indent=1, default=str) + "\n")
    report = render(judged)
    (out / "hippocampus.md").write_text(report)
    print(report)


def render(judged: dict[str, list[Judged]]) -> str:
    """The tables of the report, as Markdown. Single members are shown as the mean over them."""
    rows: dict[str, list[list[Judged]]] = {}
    for name, cases in judged.items():
        rows.setdefault(name.split(ALONE)[0] + (ALONE if ALONE in name else ""), []).append(cases)
    means = {
        name: np.mean([[np.mean(case.dice) for case in cases] for cases in several], axis=0)
        for name, several in rows.items()
    }
    lines = [
        "| system | Dice anterior | Dice posterior | Dice mean [95 % CI] | ECE | AURC | AUGRC |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, several in rows.items():
        every = [case for cases in several for case in cases]
        per_class = np.array([case.dice for case in every]).mean(axis=0)
        figures = [np.mean([getattr(case, key) for case in every]) for key in ("ece", "aurc", "augrc")]
        shown = f"{name} (mean of {len(several)})" if ALONE in name else name
        lines.append(
            f"| {shown} | {per_class[0]:.3f} | {per_class[1]:.3f} | {_mean(means[name])} | "
            + " | ".join(f"{figure:.4f}" for figure in figures)
            + " |"
        )
    lines += ["", f"Mean Dice of {OURS}, paired over {len(judged[OURS])} cases:", ""]
    lines += [
        f"- minus {name}: {_mean(means[OURS] - means[name])}"
        for name in rows
        if name not in (OURS, UNCALIBRATED)
    ]
    lines += ["", "Does doubt find the errors?", ""]
    cases = judged[OURS]
    with_errors = [case for case in cases if case.caught is not None]
    if with_errors:
        caught = np.array([case.caught for case in with_errors])
        wrong = np.array([case.wrong_voxels for case in with_errors])
        shown = np.array([case.shown for case in cases])
        lines.append(
            f"- `doubt: high` holds {100 * (caught * wrong).sum() / wrong.sum():.1f} % of all wrong voxels "
            f"(share per case {_mean(caught)}) in {100 * shown.mean():.1f} % of the voxels shown"
        )
    for name in (OURS, THEIRS):
        for key, words in (
            ("score", "pairwise Dice disagreement of the members"),
            ("foreground_entropy", "mean predictive entropy near the foreground"),
        ):
            if name in judged:
                values = np.array([getattr(case, key) for case in judged[name]])
                rank = spearman_interval(values, means[name], generator=np.random.default_rng(0))
                lines.append(f"- {name}: Spearman correlation of {words} with Dice: {_shown(rank)}")
    return "\n".join(lines) + "\n"


def _alone(system: str, ensemble: Ensemble) -> dict[str, Ensemble]:
    return {
        f"{system}{ALONE} {index + 1}": replace(ensemble, members=[member])
        for index, member in enumerate(ensemble.members)
    }


def _mean(values: np.ndarray) -> str:
    return _shown(bootstrap_mean(values, generator=np.random.default_rng(0)))


def _shown(interval: Interval) -> str:
    return f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _nnunet_facts(results: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(results.rglob("facts.json"))]


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=["split", "untouched", "mosaic", "train", "evaluate"])
    parser.add_argument("--data", type=Path, help="folder with images/ and labels/ (split, untouched)")
    parser.add_argument("--work", type=Path, required=True, help="where the study keeps its files")
    parser.add_argument(
        "--out", type=Path, default=Path("docs/results"), help="where the report goes (evaluate)"
    )
    parser.add_argument(
        "--minutes", type=float, default=25, help="processor minutes, all members together (train)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    parser.add_argument("--threads", type=int, default=None)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.step in ("split", "untouched") and arguments.data is None:
        parser.error(f"{arguments.step} needs --data")
    if arguments.step == "split":
        split(arguments.data, arguments.work)
    elif arguments.step == "untouched":
        print(untouched(arguments.data, arguments.work))
    elif arguments.step == "mosaic":
        print(mosaic(arguments.work))
    elif arguments.step == "train":
        print(train(arguments.work, arguments.minutes, arguments.seed, arguments.threads))
    else:
        evaluate(arguments.work, arguments.out, arguments.seed)


if __name__ == "__main__":
    main()
