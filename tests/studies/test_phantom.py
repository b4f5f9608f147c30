"""The sample studies are the same for the same seed, and are what a reader of CT and of nnU-Net folders expects."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from overread.imaging.volumes import read_array, read_labelmap
from overread.recipes import RECIPES, recipe_named
from overread.studies.phantom import make_phantoms
from overread.studies.phantom_shapes import ct_noise, ellipsoid, melt, share_inside, smooth_field, tube

SCRIPT = Path(__file__).parents[2] / "sample-data" / "make_phantoms.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    make_phantoms(folder, train=5, unlabelled=1)
    return folder


def cases(folder: Path):
    """(name, HU, grid, labels, grid of the labels) of every labelled case."""
    for path in sorted((folder / "labelsTr").iterdir()):
        hu, grid = read_array(folder / "imagesTr" / path.name.replace(".nii.gz", "_0000.nii.gz"))
        labels, label_grid = read_labelmap(path)
        yield path.name, hu, grid, labels, label_grid


def test_the_folder_has_the_raw_layout_of_nnunet(folder: Path) -> None:
    description = json.loads((folder / "dataset.json").read_text())
    assert description["channel_names"] == {"0": "CT"}
    assert description["labels"] == {"background": 0, "liver": 1, "lesion": 2}
    assert description["numTraining"] == 5
    assert description["file_ending"] == ".nii.gz"
    names = {
        part: [path.name for path in sorted((folder / part).iterdir())] for part in ("imagesTr", "labelsTr")
    }
    assert names["labelsTr"] == [f"phantom_{n:03d}.nii.gz" for n in (1, 2, 3, 4, 5)]
    assert names["imagesTr"] == [f"phantom_{n:03d}_0000.nii.gz" for n in (1, 2, 3, 4, 5)]
    assert [path.name for path in (folder / "imagesTs").iterdir()] == ["phantom_101_0000.nii.gz"]
    assert [path.name for path in (folder / "labelsTs").iterdir()] == ["phantom_101.nii.gz"]


def test_image_and_labels_lie_on_one_grid_of_about_the_stated_size(folder: Path) -> None:
    for name, hu, grid, labels, label_grid in cases(folder):
        assert grid.difference_from(label_grid, 1e-6) is None, name
        assert hu.shape == labels.shape
        np.testing.assert_allclose(hu.shape, (96, 96, 40), atol=4)
        np.testing.assert_allclose(grid.spacing_mm, (1.5, 1.5, 3), atol=0.31)


def test_the_second_case_is_flipped_and_the_third_oblique(folder: Path) -> None:
    ordinary, flipped, oblique = (
        grid.affine[:3, :3] / grid.spacing_mm for _, _, grid, _, _ in list(cases(folder))[:3]
    )
    np.testing.assert_allclose(ordinary, np.diag([-1, -1, 1]), atol=1e-6)
    np.testing.assert_allclose(flipped, np.eye(3), atol=1e-6)
    assert (np.abs(oblique).max(axis=0) < 0.999).all()
    np.testing.assert_allclose(oblique.T @ oblique, np.eye(3), atol=1e-6)


def test_densities_are_those_of_a_portal_venous_ct(folder: Path) -> None:
    for name, hu, _, labels, _ in cases(folder):
        assert hu.dtype == np.int16, name
        assert hu.min() >= -1024
        assert 400 < hu.max() < 1000, "bone, no metal"
        assert 95 < np.median(hu[labels == 1]) < 120
        air, fat, soft = (
            np.mean((hu > low) & (hu < high)) for low, high in ((-1024, -950), (-140, -60), (20, 200))
        )
        assert air > 0.1
        assert fat > 0.05
        assert soft > 0.2


def test_lesions_are_darker_than_the_liver_and_lie_inside_it(folder: Path) -> None:
    seen = []
    for name, hu, _, labels, _ in cases(folder):
        assert set(np.unique(labels)) <= {0, 1, 2}
        lesion = labels == 2
        seen.append(ndimage.label(lesion)[1] > 0)
        if not lesion.any():
            continue
        assert np.median(hu[lesion]) < np.median(hu[labels == 1]) - 8, name
        outside = ndimage.binary_dilation(lesion) & (labels == 0)
        assert outside.sum() == 0, f"{name} has a lesion that reaches the liver's surface"
        assert 20 < lesion.sum() < 0.2 * (labels == 1).sum()
    assert seen == [True, True, True, True, False]


def test_the_liver_is_one_piece_of_plausible_size(folder: Path) -> None:
    for name, _, grid, labels, _ in cases(folder):
        pieces, count = ndimage.label(labels > 0)
        largest = np.bincount(pieces.ravel())[1:].max()
        assert largest > 0.98 * (labels > 0).sum(), f"{name}: {count} pieces"
        assert 150 < largest * grid.voxel_volume_mm3 / 1000 < 700, "millilitres"


def test_some_neighbours_of_the_liver_have_its_density(folder: Path) -> None:
    for name, hu, _, labels, _ in cases(folder):
        smooth = ndimage.gaussian_filter(hu.astype(np.float32), 1)
        around = ndimage.binary_dilation(labels > 0, iterations=4) & (labels == 0)
        alike = np.abs(smooth[around] - np.median(hu[labels == 1])) < 15
        assert alike.mean() > 0.02, name


def test_the_same_seed_gives_the_same_cases_and_another_seed_others(folder: Path, tmp_path: Path) -> None:
    make_phantoms(tmp_path / "again", train=1, unlabelled=1)
    make_phantoms(tmp_path / "other", train=1, unlabelled=0, seed=1)
    for part, name in (("Tr", "phantom_001"), ("Ts", "phantom_101")):
        first, again = (
            read_array(root / f"images{part}" / f"{name}_0000.nii.gz")
            for root in (folder, tmp_path / "again")
        )
        np.testing.assert_array_equal(first[0], again[0])
        np.testing.assert_array_equal(first[1].affine, again[1].affine)
    one = read_labelmap(folder / "labelsTr" / "phantom_001.nii.gz")[0]
    two = read_labelmap(tmp_path / "other" / "labelsTr" / "phantom_001.nii.gz")[0]
    assert one.shape != two.shape or (one != two).any()


def test_the_script_writes_cases_and_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = tmp_path / "pictures" / "phantoms.png"
    options = ["--out", str(tmp_path / "out"), "--train", "1", "--unlabelled", "0", "--picture", str(picture)]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *options])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert (tmp_path / "out" / "labelsTr" / "phantom_001.nii.gz").exists()
    with Image.open(picture) as drawn:
        pixels = np.asarray(drawn.convert("RGB"))
    assert pixels.shape == (160, 960, 3)
    assert pixels.std() > 20


def test_the_recipe_of_the_phantoms_is_registered() -> None:
    assert recipe_named("liver_phantom").name == "liver_phantom"
    assert "liver_phantom" in RECIPES


def test_a_sphere_is_its_distance() -> None:
    points = np.array([[0.0, 3, 5, 0], [0, 4, 0, 0], [0, 0, 0, 12]])
    np.testing.assert_allclose(ellipsoid(points, (0, 0, 0), (5, 5, 5)), [-5, 0, 0, 7], atol=0.01)


def test_a_tube_is_round_ended_and_changes_its_radius() -> None:
    points = np.array([[0.0, 10, 5, -3], [0, 0, 6, 0], [0, 0, 0, 0]])
    distance = tube(points, np.zeros(3), np.array([10.0, 0, 0]), 2, 1)
    np.testing.assert_allclose(distance, [-2, -1, 4.5, 1])


def test_melting_two_distant_shapes_leaves_the_nearer() -> None:
    np.testing.assert_allclose(melt(np.array([1.0]), np.array([90.0]), 2.0), [1.0])


def test_a_surface_through_the_middle_of_a_voxel_halves_it() -> None:
    np.testing.assert_array_equal(share_inside(np.array([-9.0, 0, 9])), [1, 0.5, 0])


def test_noise_is_coarse_grained_in_plane_and_has_unit_deviation() -> None:
    noise = ct_noise((64, 65, 6), np.random.default_rng(0))
    assert noise.shape == (64, 65, 6)
    assert noise.std() == pytest.approx(1, abs=1e-5)
    assert np.corrcoef(noise[1:].ravel(), noise[:-1].ravel())[0, 1] > 0.3


def test_a_smooth_field_changes_over_its_wavelength_whatever_the_spacing() -> None:
    field = smooth_field((60, 60, 20), (1, 1, 3), 30, np.random.default_rng(0))
    assert field.shape == (60, 60, 20)
    assert field.mean() == pytest.approx(0, abs=1e-4)
    assert field.std() == pytest.approx(1, abs=1e-4)
    along_i = np.abs(np.diff(field, axis=0)).mean()
    along_k = np.abs(np.diff(field, axis=2)).mean()
    assert along_k / along_i == pytest.approx(3, rel=0.25)
