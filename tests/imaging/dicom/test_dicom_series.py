"""A DICOM series becomes the volume that it shows, whatever syntax, modality and geometry; or is refused in words."""

from __future__ import annotations

import re

import numpy as np
import pytest
from pydicom.uid import UID, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless, generate_uid

from overread.domain import BadInputError, Grid
from overread.imaging.dicom.series import read_series
from support.dicom import again, compressed, enhanced, slices

SHAPE = (12, 10, 6)
RNG = np.random.default_rng(5)
VOXELS = RNG.integers(-900, 1800, SHAPE).astype(np.int16)
# LPS (-20, -30, 10) with 0.8 mm between columns, 0.9 mm between rows, 3 mm between slices.
STRAIGHT = np.array([[-0.8, 0, 0, 20], [0, -0.9, 0, 30], [0, 0, 3, 10], [0, 0, 0, 1]])


def test_a_shuffled_series_is_sorted_along_its_normal(tmp_path):
    made = slices(VOXELS)
    order = RNG.permutation(len(made))
    series = read_series(again([made[n] for n in order], tmp_path))
    assert np.array_equal(series.voxels, VOXELS)
    assert series.voxels.dtype == np.int16
    assert series.grid.difference_from(Grid(SHAPE, STRAIGHT)) is None
    assert series.warnings == ()
    assert (series.patient, series.modality) == ("anna", "CT")


def test_a_sagittal_series_lies_where_its_files_say(tmp_path):
    series = read_series(again(slices(VOXELS, orientation=(0, 1, 0, 0, 0, -1)), tmp_path))
    # Along a row to the back, along a column to the feet, slices along y × -z = -x: to the patient's right.
    assert np.array_equal(series.voxels, VOXELS)
    affine = [[0, 0, 3, 20], [-0.8, 0, 0, 30], [0, -0.9, 0, 10], [0, 0, 0, 1]]
    assert series.grid.difference_from(Grid(SHAPE, np.array(affine))) is None


# The encoder of the tests writes no sign into JPEG lossless.
@pytest.mark.parametrize(
    ("syntax", "signed"),
    [
        (JPEGLosslessSV1, False),
        (JPEGLSLossless, False),
        (JPEGLSLossless, True),
        (JPEG2000Lossless, False),
        (JPEG2000Lossless, True),
        (RLELossless, False),
        (RLELossless, True),
    ],
)
def test_compressed_pixels_are_the_same_pixels(syntax: UID, signed: bool, tmp_path):
    voxels = VOXELS if signed else np.abs(VOXELS)
    series = read_series(again([compressed(each, syntax) for each in slices(voxels)], tmp_path))
    assert np.array_equal(series.voxels, voxels)


@pytest.mark.parametrize("modality", ["MR", "PT"])
def test_other_modalities_are_read_with_their_scale(modality, tmp_path):
    made = slices(np.abs(VOXELS), modality=modality)
    for number, each in enumerate(made):
        each.RescaleSlope, each.RescaleIntercept = f"{0.5 + number}", "3"
    series = read_series(again(made, tmp_path))
    assert series.modality == modality
    assert np.allclose(series.voxels, np.abs(VOXELS) * (0.5 + np.arange(6)) + 3)


def test_an_enhanced_file_is_a_series(tmp_path):
    series = read_series(again([enhanced(np.abs(VOXELS) % 1000)], tmp_path))
    assert np.array_equal(series.voxels, 2 * (np.abs(VOXELS) % 1000) + 1)
    assert series.grid.difference_from(Grid(SHAPE, STRAIGHT)) is None


def test_a_series_of_one_slice_has_its_thickness(tmp_path):
    series = read_series(again(slices(VOXELS[:, :, :1], distance_mm=5.0), tmp_path))
    assert series.voxels.shape == (12, 10, 1)
    assert series.grid.spacing_mm == pytest.approx((0.8, 0.9, 5.0))


def test_an_x_ray_without_a_place_is_one_slice_and_its_white_is_white(tmp_path):
    gone = (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "SliceThickness",
        "FrameOfReferenceUID",
    )
    made = slices(np.abs(VOXELS[:, :, :1]), modality="DX", without=gone)
    made[0].PhotometricInterpretation = "MONOCHROME1"
    made[0].BitsStored, made[0].HighBit = 12, 11
    made[0].ImagerPixelSpacing = ["0.2", "0.1"]
    series = read_series(again(made, tmp_path))
    assert np.array_equal(series.voxels, 4095 - np.abs(VOXELS[:, :, :1]))
    assert series.grid.spacing_mm == pytest.approx((0.1, 0.2, 1.0))
    told = " ".join(series.warnings)
    assert "MONOCHROME1" in told
    assert "detector's spacing" in told
    assert "unknown thickness" in told


def test_colours_become_their_luminance(tmp_path):
    made = slices(np.zeros((4, 3, 1), np.int16), modality="US", without=("PixelSpacing",))
    rgb = np.zeros((3, 4, 3), np.uint8)
    rgb[0, 1] = (0, 255, 0)
    made[0].SamplesPerPixel, made[0].PhotometricInterpretation, made[0].PlanarConfiguration = 3, "RGB", 0
    made[0].BitsAllocated = made[0].BitsStored = 8
    made[0].HighBit, made[0].PixelData = 7, rgb.tobytes()
    series = read_series(again(made, tmp_path))
    assert series.voxels[1, 0, 0] == 150
    assert series.voxels.sum() == 150
    assert any("luminance" in sentence for sentence in series.warnings)
    assert any("pixels are taken for 1 mm" in sentence for sentence in series.warnings)


def test_a_tilted_gantry_is_straightened_with_a_warning(tmp_path):
    tilt_mm = 3 * np.tan(np.radians(15))
    series = read_series(again(slices(VOXELS, shift_mm=(0, tilt_mm, 0)), tmp_path))
    assert np.array_equal(series.voxels, VOXELS)
    assert series.grid.difference_from(Grid(SHAPE, STRAIGHT)) is None
    assert any("tilted by 15.0°" in sentence for sentence in series.warnings)
    # Where the slices really lie is not forgotten.
    assert series.geometry.positions[5] == pytest.approx([-20, -30 + 5 * tilt_mm, 25], abs=1e-4)


def test_nearly_even_distances_are_read_with_a_warning(tmp_path):
    series = read_series(again(slices(VOXELS, offsets_mm=[0, 3, 6.1, 9, 12, 15]), tmp_path))
    assert series.grid.spacing_mm[2] == pytest.approx(3.0)
    assert any("2.9 to 3.1 mm" in sentence for sentence in series.warnings)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"offsets_mm": [0, 3, 6, 12, 15, 18]}, "3 mm apart, but 6 mm between slice 3 and 4 of 6"),
        ({"offsets_mm": [0, 3, 6, 0, 3, 6]}, "6 slices lie at 3 places"),
        ({"shift_mm": (0, 9, 0)}, "shifted against each other by 72"),
        ({"without": ("PixelSpacing",)}, "no slice has a PixelSpacing"),
        ({"without": ("ImagePositionPatient", "SliceLocation")}, "no SliceLocation tells it"),
        (
            {"without": ("ImagePositionPatient", "ImageOrientationPatient")},
            "where the slices lie cannot be told",
        ),
        (
            {"orientation": (0, 1, 0, 0, 0, -1), "without": ("ImageOrientationPatient",)},
            "the places do not tell it",
        ),
        ({"without": ("PixelData",)}, "holds no image"),
    ],
)
def test_what_would_have_to_be_guessed_is_refused(changes, sentence, tmp_path):
    with pytest.raises(BadInputError, match=re.escape(sentence)):
        read_series(again(slices(VOXELS, **changes), tmp_path))


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("ImagePositionPatient", "placed by their SliceLocation"),
        ("ImageOrientationPatient", "taken for axial"),
        ("PatientID", "the study stands for the patient"),
        ("RescaleSlope", None),
        ("PhotometricInterpretation", None),
    ],
)
def test_what_is_missing_is_repaired_with_a_warning(missing, sentence, tmp_path):
    series = read_series(again(slices(VOXELS, without=(missing,)), tmp_path))
    assert np.array_equal(series.voxels, VOXELS)
    assert series.grid.spacing_mm == pytest.approx((0.8, 0.9, 3.0))
    assert sentence in " ".join(series.warnings) if sentence else not series.warnings
    if missing == "PatientID":
        assert series.patient == series.study_uid


def test_a_slice_without_a_place_gets_the_one_its_neighbours_leave(tmp_path):
    made = slices(VOXELS)
    del made[2].ImagePositionPatient
    series = read_series(again(made, tmp_path))
    assert np.array_equal(series.voxels, VOXELS)
    assert series.grid.difference_from(Grid(SHAPE, STRAIGHT)) is None
    assert [float(value) for value in series.geometry.instances[2].ImagePositionPatient] == pytest.approx(
        [-20, -30, 16]
    )


def test_a_localiser_in_the_series_is_left_out(tmp_path):
    uid = generate_uid()
    made = slices(VOXELS, series=uid)
    made += slices(VOXELS[:, :, :1], series=uid, orientation=(0, 1, 0, 0, 0, -1))
    series = read_series(again(made, tmp_path))
    assert np.array_equal(series.voxels, VOXELS)
    assert any("1 slices of another orientation" in sentence for sentence in series.warnings)


def test_two_stacks_in_a_series_are_refused(tmp_path):
    made = slices(VOXELS) + slices(VOXELS, orientation=(0, 1, 0, 0, 0, -1))
    with pytest.raises(BadInputError, match="2 stacks of different orientation or size"):
        read_series(again(made, tmp_path))


def test_slices_that_leave_the_line_are_refused(tmp_path):
    made = slices(VOXELS)
    made[3].ImagePositionPatient = ["-20", "-25", "19"]
    with pytest.raises(BadInputError, match="slice 4 of 6 lies 5 mm beside"):
        read_series(again(made, tmp_path))


def test_pixels_of_different_size_are_refused(tmp_path):
    made = slices(VOXELS)
    made[3].PixelSpacing = ["1.8", "1.6"]
    with pytest.raises(BadInputError, match="pixels of different size"):
        read_series(again(made, tmp_path))


def test_a_film_is_refused(tmp_path):
    made = slices(VOXELS[:, :, :1], modality="US")
    made[0].NumberOfFrames = 2
    made[0].PixelData = made[0].PixelData * 2
    with pytest.raises(BadInputError, match="a film of 2 frames"):
        read_series(again(made, tmp_path))


def test_pixels_that_break_off_are_refused_by_their_syntax(tmp_path):
    made = [compressed(each, JPEG2000Lossless) for each in slices(np.abs(VOXELS))]
    made[1].PixelData = made[1].PixelData[:40]
    made[1]["PixelData"].is_undefined_length = True
    with pytest.raises(BadInputError, match=r"cannot be decoded \(JPEG 2000"):
        read_series(made)


def test_a_header_that_makes_no_sense_is_refused(tmp_path):
    made = again(slices(VOXELS), tmp_path)
    made[2].Rows = 7
    with pytest.raises(BadInputError, match="cannot be decoded"):
        read_series(made)
    made = again(slices(VOXELS), tmp_path)
    made[2].NumberOfFrames = [1, 2]
    with pytest.raises(BadInputError, match=r"cannot be decoded|a file of the series is damaged"):
        read_series(made)


def test_a_slice_that_was_sent_twice_counts_once(tmp_path):
    made = slices(VOXELS)
    series = read_series(again([*made, made[0]], tmp_path))
    assert series.voxels.shape == SHAPE
