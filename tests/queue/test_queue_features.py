"""Near duplicates of an image lie closer to it than any other image does."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from overread.domain import Grid
from overread.imaging.volumes import Volume, read_volume
from overread.queue.features import LENGTH, block_means, image_features
from overread.queue.space import distances, standardised
from overread.studies.phantom import make_phantoms

DATA = Path(os.environ.get("OVERREAD_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


def noisy(volume: Volume) -> Volume:
    noise = np.random.default_rng(0).normal(0, 0.05 * volume.voxels.std(), volume.voxels.shape)
    return Volume((volume.voxels + noise).astype(np.float32), volume.grid)


def cropped(volume: Volume, by: int) -> Volume:
    """Without `by` voxels at each end of each axis."""
    affine = volume.grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.full(3, by)
    voxels = volume.voxels[(slice(None), *(slice(by, -by),) * 3)]
    return Volume(voxels, Grid(voxels.shape[1:], affine))


def stored_otherwise(volume: Volume) -> Volume:
    """The same patient, with the first axis running the other way and the last two exchanged."""
    affine = volume.grid.affine.copy()
    affine[:3, 3] += affine[:3, 0] * (volume.grid.shape[0] - 1)
    affine[:3, 0] *= -1
    affine[:, [1, 2]] = affine[:, [2, 1]]
    voxels = volume.voxels[:, ::-1].swapaxes(2, 3)
    return Volume(voxels, Grid(voxels.shape[1:], affine))


def closest(volumes: list[Volume], change: Callable[[Volume], Volume]) -> list[int]:
    """For each volume, changed: which of the unchanged ones it lies closest to."""
    features = [image_features(volume) for volume in volumes]
    features += [image_features(change(volume)) for volume in volumes]
    placed = standardised(np.array(features))
    half = len(volumes)
    return distances(placed[half:], placed[:half]).argmin(axis=1).tolist()


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> list[Volume]:
    folder = tmp_path_factory.mktemp("phantoms")
    make_phantoms(folder, train=8, unlabelled=0)
    return [read_volume([path]) for path in sorted((folder / "imagesTr").iterdir())]


@pytest.fixture(scope="module")
def hippocampi() -> list[Volume]:
    folder = DATA / "hippocampus_mr3d" / "images"
    if not folder.exists():
        pytest.skip(f"the hippocampus cases are not at {folder}; set OVERREAD_DATA")
    return [read_volume([path]) for path in sorted(folder.iterdir())[:40]]


@pytest.mark.parametrize("change", [noisy, stored_otherwise])
def test_a_changed_phantom_lies_closest_to_itself(phantoms, change):
    assert closest(phantoms, change) == list(range(len(phantoms)))


@pytest.mark.parametrize(
    "change",
    [noisy, stored_otherwise, lambda v: cropped(v, 1), lambda v: cropped(v, 2)],
    ids=["noisy", "stored otherwise", "cropped by 1", "cropped by 2"],
)
def test_a_changed_hippocampus_lies_closest_to_itself(hippocampi, change):
    found = closest(hippocampi, change)
    assert sum(index == other for index, other in enumerate(found)) >= 0.95 * len(hippocampi)


def test_the_way_of_storing_changes_nothing(phantoms):
    for volume in phantoms:
        difference = image_features(volume) - image_features(stored_otherwise(volume))
        # Blocks are cut from the other end.
        assert np.abs(difference).max() < 0.5


@pytest.mark.parametrize(
    ("shape", "channels"),
    [((20, 30, 10), 1), ((20, 30, 10), 3), ((64, 40), 1), ((64, 40), 3), ((1, 1, 1), 1), ((2, 40, 3), 2)],
)
def test_the_length_is_the_same_for_volumes_and_pictures(shape, channels):
    voxels = np.random.default_rng(0).random((channels, *shape), dtype=np.float32)
    features = image_features(Volume(voxels, Grid(shape, np.eye(4))))
    assert features.shape == (LENGTH,)
    assert np.isfinite(features).all()


def test_an_empty_image_has_features_too():
    volume = Volume(np.zeros((1, 8, 8, 8), np.float32), Grid((8, 8, 8), np.eye(4)))
    assert np.isfinite(image_features(volume)).all()


def test_another_unit_of_intensity_changes_only_the_range():
    voxels = np.random.default_rng(0).random((1, 9, 9, 9), dtype=np.float32)
    grid = Grid((9, 9, 9), np.eye(4))
    difference = image_features(Volume(voxels, grid)) - image_features(Volume(1000 * voxels, grid))
    assert abs(difference[0]) > 10
    assert np.abs(difference[1:]).max() < 1e-2


def test_the_image_is_not_written_to():
    voxels = np.random.default_rng(0).random((2, 9, 9, 9), dtype=np.float32)
    voxels.setflags(write=False)
    image_features(Volume(voxels, Grid((9, 9, 9), np.eye(4))))


def test_block_means_are_means_of_blocks():
    image = np.arange(12, dtype=np.float32).reshape(6, 2)
    # Rows 0-2 and 3-5; the two columns stay.
    assert block_means(image, 2).tolist() == [[2, 3], [8, 9]]
    # Seven voxels in two blocks: three and four.
    assert block_means(np.arange(7, dtype=np.float32), 2).tolist() == [1, 4.5]
