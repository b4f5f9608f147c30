"""Labels and maps become DICOM objects on the slices where they lie, and are the same when they are read back."""

from __future__ import annotations

import gzip
import json
from io import BytesIO

import numpy as np
import pydicom
import pytest
from highdicom.seg import Segmentation
from pydicom.dataset import Dataset

from overread.domain import BadInputError
from overread.imaging.dicom.codes import category_of, side_of, type_of
from overread.imaging.dicom.geometry_file import read_geometry, write_geometry
from overread.imaging.dicom.origin import Origin, person_name, plain_name
from overread.imaging.dicom.parametric import doubt_map, read_doubt_map
from overread.imaging.dicom.segmentation import (
    label_segmentation,
    probability_segmentation,
    read_segmentation_object,
    referenced_instances,
    referenced_series,
)
from overread.imaging.dicom.series import Series, read_series
from overread.imaging.volumes import read_labelmap
from support.dicom import again, enhanced, slices
from support.rated import DATA

SHAPE = (12, 10, 6)
VOXELS = np.random.default_rng(5).integers(-900, 1800, SHAPE).astype(np.int16)
CLASSES = ("background", "liver", "lesion")
ORIGIN = Origin("case/anna-1|0123", "Anna Müller", "abdomen", "feedbeef", "accepted label, revision 1")
TILT_MM = 0.8
REAL = DATA / "dicom_series" / "ct_3slice_with_seg"


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Series:
    """A tilted, turned CT."""
    turned = (0.8, 0.6, 0, -0.6, 0.8, 0)
    made = slices(VOXELS, orientation=turned, shift_mm=(0, TILT_MM, 0))
    return read_series(again(made, tmp_path_factory.mktemp("series")))


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    """Two classes on slices 2 and 3; the others are empty."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:9, 3:7, 2:4] = 1
    labels[4:6, 4:5, 3] = 2
    return labels


def stored(instance: Dataset) -> Dataset:
    """What comes back of a file."""
    file = BytesIO()
    pydicom.dcmwrite(file, instance, write_like_original=False)
    file.seek(0)
    return pydicom.dcmread(file)


def test_a_label_read_back_is_the_label_and_its_empty_slices_are_there(series, labels):
    instance = stored(label_segmentation(series.geometry, labels, CLASSES, ORIGIN))
    back = read_segmentation_object(instance, series.geometry)
    assert back.names == ("liver", "lesion")
    assert np.array_equal(back.masks, [labels == 1, labels == 2])
    # Each class on each slice, and most of them hold nothing.
    assert instance.NumberOfFrames == 2 * SHAPE[2]


def test_its_frames_lie_where_the_slices_of_the_tilted_series_lie(series, labels):
    instance = stored(label_segmentation(series.geometry, labels, CLASSES, ORIGIN))
    places = {
        tuple(float(value) for value in frame.PlanePositionSequence[0].ImagePositionPatient)
        for frame in instance.PerFrameFunctionalGroupsSequence
    }
    expected = [(-20.0, -30 + TILT_MM * k, 10.0 + 3 * k) for k in range(SHAPE[2])]
    assert np.allclose(sorted(places, key=lambda place: place[2]), expected, atol=1e-6)
    shared = instance.SharedFunctionalGroupsSequence[0]
    turned = [float(value) for value in shared.PlaneOrientationSequence[0].ImageOrientationPatient]
    assert turned == pytest.approx([0.8, 0.6, 0, -0.6, 0.8, 0])
    assert [float(value) for value in shared.PixelMeasuresSequence[0].PixelSpacing] == [0.9, 0.8]
    assert referenced_series(instance) == (series.uid,)
    assert referenced_instances(instance) == {str(each.SOPInstanceUID) for each in series.geometry.instances}


def test_another_programs_reader_finds_the_same_masks(series, labels):
    instance = Segmentation.from_dataset(
        stored(label_segmentation(series.geometry, labels, CLASSES, ORIGIN)), copy=False
    )
    uids = [str(each.SOPInstanceUID) for each in series.geometry.instances]
    masks = instance.get_pixels_by_source_instance(uids)
    assert np.array_equal(masks.transpose(3, 2, 1, 0), [labels == 1, labels == 2])


def test_the_header_names_classes_champion_and_reader(series, labels):
    instance = stored(label_segmentation(series.geometry, labels, CLASSES, ORIGIN))
    liver, lesion = instance.SegmentSequence
    assert liver.SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"
    assert lesion.SegmentedPropertyTypeCodeSequence[0].CodeValue == "52988006"
    assert lesion.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    assert liver.SegmentAlgorithmType == "SEMIAUTOMATIC"
    algorithm = liver.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("abdomen", "feedbeef")
    assert plain_name(instance.ContentCreatorName) == "Anna Müller"
    assert instance.SeriesDescription == "Overread abdomen: label, Anna Müller"
    assert (instance.PatientID, instance.StudyInstanceUID) == ("anna", series.study_uid)
    assert (instance.SOPInstanceUID, instance.SeriesInstanceUID) == (ORIGIN.sop_uid, ORIGIN.series_uid)


def test_what_nobody_proposed_is_manual_and_what_nobody_accepted_automatic(series, labels):
    by_hand = label_segmentation(series.geometry, labels, CLASSES, Origin("a", "ben", "abdomen"))
    assert {each.SegmentAlgorithmType for each in by_hand.SegmentSequence} == {"MANUAL"}
    proposal = label_segmentation(series.geometry, labels, CLASSES, Origin("b", "", "abdomen", "feedbeef"))
    assert read_segmentation_object(stored(proposal), series.geometry).is_automatic


def test_the_same_label_has_the_same_uids_and_another_one_others():
    assert Origin("one").sop_uid == Origin("one", "ben").sop_uid
    assert len({Origin("one").sop_uid, Origin("two").sop_uid, Origin("one").series_uid}) == 3


def test_probabilities_are_fractions_in_steps_of_a_255th(series):
    probabilities = np.random.default_rng(1).random((2, *SHAPE)).astype(np.float32) / 2
    made = probability_segmentation(series.geometry, probabilities, CLASSES[1:], ORIGIN)
    instance = Segmentation.from_dataset(stored(made), copy=False)
    assert (instance.SegmentationType, instance.SegmentationFractionalType) == ("FRACTIONAL", "PROBABILITY")
    uids = [str(each.SOPInstanceUID) for each in series.geometry.instances]
    back = instance.get_pixels_by_source_instance(uids).transpose(3, 2, 1, 0)
    assert np.abs(back - probabilities).max() <= 0.5 / 255 + 1e-6
    with pytest.raises(BadInputError, match="FRACTIONAL segmentation; a label is BINARY"):
        read_segmentation_object(stored(made), series.geometry)


def test_doubt_is_a_parametric_map_of_the_same_floats(series):
    doubt = np.random.default_rng(2).random(SHAPE).astype(np.float32)
    instance = stored(doubt_map(series.geometry, doubt, "predictive_entropy", "nat", ORIGIN))
    assert np.array_equal(read_doubt_map(instance, series.geometry), doubt)
    mapping = instance.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert mapping.LUTExplanation == "predictive_entropy in nat"
    with pytest.raises(BadInputError, match="the map has shape"):
        doubt_map(series.geometry, doubt[1:], "predictive_entropy", "nat", ORIGIN)


def test_a_parametric_map_is_no_series_to_serve(series):
    instance = stored(doubt_map(series.geometry, np.zeros(SHAPE, np.float32), "variance", "1", ORIGIN))
    with pytest.raises(BadInputError, match="holds no image"):
        read_series([instance])


def test_frames_of_an_enhanced_file_find_their_slices(labels, tmp_path):
    series = read_series(again([enhanced(np.abs(VOXELS) % 1000)], tmp_path))
    back = read_segmentation_object(
        stored(label_segmentation(series.geometry, labels, CLASSES, ORIGIN)), series.geometry
    )
    assert np.array_equal(back.masks, [labels == 1, labels == 2])


def test_an_x_ray_without_a_place_takes_a_label(tmp_path):
    gone = (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "FrameOfReferenceUID",
        "PatientName",
        "StudyID",
    )
    series = read_series(again(slices(np.abs(VOXELS[:, :, :1]), modality="DX", without=gone), tmp_path))
    labels = (VOXELS[:, :, :1] > 0).astype(np.uint8)
    back = read_segmentation_object(
        stored(label_segmentation(series.geometry, labels, ("background", "lung"), ORIGIN)), series.geometry
    )
    assert np.array_equal(back.masks[0], labels == 1)


def test_places_and_headers_survive_in_a_file(series, labels, tmp_path):
    path = tmp_path / "series.json.gz"
    write_geometry(path, series.geometry)
    geometry = read_geometry(path)
    kept, made = (
        stored(label_segmentation(each, labels, CLASSES, ORIGIN)) for each in (geometry, series.geometry)
    )
    assert kept.to_json_dict().keys() == made.to_json_dict().keys()
    assert kept.PixelData == made.PixelData
    assert kept.PerFrameFunctionalGroupsSequence == made.PerFrameFunctionalGroupsSequence


def test_a_damaged_file_of_places_is_named(tmp_path):
    path = tmp_path / "series.json.gz"
    path.write_bytes(gzip.compress(json.dumps({"instances": []}).encode()))
    with pytest.raises(BadInputError, match="cannot be read as the places of a series"):
        read_geometry(path)


def test_a_segmentation_of_another_series_is_refused(series, labels, tmp_path):
    elsewhere = read_series(again(slices(VOXELS, origin=(0, 0, 500)), tmp_path / "elsewhere"))
    turned = read_series(again(slices(VOXELS, orientation=(0, 1, 0, 0, 0, -1)), tmp_path / "turned"))
    smaller = read_series(again(slices(VOXELS[1:]), tmp_path / "smaller"))
    cases = [
        (series, elsewhere, "turned against"),
        (read_series(again(slices(VOXELS), tmp_path / "straight")), elsewhere, "mm beside the nearest slice"),
        (turned, series, "turned against"),
        (smaller, series, "11x10 pixels, the series 12x10"),
    ]
    for origin, target, sentence in cases:
        fitting = labels[-origin.voxels.shape[0] :]
        instance = stored(label_segmentation(origin.geometry, fitting, CLASSES, ORIGIN))
        with pytest.raises(BadInputError, match=sentence):
            read_segmentation_object(instance, target.geometry)


def test_what_is_no_segmentation_is_refused(series, labels):
    with pytest.raises(BadInputError, match="no DICOM SEG"):
        read_segmentation_object(series.geometry.instances[0], series.geometry)
    instance = stored(label_segmentation(series.geometry, labels, CLASSES, ORIGIN))
    del instance.SegmentSequence
    with pytest.raises(BadInputError, match=r"damaged \(AttributeError: .*SegmentSequence"):
        read_segmentation_object(instance, series.geometry)
    instance = stored(label_segmentation(series.geometry, labels, CLASSES, ORIGIN))
    instance.PerFrameFunctionalGroupsSequence = instance.PerFrameFunctionalGroupsSequence[1:]
    with pytest.raises(BadInputError, match="12 frames, and the places of 11"):
        read_segmentation_object(instance, series.geometry)
    instance = stored(label_segmentation(series.geometry, labels, CLASSES, ORIGIN))
    del instance.PerFrameFunctionalGroupsSequence[3].PlanePositionSequence
    with pytest.raises(BadInputError, match="has no PlanePositionSequence"):
        read_segmentation_object(instance, series.geometry)


def test_a_label_that_does_not_fit_is_refused(series, labels):
    with pytest.raises(BadInputError, match="the label has shape"):
        label_segmentation(series.geometry, labels[1:], CLASSES, ORIGIN)
    with pytest.raises(BadInputError, match="at least one class"):
        label_segmentation(series.geometry, labels, CLASSES[:1], ORIGIN)


def test_codes_of_classes():
    assert type_of("left kidney").value == "64033007"
    assert side_of("left kidney").meaning == "Left"
    assert side_of("liver") is None
    assert type_of("zone 7").scheme_designator == "99OVERREAD"
    assert type_of("zone 7").meaning == "zone 7"
    assert category_of("brain tumour").meaning == "Morphologically Abnormal Structure"
    assert category_of("liver").meaning == "Anatomical Structure"


def test_names_of_readers_go_through_dicom():
    assert person_name("at 192.0.2.7") == "at 192.0.2.7^"
    assert plain_name(person_name("O=Hara^Ann")) == "O Hara Ann"
    assert len(person_name("x" * 200)) <= 64


@pytest.mark.skipif(not REAL.exists(), reason=f"the DICOM series with segmentations is not there: {REAL}")
def test_a_segmentation_of_another_program_is_the_mask_that_it_was_made_from():
    series = read_series([pydicom.dcmread(path) for path in sorted((REAL / "ct").glob("*.dcm"))])
    back = read_segmentation_object(pydicom.dcmread(REAL / "seg" / "liver.dcm"), series.geometry)
    mask, grid = read_labelmap(REAL / "seg" / "liver_seg.nrrd")
    assert back.names == ("Liver",)
    assert series.grid.difference_from(grid) is None
    assert np.array_equal(back.masks[0], mask > 0)
