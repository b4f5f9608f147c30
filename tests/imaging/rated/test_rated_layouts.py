"""The layouts of published data sets are recognised and read; what does not fit is named."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from overread.domain import BadInputError, NotFoundError
from overread.imaging.rated import LAYOUTS, check_rated, read_rated
from support.datasets import write_description, write_nifti_case
from support.rated import disc, write_picture, write_rated, write_volume

SHAPE = (12, 8)
IMAGE = np.arange(96, dtype=np.float32).reshape(SHAPE)
MASK = disc(SHAPE, (4, 3), 2)
LARGE = disc(SHAPE, (4, 3), 3)


def write_qubiq(case: Path, masks: dict[str, np.ndarray], image: np.ndarray = IMAGE) -> None:
    """A case's folder with `image.nii.gz`, and masks by `task01_seg01`."""
    write_volume(case / "image.nii.gz", image)
    for name, mask in masks.items():
        write_volume(case / f"{name}.nii.gz", mask)


def write_refuge(folder: Path, case: str, ending: str = "", mask_suffix: str = "png") -> None:
    """A case with three readers; the disc is larger than the cup, and the third reader marked nothing."""
    colours = np.zeros((*SHAPE, 3), np.uint8)
    colours[..., 0] = 200
    write_picture(folder / case / f"{case}{ending}.jpg", colours)
    for reader in (1, 2, 3):
        for structure, mask in (("cup", MASK), ("disc", LARGE)):
            seen = mask if reader < 3 else np.zeros(SHAPE, bool)
            write_picture(folder / case / f"{case}_seg_{structure}_{reader}{ending}.{mask_suffix}", seen)


def write_kohl(folder: Path, patient: str, crop: str, readers: int = 4) -> None:
    """A crop; reader 0 marked the disc, the others nothing."""
    write_picture(folder / "images" / patient / f"{crop}.png", IMAGE.astype(np.uint8))
    for reader in range(readers):
        seen = MASK if reader == 0 else np.zeros(SHAPE, bool)
        write_picture(folder / "gt" / patient / f"{crop}_l{reader}.png", seen)


def test_qubiq_has_one_folder_a_case_and_one_file_a_rater(tmp_path: Path):
    folder = tmp_path / "brain-growth"
    write_qubiq(folder / "Training" / "case01", {"task01_seg01": MASK, "task01_seg02": LARGE})
    write_qubiq(folder / "Validation" / "case35", {"task01_seg01": MASK, "task01_seg02": MASK})
    dataset = read_rated(folder)
    assert dataset.name == "brain-growth task 1"
    assert [(c.id, c.patient, c.subset) for c in dataset.cases] == [
        ("case01", "case01", "Training"),
        ("case35", "case35", "Validation"),
    ]
    image = dataset.cases[0].read()
    assert image.raters == ("rater1", "rater2")
    assert np.array_equal(image.image[0], IMAGE)
    assert np.array_equal(image.masks, [MASK, LARGE])
    # 1 mm in all directions is what a header says that nobody filled in.
    assert image.spacing_mm is None
    assert [case.id for case in read_rated(folder / "Training").cases] == ["case01"]
    assert check_rated(dataset) == []


def test_qubiq_tasks_are_other_structures_of_the_same_images(tmp_path: Path):
    case = tmp_path / "prostate" / "Training" / "case01"
    write_qubiq(case, {"task01_seg01": MASK, "task02_seg01": LARGE, "task02_seg02": LARGE})
    second = read_rated(tmp_path / "prostate", task=2).cases[0].read()
    assert second.masks.shape == (2, *SHAPE)
    assert np.array_equal(second.masks[0], LARGE)
    with pytest.raises(NotFoundError, match="no segmentation of task 3; there are tasks 1, 2"):
        read_rated(tmp_path / "prostate", task=3)


def test_qubiq_parts_that_number_their_cases_anew_are_told_apart(tmp_path: Path):
    for part in ("Training", "Validation"):
        write_qubiq(tmp_path / "kidney" / part / "case01", {"task01_seg01": MASK})
    dataset = read_rated(tmp_path / "kidney")
    assert [case.id for case in dataset.cases] == ["Training_case01", "Validation_case01"]
    assert len(dataset.patients) == 2


def test_qubiq_scans_of_one_case_are_one_patient(tmp_path: Path):
    ball = disc((6, 6, 6), (3, 3, 3), 2)
    for scan in ("case1-1", "case1-2"):
        place = tmp_path / "training_data_v3_QC" / "pancreas" / scan
        write_qubiq(place, {"task01_seg01": ball}, np.ones((6, 6, 6), np.float32))
    dataset = read_rated(tmp_path)
    assert [(c.id, c.patient, c.subset) for c in dataset.cases] == [
        ("case1-1", "case1", "Training"),
        ("case1-2", "case1", "Training"),
    ]
    assert dataset.cases[0].read().image.shape == (1, 6, 6, 6)


def test_qubiq_sequences_in_the_third_axis_are_channels(tmp_path: Path):
    sequences = np.stack([IMAGE + 100 * k for k in range(4)], axis=-1)
    write_qubiq(tmp_path / "brain-tumor" / "Training" / "case01", {"task01_seg01": MASK}, sequences)
    image = read_rated(tmp_path).cases[0].read()
    assert image.image.shape == (4, *SHAPE)
    assert np.array_equal(image.image[2], IMAGE + 200)
    assert np.array_equal(image.masks[0], MASK)


def test_qubiq_spacing_other_than_one_is_believed(tmp_path: Path):
    case = tmp_path / "kidney" / "case01"
    write_volume(case / "image.nii.gz", IMAGE, np.diag([0.5, 0.5, 1, 1]))
    write_volume(case / "task01_seg01.nii.gz", MASK)
    image = read_rated(tmp_path / "kidney").cases[0].read()
    assert image.spacing_mm == (0.5, 0.5)


def test_qubiq_of_several_data_sets_wants_one_named(tmp_path: Path):
    for name in ("kidney", "prostate"):
        write_qubiq(tmp_path / name / "Training" / "case01", {"task01_seg01": MASK})
    with pytest.raises(BadInputError, match="several data sets; say which by `dataset`: kidney, prostate"):
        read_rated(tmp_path)
    assert read_rated(tmp_path, dataset="kidney").name == "kidney task 1"
    with pytest.raises(NotFoundError, match="no data set 'liver'; there are kidney, prostate"):
        read_rated(tmp_path, dataset="liver")


def test_qubiq_cases_without_any_segmentation_are_left_out_and_a_lacking_task_is_told(tmp_path: Path, caplog):
    folder = tmp_path / "prostate" / "Training"
    write_qubiq(folder / "case01", {"task01_seg01": MASK})
    write_qubiq(folder / "case02", {"task02_seg01": MASK})
    write_qubiq(folder / "case03", {})
    with caplog.at_level(logging.INFO):
        dataset = read_rated(folder)
    assert "1 cases of" in caplog.text
    assert [(p.case, p.what) for p in check_rated(dataset)] == [("case02", "has no mask: nobody labelled it")]
    (folder / "case01" / "image.nii.gz").unlink()
    assert ("case01", "image file is missing") in [(p.case, p.what) for p in check_rated(dataset)]


def test_refuge2_has_cup_and_disc_of_each_reader(tmp_path: Path):
    write_refuge(tmp_path / "Training-400", "0001")
    write_refuge(tmp_path / "Test-400", "0801")
    cup, disc_ = read_rated(tmp_path), read_rated(tmp_path, structure="disc")
    assert cup.name == "REFUGE2 cup"
    assert [(c.id, c.subset) for c in cup.cases] == [("0001", "Training"), ("0801", "Test")]
    image = cup.cases[0].read()
    assert image.image.shape == (3, *SHAPE)
    assert image.image[0].mean() > 150
    assert image.raters == ("rater1", "rater2", "rater3")
    assert [mask.sum() for mask in image.masks] == [MASK.sum(), MASK.sum(), 0]
    assert disc_.cases[0].read().masks[0].sum() == LARGE.sum()
    assert check_rated(cup) == []


def test_refuge2_crops_may_have_grey_edges(tmp_path: Path):
    write_refuge(tmp_path / "Training-400", "0001", "_cropped", "png")
    grey = np.where(MASK, 255, 30).astype(np.uint8)
    write_picture(tmp_path / "Training-400" / "0001" / "0001_seg_cup_1_cropped.png", grey)
    image = read_rated(tmp_path, cropped=True).cases[0].read()
    assert np.array_equal(image.masks[0], MASK)
    with pytest.raises(NotFoundError, match="holds no mask of the cup"):
        read_rated(tmp_path)
    with pytest.raises(BadInputError, match="no structure 'fovea'; there are cup and disc"):
        read_rated(tmp_path, structure="fovea")


def test_refuge2_numbers_that_come_twice_are_told_apart_and_a_lost_image_is_told(tmp_path: Path):
    for part in ("Training-400", "Test-400"):
        write_refuge(tmp_path / part, "0001")
    (tmp_path / "Test-400" / "0001" / "0001.jpg").unlink()
    dataset = read_rated(tmp_path)
    assert [case.id for case in dataset.cases] == ["Test_0001", "Training_0001"]
    assert [(p.case, p.file, p.what) for p in check_rated(dataset)] == [
        ("Test_0001", "0001.jpg", "image file is missing")
    ]


def test_crops_of_kohl_lie_in_three_parts_by_patient(tmp_path: Path):
    write_kohl(tmp_path / "lidc_crops_train", "LIDC-IDRI-0001", "z-105.0_c0")
    write_kohl(tmp_path / "lidc_crops_train", "LIDC-IDRI-0001", "z-107.0_c0")
    write_kohl(tmp_path / "lidc_crops_test", "LIDC-IDRI-0002", "z-1.5_c1")
    dataset = read_rated(tmp_path)
    assert [(c.id, c.patient, c.subset) for c in dataset.cases] == [
        ("LIDC-IDRI-0001_z-105.0_c0", "LIDC-IDRI-0001", "lidc_crops_train"),
        ("LIDC-IDRI-0001_z-107.0_c0", "LIDC-IDRI-0001", "lidc_crops_train"),
        ("LIDC-IDRI-0002_z-1.5_c1", "LIDC-IDRI-0002", "lidc_crops_test"),
    ]
    assert not dataset.same_raters
    image = dataset.cases[0].read()
    assert image.raters == ("l0", "l1", "l2", "l3")
    assert image.masks.sum(axis=(1, 2)).tolist() == [MASK.sum(), 0, 0, 0]
    assert image.spacing_mm == (0.5, 0.5)
    assert [c.subset for c in read_rated(tmp_path / "lidc_crops_train").cases] == [None, None]


def test_masks_of_kohl_without_a_crop_are_told(tmp_path: Path):
    write_kohl(tmp_path, "LIDC-IDRI-0001", "z-105.0_c0", readers=2)
    (tmp_path / "images" / "LIDC-IDRI-0001" / "z-1.0_c0.png").write_bytes(b"")
    (tmp_path / "gt" / "LIDC-IDRI-0009").mkdir()
    write_picture(tmp_path / "gt" / "LIDC-IDRI-0009" / "z-3.0_c0_l0.png", MASK)
    write_picture(tmp_path / "gt" / "LIDC-IDRI-0009" / "odd.png", MASK)
    problems = {(p.case, p.file): p.what for p in check_rated(read_rated(tmp_path))}
    assert problems[("LIDC-IDRI-0009_z-3.0_c0", "z-3.0_c0_l0.png")] == "is the mask of no image"
    assert problems[("LIDC-IDRI-0009_odd", "odd.png")] == "is the mask of no image"
    assert problems[("LIDC-IDRI-0001_z-1.0_c0", "")] == "has no mask: nobody labelled it"
    assert len(problems) == 3


def test_nnunet_has_one_rater_of_one_class(tmp_path: Path):
    labels = {"background": 0, "ball": 1, "shell": 2}
    write_description(tmp_path, 2, labels=labels, patients={"a": "anna", "b": "anna"})
    label = np.zeros((6, 6, 5), np.uint8)
    label[1:4, 1:4, 1:4] = 2
    label[2, 2, 2] = 1
    for name in "ab":
        write_nifti_case(
            tmp_path, name, [np.ones((6, 6, 5), np.float32)], label, np.diag([1.0, 2.0, 3.0, 1.0])
        )
    dataset = read_rated(tmp_path, structure="shell")
    assert dataset.patients == ("anna",)
    image = dataset.cases[0].read()
    assert image.raters == ("reference",)
    assert np.array_equal(image.masks[0], label == 2)
    assert image.spacing_mm == (1.0, 2.0, 3.0)
    with pytest.raises(BadInputError, match="several classes; say which by `structure`: ball, shell"):
        read_rated(tmp_path)
    with pytest.raises(NotFoundError, match="no class 'core'; there are ball, shell"):
        read_rated(tmp_path, structure="core")


def test_nnunet_patches_of_slides_bring_their_pixel_size(tmp_path: Path):
    write_description(
        tmp_path, 1, um_per_px=2.0, file_ending=".png", channel_names={"0": "R", "1": "G", "2": "B"}
    )
    write_picture(tmp_path / "imagesTr" / "a_0000.png", np.zeros((*SHAPE, 3), np.uint8))
    write_picture(tmp_path / "labelsTr" / "a.png", MASK.astype(np.uint8))
    image = read_rated(tmp_path).cases[0].read()
    assert image.spacing_mm == pytest.approx((0.002, 0.002))
    assert np.array_equal(image.masks[0], MASK)


def test_images_beside_labels_have_one_rater(tmp_path: Path):
    label = np.where(MASK, 2, 1).astype(np.uint8)
    write_volume(tmp_path / "images" / "a.nii.gz", IMAGE)
    write_volume(tmp_path / "labels" / "a.nii.gz", label)
    write_volume(tmp_path / "images" / "b.nii.gz", IMAGE)
    write_volume(tmp_path / "labels" / "c.nii.gz", label)
    dataset = read_rated(tmp_path, value=2)
    assert np.array_equal(dataset.cases[0].read().masks[0], MASK)
    assert [(p.case, p.file, p.what) for p in check_rated(dataset)] == [
        ("c", "c.nii.gz", "is the label of no image"),
        ("b", "", "has no mask: nobody labelled it"),
    ]
    with pytest.raises(BadInputError, match="value 0 is no structure"):
        read_rated(tmp_path, value=0)


def test_a_folder_of_no_known_layout_is_told_what_is_known(tmp_path: Path):
    with pytest.raises(NotFoundError, match="no layout that is known here") as caught:
        read_rated(tmp_path)
    assert all(f"\n  {name}: " in str(caught.value) for name in LAYOUTS)
    assert {"rated", "qubiq", "refuge2_multirater", "lidc_kohl", "lidc_dicom", "nnunet_raw"} <= set(LAYOUTS)


def test_a_folder_of_two_layouts_wants_one_named(tmp_path: Path):
    write_rated(tmp_path, {"a": {"r1": MASK}}, IMAGE.astype(np.uint8))
    write_picture(tmp_path / "labels" / "a.png", MASK.astype(np.uint8))
    with pytest.raises(BadInputError, match="looks like rated and paired; say which by `kind`"):
        read_rated(tmp_path)
    assert read_rated(tmp_path, "paired").raters == ("reference",)
    assert read_rated(tmp_path, kind="rated").raters == ("r1",)


def test_what_was_asked_wrongly_is_told(tmp_path: Path):
    write_rated(tmp_path, {"a": {"r1": MASK}}, IMAGE.astype(np.uint8))
    with pytest.raises(NotFoundError, match="is not a folder"):
        read_rated(tmp_path / "nowhere")
    with pytest.raises(NotFoundError, match="no layout is called 'dicom'"):
        read_rated(tmp_path, "dicom")
    with pytest.raises(BadInputError, match="has no option 'task'; there are patient_pattern, same_raters"):
        read_rated(tmp_path, task=2)
    with pytest.raises(BadInputError, match="layout lidc_kohl has no option 'task'; there are none"):
        read_rated(tmp_path, "lidc_kohl", task=2)
