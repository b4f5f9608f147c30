"""Small datasets in nnU-Net's raw layout, with answers known by hand."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

AFFINE = np.diag([1.0, 1.0, 1.0, 1.0])


def write_description(folder: Path, cases: int, **changes: object) -> None:
    """`dataset.json` of a one-channel MR dataset with one foreground class; None removes a key."""
    description: dict[str, object] = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "ball": 1},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    description |= changes
    kept = {key: value for key, value in description.items() if value is not None}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(kept))


def write_nifti_case(
    folder: Path,
    name: str,
    channels: Sequence[np.ndarray],
    label: np.ndarray | None,
    affine: np.ndarray = AFFINE,
    ending: str = ".nii.gz",
) -> None:
    """Files of one case; the label shares the affine."""
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for index, channel in enumerate(channels):
        nib.save(nib.Nifti1Image(channel, affine), folder / "imagesTr" / f"{name}_{index:04d}{ending}")
    if label is not None:
        nib.save(nib.Nifti1Image(label.astype(np.uint8), affine), folder / "labelsTr" / f"{name}{ending}")


def ball(
    shape: Sequence[int], rng: np.random.Generator, radius: float = 4.0
) -> tuple[np.ndarray, np.ndarray]:
    """A bright ball (or disc) at a random place in noise, and where it is."""
    margin = radius + 1
    centre = np.array([rng.uniform(margin, n - margin) for n in shape])
    offsets = np.indices(shape).reshape(len(shape), -1).T - centre
    label = (np.linalg.norm(offsets, axis=1) < radius).reshape(shape).astype(np.uint8)
    image = 10 + rng.normal(0, 1, shape) + 4 * label
    return image.astype(np.float32), label


def write_balls(folder: Path, cases: int, shape: Sequence[int] = (16, 16, 16), seed: int = 0) -> Path:
    """A sound dataset of bright balls."""
    rng = np.random.default_rng(seed)
    for index in range(cases):
        image, label = ball(shape, rng)
        write_nifti_case(folder, f"ball_{index:02d}", [image], label)
    write_description(folder, cases)
    return folder


def write_colour_discs(folder: Path, cases: int, shape: Sequence[int] = (32, 32), seed: int = 0) -> Path:
    """A sound dataset of RGB pictures: red discs on green."""
    rng = np.random.default_rng(seed)
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    colours: Mapping[int, tuple[int, int, int]] = {0: (40, 150, 60), 1: (190, 60, 70)}
    for index in range(cases):
        _, label = ball(shape, rng, radius=6)
        picture = np.where(label[..., None] > 0, colours[1], colours[0]) + rng.normal(0, 10, (*shape, 3))
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(
            folder / "imagesTr" / f"disc_{index:02d}_0000.png"
        )
        Image.fromarray(label).save(folder / "labelsTr" / f"disc_{index:02d}.png")
    write_description(
        folder,
        cases,
        channel_names={"0": "R", "1": "G", "2": "B"},
        labels={"background": 0, "disc": 1},
        file_ending=".png",
    )
    return folder
