"""Made-up CT studies to try everything on: a liver with lesions, in nnU-Net v2's raw layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from overread.domain import Grid
from overread.imaging.volumes import write_nifti
from overread.studies.phantom_anatomy import scan

# How many lesions the cases have, in turn.
LESIONS = (2, 1, 3, 2, 0, 1)


def make_phantoms(folder: Path, train: int = 16, unlabelled: int = 4, seed: int = 0) -> None:
    """Write `train` labelled cases and `unlabelled` ones, the same for the same seed.

    Labels of the unlabelled cases, for judging, lie in `labelsTs/`. The first case of each kind is an ordinary
    axial scan, the second is stored from left to right and from front to back the other way, the third is oblique;
    sizes and spacings vary.

    Args:
        folder: gets `dataset.json`, `imagesTr/`, `labelsTr/`, `imagesTs/` and `labelsTs/`.
        seed: another seed gives other patients.
    """
    folder = Path(folder)
    for kind, (part, count) in enumerate((("Tr", train), ("Ts", unlabelled))):
        for number in range(count):
            rng = np.random.default_rng([seed, kind, number])
            grid = field_of_view(number, rng)
            hu, labels = scan(grid, LESIONS[number % len(LESIONS)], rng)
            name = f"phantom_{100 * kind + number + 1:03d}"
            write_nifti(folder / f"images{part}" / f"{name}_0000.nii.gz", hu, grid)
            write_nifti(folder / f"labels{part}" / f"{name}.nii.gz", labels, grid)
    description = {
        "name": "Overread phantoms",
        "description": "Computed liver phantoms with lesions; no patient stands behind them",
        "licence": "Apache-2.0",
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": 1, "lesion": 2},
        "numTraining": train,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=2) + "\n")


def field_of_view(number: int, rng: np.random.Generator) -> Grid:
    """Grid of the number-th case: about 144 x 144 x 120 mm around the centre of the phantom."""
    in_plane = float(rng.uniform(1.42, 1.6))
    spacing = np.array([in_plane, in_plane, float(rng.uniform(2.7, 3.2))])
    shape = np.array([96, 96, 40]) + rng.integers(-4, 5, 3)
    # Scanners count columns to the patient's left and rows to the back; slices go up.
    axes = np.diag([-1.0, -1.0, 1.0])
    if number % 8 == 1:
        axes = np.diag([1.0, 1.0, 1.0])
    if number % 8 == 2:
        axes = _turned(rng.uniform(8, 14), rng.uniform(4, 8)) @ axes
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing
    affine[:3, 3] = -affine[:3, :3] @ ((shape - 1) / 2)
    return Grid(tuple(shape), affine)


def _turned(yaw_deg: float, tilt_deg: float) -> np.ndarray:
    """Turned about the long axis, then tilted about the axis from side to side."""
    a, b = np.deg2rad([yaw_deg, tilt_deg])
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return about_z @ about_x
