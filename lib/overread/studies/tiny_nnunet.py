"""A tiny nnU-Net v2 model, trained by nnunetv2 itself on data made here: for tests and for the predictor benchmark.

The data are anisotropic, differ in spacing from case to case and carry an empty border, so that cropping,
resampling and the rule for thick slices all have something to do. Run as
`python -m overread.studies.tiny_nnunet FOLDER` to get such a model to play with.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from overread.domain import Grid
from overread.imaging.volumes import write_nifti

DATASET = "Dataset901_Tiny"
CONFIGURATION = {"3d": "3d_fullres", "2d": "2d"}
# Features and depth at which a step takes milliseconds on one core.
NETWORKS: dict[str, dict[str, Any]] = {
    "3d": {
        "patch_size": [8, 32, 32],
        "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    },
    "2d": {
        "patch_size": [32, 32],
        "kernel_sizes": [[3, 3], [3, 3], [3, 3]],
        "strides": [[1, 1], [2, 2], [2, 2]],
    },
}


def make_case(
    generator: np.random.Generator,
    shape: tuple[int, int, int] = (44, 14, 40),
    spacing_mm: tuple[float, float, float] = (0.9, 4.0, 1.1),
    affine: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, Grid]:
    """A bright ball beside a dark one in noise, in an empty border: image, labels (0, 1, 2) and their grid."""
    grid = Grid(shape, np.diag([*spacing_mm, 1.0]) if affine is None else affine)
    extent_mm = np.array(shape) * grid.spacing_mm
    centres = [extent_mm * share for share in ((0.38, 0.5, 0.45), (0.66, 0.5, 0.6))]
    position_mm = (
        np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1) * grid.spacing_mm
    )
    labels = np.zeros(shape, np.uint8)
    image = generator.normal(100, 12, shape)
    for label, (centre, brightness) in enumerate(zip(centres, (60, -45), strict=True), start=1):
        shift = generator.normal(0, 0.02, 3) * extent_mm
        ball = np.linalg.norm(position_mm - centre - shift, axis=-1) < 0.17 * extent_mm.min()
        labels[ball] = label
        image[ball] += brightness
    border = np.ones(shape, bool)
    border[4:-3, 1:-1, 3:-5] = False
    image[border], labels[border] = 0, 0
    return image.astype(np.float32), labels, grid


def train_tiny_nnunet(
    folder: Path,
    *,
    folds: int = 2,
    dimensions: Literal["3d", "2d"] = "3d",
    iterations: int = 12,
    cases: int = 6,
    reader: str | None = None,
) -> Path:
    """Plan, preprocess and train with nnunetv2 on the CPU, in this process.

    Args:
        folder: gets nnU-Net's `raw`, `preprocessed` and `results` folders.
        folds: how many folds are trained.
        iterations: steps of each fold, batch size 2.
        reader: nnU-Net's image reader, such as `NibabelIOWithReorient`; None leaves the choice to nnU-Net.

    Returns:
        The trained model's folder, as `overread import-nnunet` takes it.
    """
    configuration = CONFIGURATION[dimensions]
    dataset_json = _write_raw(folder, cases, reader)
    with _quiet(), _environment(folder):
        # Imported here: nnunetv2 reads some of the environment while it is being imported.
        from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (
            DatasetFingerprintExtractor,
        )
        from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
            ExperimentPlanner,
        )
        from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
        from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        raw, preprocessed = folder / "raw" / DATASET, folder / "preprocessed" / DATASET
        files = [
            ([str(image)], str(raw / "labelsTr" / image.name.replace("_0000", "")))
            for image in sorted((raw / "imagesTr").iterdir())
        ]
        # nnunetv2's own run() starts processes and draws 100 million voxels: too slow for six small volumes.
        reader_class = determine_reader_writer_from_dataset_json(dataset_json, files[0][0][0])
        seen = [
            DatasetFingerprintExtractor.analyze_case(*pair, reader_class, num_samples=1000) for pair in files
        ]
        _write_fingerprint(preprocessed, seen)
        ExperimentPlanner(901).plan_experiment()
        plans_file = preprocessed / "nnUNetPlans.json"
        plans = json.loads(plans_file.read_text())
        _shrink(plans["configurations"][configuration], NETWORKS[dimensions])
        plans_file.write_text(json.dumps(plans))

        manager = PlansManager(plans)
        shrunk = manager.get_configuration(configuration)
        target = preprocessed / shrunk.data_identifier
        target.mkdir()
        for images, label in files:
            preprocessor = DefaultPreprocessor(verbose=False)
            identifier = Path(label).name.removesuffix(".nii.gz")
            preprocessor.run_case_save(str(target / identifier), images, label, manager, shrunk, dataset_json)
        # Batches are made in this process; the planner, above, cannot take this value.
        os.environ.update({"nnUNet_n_proc_DA": "0"})
        for fold in range(folds):
            torch.manual_seed(fold)
            # nnU-Net draws its patches from the global generator.
            np.random.seed(fold)
            plans = {**json.loads(plans_file.read_text()), "continue_training": False}
            trainer = nnUNetTrainer(plans, configuration, fold, dataset_json, device=torch.device("cpu"))
            trainer.num_epochs = 1
            trainer.num_iterations_per_epoch = iterations
            trainer.num_val_iterations_per_epoch = 1
            trainer.run_training()
        return folder / "results" / DATASET / f"nnUNetTrainer__nnUNetPlans__{configuration}"


def _write_raw(folder: Path, cases: int, reader: str | None) -> dict[str, Any]:
    generator = np.random.default_rng(3)
    raw = folder / "raw" / DATASET
    for index in range(cases):
        spacing_mm = (0.8 + 0.05 * index, 4.0 + 0.1 * index, 1.1)
        image, labels, grid = make_case(generator, (44 + index, 12 + index % 3, 40 - index), spacing_mm)
        write_nifti(raw / "imagesTr" / f"case{index}_0000.nii.gz", image, grid)
        write_nifti(raw / "labelsTr" / f"case{index}.nii.gz", labels, grid)
    dataset_json = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "bright": 1, "dark": 2},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    if reader is not None:
        dataset_json["overwrite_image_reader_writer"] = reader
    (raw / "dataset.json").write_text(json.dumps(dataset_json))
    return dataset_json


def _write_fingerprint(preprocessed: Path, cases: list[tuple[Any, ...]]) -> None:
    """What nnU-Net's planner reads about the data set, from `analyze_case` of every case."""
    shapes, spacings, intensities, _, kept = zip(*cases, strict=True)
    voxels = np.concatenate([channels[0] for channels in intensities])
    low, median, high = (float(value) for value in np.percentile(voxels, (0.5, 50, 99.5)))
    properties = {
        "mean": float(voxels.mean()),
        "std": float(voxels.std()),
        "min": float(voxels.min()),
        "max": float(voxels.max()),
        "median": median,
        "percentile_00_5": low,
        "percentile_99_5": high,
    }
    fingerprint = {
        "shapes_after_crop": [[int(n) for n in shape] for shape in shapes],
        "spacings": [[float(n) for n in spacing] for spacing in spacings],
        "foreground_intensity_properties_per_channel": {"0": properties},
        "median_relative_size_after_cropping": float(np.median(kept)),
    }
    preprocessed.mkdir(parents=True)
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))


def _shrink(configuration: dict[str, Any], network: dict[str, Any]) -> None:
    configuration["patch_size"] = network["patch_size"]
    configuration["batch_size"] = 2
    configuration["architecture"]["arch_kwargs"].update(
        n_stages=3,
        features_per_stage=[8, 16, 32],
        kernel_sizes=network["kernel_sizes"],
        strides=network["strides"],
        n_conv_per_stage=[1, 1, 1],
        n_conv_per_stage_decoder=[1, 1],
    )


@contextlib.contextmanager
def _environment(folder: Path) -> Iterator[None]:
    wanted = {
        "nnUNet_raw": str(folder / "raw"),
        "nnUNet_preprocessed": str(folder / "preprocessed"),
        "nnUNet_results": str(folder / "results"),
        "nnUNet_n_proc_DA": "1",
        "nnUNet_compile": "false",
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """nnunetv2 speaks through print and warns about its own dependencies; neither concerns our caller."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train a tiny nnU-Net v2 model on synthetic volumes.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=12)
    arguments = parser.parse_args()
    print(train_tiny_nnunet(arguments.folder, folds=arguments.folds, iterations=arguments.iterations))
