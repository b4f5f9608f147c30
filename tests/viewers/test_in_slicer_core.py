"""3D Slicer's own core finds what the server sends on the right voxels, and sends back what the server expects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from overread.domain import Grid
from overread.imaging.lattice import in_order_of
from overread.imaging.volumes import read_array, read_labelmap, write_nifti, write_nrrd
from overread.server.doubt import BANDS_INSIDE, BANDS_ONLY, DOUBT_HIGH, DOUBT_MODERATE, draw
from overread.server.labels import accept, names_in_order, read_submission
from overread.server.maps import Proposal
from overread.studies.slicer_scene import SlicerScene

pytestmark = pytest.mark.slow

SHAPE = (14, 11, 9)
C, S = np.cos(0.3), np.sin(0.3)
TURNED = np.array([[C, -S, 0], [S, C, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, C, -S], [0, S, C]])
AFFINES = {
    "identity": np.eye(4),
    "anisotropic": np.array([[0.7, 0, 0, -90], [0, 0.9, 0, 12.5], [0, 0, 5, 1000], [0, 0, 0, 1.0]]),
    "flipped": np.array([[-1.5, 0, 0, 70], [0, -1.5, 0, -60], [0, 0, -3, 0.1], [0, 0, 0, 1.0]]),
    "oblique": np.vstack([np.c_[TURNED * [1.5, 1.4, 3.1], [-33, 7, 4.25]], [0, 0, 0, 1]]),
    "oblique and left-handed": np.vstack([np.c_[TURNED * [-0.8, 1.2, 2.5], [5, 6, -7]], [0, 0, 0, 1]]),
}
CLASSES = ("background", "organ", "lesion")
# As the server lists them to Slicer: overlays first, so that on export the classes lie above them.
APP_LABELS = (DOUBT_HIGH, DOUBT_MODERATE, "organ", "lesion")


def markers() -> tuple[np.ndarray, np.ndarray]:
    """Classes and doubt (1 moderate, 2 high): shapes that no flip, turn or exchange of axes maps onto themselves."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:9, 1:4, 1:3] = 1
    labels[1:3, 4:10, 1:7] = 1
    labels[2, 7, 5] = labels[2, 8, 5] = labels[1, 8, 5] = 2
    doubt = np.zeros(SHAPE, np.uint8)
    doubt[7:11, 2, 2] = 1
    doubt[12, 1, 7] = doubt[1, 9, 6] = 2
    return labels, doubt


def inspect(
    image: Path,
    labels: Sequence[str],
    answers: Sequence[tuple[Path, dict[str, int]]],
    submission: Path,
) -> dict[str, Any]:
    """In Slicer's process: load, import each answer in turn, submit; tell, in the file's voxel order, what there is."""
    scene = SlicerScene(image, labels)
    for file, label_names in answers:
        scene.import_result(file, label_names)
    grid = scene.volume_grid()
    _, stored = read_array(image)
    return {
        "volume": in_order_of(scene.volume_voxels(), grid, stored, 1e-4),
        "names": scene.segment_names(),
        "layers": scene.segment_layers(),
        "segments": {
            name: in_order_of(voxels, grid, stored, 1e-4) for name, voxels in scene.segment_voxels().items()
        },
        "label_info": scene.submit(submission),
    }


def draw_slice(image: Path, answer: Path, label_names: dict[str, int], slice_k: int, picture: Path) -> None:
    """In Slicer's process: render one slice with the answer over the volume."""
    scene = SlicerScene(image, drawn=True)
    scene.import_result(answer, label_names)
    scene.render(picture, slice_k, (0, 400), {"organ": (1, 0, 0), "lesion": (0, 0, 1)}, {"organ": 0.5})


def put_image(folder: Path, grid: Grid) -> Path:
    """A volume in which every voxel has its own value."""
    path = folder / "case.nii.gz"
    write_nifti(path, np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE), grid)
    return path


def put_answer(
    path: Path, grid: Grid, mode: Any, labels: np.ndarray, doubt: np.ndarray
) -> tuple[Path, dict[str, int]]:
    """The server's answer as Slicer receives it."""
    drawing = draw(labels, doubt, CLASSES, mode, True)
    write_nrrd(path, drawing.values, grid)
    return path, drawing.names


@pytest.mark.parametrize("name", AFFINES)
def test_segments_lie_on_the_voxels_of_the_answer(
    name: str, tmp_path: Path, in_slicer: Callable[..., Any]
) -> None:
    grid = Grid(SHAPE, AFFINES[name])
    labels, doubt = markers()
    image = put_image(tmp_path, grid)
    answer = put_answer(tmp_path / "answer.nrrd", grid, BANDS_INSIDE, labels, doubt)
    seen = in_slicer(inspect, image, (), [answer], tmp_path / "submitted.nii.gz")

    np.testing.assert_array_equal(seen["volume"], np.arange(np.prod(SHAPE)).reshape(SHAPE))
    assert seen["names"] == ["organ", "lesion", DOUBT_MODERATE, DOUBT_HIGH]
    expected = {
        "organ": (labels == 1) & (doubt == 0),
        "lesion": (labels == 2) & (doubt == 0),
        DOUBT_MODERATE: doubt == 1,
        DOUBT_HIGH: doubt == 2,
    }
    for segment, voxels in expected.items():
        np.testing.assert_array_equal(seen["segments"][segment], voxels, err_msg=segment)


@pytest.mark.parametrize("name", AFFINES)
def test_what_slicer_submits_comes_back_as_the_classes(
    name: str, tmp_path: Path, in_slicer: Callable[..., Any]
) -> None:
    grid = Grid(SHAPE, AFFINES[name])
    labels, doubt = markers()
    image = put_image(tmp_path, grid)
    answer = put_answer(tmp_path / "answer.nrrd", grid, BANDS_INSIDE, labels, doubt)
    seen = in_slicer(inspect, image, APP_LABELS, [answer], tmp_path / "submitted.nii.gz")

    assert [entry["name"] for entry in seen["label_info"]] == list(APP_LABELS)
    submitted = read_submission(tmp_path / "submitted.nii.gz", grid)
    assert set(np.unique(submitted)) == {0, 1, 2, 3, 4}
    accepted = accept(
        submitted, names_in_order(seen["label_info"]), CLASSES, lambda: Proposal(labels, grid, True)
    )
    np.testing.assert_array_equal(accepted.labels, labels)
    assert accepted.returned == (doubt > 0).sum()


def test_bands_alone_are_a_layer_over_the_classes_and_replace_earlier_bands(
    tmp_path: Path, in_slicer: Callable[..., Any]
) -> None:
    grid = Grid(SHAPE, AFFINES["oblique"])
    labels, doubt = markers()
    image = put_image(tmp_path, grid)
    without = put_answer(tmp_path / "first.nrrd", grid, BANDS_INSIDE, labels, np.zeros_like(doubt))
    first = put_answer(tmp_path / "second.nrrd", grid, BANDS_ONLY, labels, np.roll(doubt, 1, axis=0))
    second = put_answer(tmp_path / "third.nrrd", grid, BANDS_ONLY, labels, doubt)
    seen = in_slicer(inspect, image, APP_LABELS, [without, first, second], tmp_path / "submitted.nii.gz")

    np.testing.assert_array_equal(seen["segments"]["organ"], labels == 1)
    np.testing.assert_array_equal(seen["segments"]["lesion"], labels == 2)
    np.testing.assert_array_equal(seen["segments"][DOUBT_MODERATE], doubt == 1)
    np.testing.assert_array_equal(seen["segments"][DOUBT_HIGH], doubt == 2)
    assert seen["layers"]["organ"] == seen["layers"]["lesion"]
    assert seen["layers"][DOUBT_HIGH] == seen["layers"][DOUBT_MODERATE] != seen["layers"]["organ"]

    submitted = read_submission(tmp_path / "submitted.nii.gz", grid)
    accepted = accept(submitted, names_in_order(seen["label_info"]), CLASSES, lambda: None)
    np.testing.assert_array_equal(accepted.labels, labels, "the classes lie above the bands")


def test_bands_alone_after_bands_inside_leave_the_classes_as_they_were(
    tmp_path: Path, in_slicer: Callable[..., Any]
) -> None:
    grid = Grid(SHAPE, AFFINES["flipped"])
    labels, doubt = markers()
    image = put_image(tmp_path, grid)
    inside = put_answer(tmp_path / "inside.nrrd", grid, BANDS_INSIDE, labels, doubt)
    elsewhere = np.roll(doubt, 2, axis=1)
    only = put_answer(tmp_path / "only.nrrd", grid, BANDS_ONLY, labels, elsewhere)
    seen = in_slicer(inspect, image, (), [inside, only], tmp_path / "submitted.nii.gz")

    np.testing.assert_array_equal(seen["segments"]["organ"], (labels == 1) & (doubt == 0))
    np.testing.assert_array_equal(seen["segments"][DOUBT_MODERATE], elsewhere == 1)
    np.testing.assert_array_equal(seen["segments"][DOUBT_HIGH], elsewhere == 2)
    assert sorted(seen["names"]) == sorted(APP_LABELS)


def test_a_class_without_voxels_does_not_shift_the_names(
    tmp_path: Path, in_slicer: Callable[..., Any]
) -> None:
    grid = Grid(SHAPE, np.eye(4))
    labels, doubt = markers()
    labels[labels == 1] = 0
    image = put_image(tmp_path, grid)
    answer = put_answer(tmp_path / "answer.nrrd", grid, BANDS_INSIDE, labels, np.where(doubt == 2, 2, 0))
    seen = in_slicer(inspect, image, APP_LABELS, [answer], tmp_path / "submitted.nii.gz")

    assert not seen["segments"]["organ"].any()
    assert not seen["segments"][DOUBT_MODERATE].any()
    np.testing.assert_array_equal(seen["segments"]["lesion"], (labels == 2) & (doubt != 2))
    np.testing.assert_array_equal(seen["segments"][DOUBT_HIGH], doubt == 2)
    submitted, _ = read_labelmap(tmp_path / "submitted.nii.gz")
    assert set(np.unique(submitted)) == {0, 1, 4}, "empty segments keep their value"


def test_segments_that_are_not_submitted_shift_idx_but_not_the_values(
    tmp_path: Path, in_slicer: Callable[..., Any]
) -> None:
    grid = Grid(SHAPE, AFFINES["anisotropic"])
    labels, doubt = markers()
    image = put_image(tmp_path, grid)
    answer = put_answer(tmp_path / "answer.nrrd", grid, BANDS_INSIDE, labels, np.zeros_like(doubt))
    present = ("background", "foreground_scribbles", "organ", "lesion")
    seen = in_slicer(inspect, image, present, [answer], tmp_path / "submitted.nii.gz")

    info = seen["label_info"]
    assert [(entry["name"], entry["idx"]) for entry in info[:2]] == [("organ", 3), ("lesion", 4)]
    submitted = read_submission(tmp_path / "submitted.nii.gz", grid)
    np.testing.assert_array_equal(submitted, labels)
    np.testing.assert_array_equal(
        accept(submitted, names_in_order(info), CLASSES, lambda: None).labels, labels
    )


@pytest.mark.parametrize(("name", "left", "top"), [("identity", False, True), ("flipped", True, False)])
def test_a_slice_is_drawn_with_the_patients_right_on_the_left(
    name: str, left: bool, top: bool, tmp_path: Path, in_slicer: Callable[..., Any]
) -> None:
    grid = Grid(SHAPE, AFFINES[name])
    values = np.zeros(SHAPE, np.uint8)
    values[1:5, 7:10, 4] = 1
    values[9:13, 7:10, 4] = 2
    image = put_image(tmp_path, grid)
    write_nrrd(tmp_path / "answer.nrrd", values, grid)
    picture = tmp_path / "slice.png"
    in_slicer(draw_slice, image, tmp_path / "answer.nrrd", {"organ": 1, "lesion": 2}, 4, picture)

    red, _, blue = np.moveaxis(np.asarray(Image.open(picture)).astype(int), -1, 0)
    organ, lesion = np.argwhere(red - blue > 60).mean(axis=0), np.argwhere(blue - red > 60).mean(axis=0)
    centre = np.array(red.shape) / 2
    # In RAS+, i grows to the patient's right: low i of `identity` is the patient's left, on the screen's right.
    assert (organ[1] < centre[1]) == left
    assert (lesion[1] < centre[1]) != left
    assert (organ[0] < centre[0]) == (lesion[0] < centre[0]) == top
    assert (np.abs(red - blue) < 20).mean() > 0.5
