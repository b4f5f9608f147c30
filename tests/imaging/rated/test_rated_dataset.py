"""Cases that several people labelled: valid from birth, read when asked, divided by patient, faults in one table."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from overread.domain import BadInputError, Grid, NotFoundError
from overread.imaging.dataset import BrokenDatasetError, Problem
from overread.imaging.rated import RatedDataset, RatedImage, check_rated, ensure_rated_sound, read_rated
from support.rated import disc, shared, write_picture, write_rated, write_volume

SHAPE = (12, 8)
IMAGE = np.arange(96, dtype=np.uint8).reshape(SHAPE)
MASK = disc(SHAPE, (4, 3), 2)
EMPTY = np.zeros(SHAPE, bool)


def rated(**changes: object) -> RatedImage:
    """A valid image of two raters, but for what is changed."""
    parts: dict = {
        "image": np.zeros((1, 4, 3), np.float32),
        "masks": np.zeros((2, 4, 3), bool),
        "raters": ("a", "b"),
        "spacing_mm": (1, 2),
    }
    return RatedImage(**(parts | changes))


def test_an_image_knows_which_share_of_its_raters_marked_a_voxel():
    masks = np.zeros((2, 4, 3), bool)
    masks[0, 1, 1] = masks[:, 2, 2] = True
    share = rated(masks=masks).share
    assert (share[1, 1], share[2, 2], share[0, 0]) == (0.5, 1, 0)
    assert rated().spacing_mm == (1.0, 2.0)
    assert rated(spacing_mm=None).spacing_mm is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": np.zeros((4, 3), np.float32)}, r"\(channel, \*space\) in 2-D or 3-D, got \(4, 3\)"),
        ({"image": np.zeros((1, 4, 3))}, "finite float32, got float64"),
        ({"image": np.full((1, 4, 3), np.nan, np.float32)}, "NaN in it"),
        ({"raters": ("a", "a")}, "raters of different names"),
        ({"raters": ()}, "needs raters"),
        ({"masks": np.zeros((2, 3, 4), bool)}, r"masks of 2 raters over \(4, 3\) are bool"),
        ({"masks": np.zeros((2, 4, 3), np.uint8)}, "got uint8"),
        ({"spacing_mm": (1.0,)}, "2 axes need as many spacings"),
        ({"spacing_mm": (1.0, 0.0)}, "above 0"),
        (
            {"grid": Grid((3, 4), np.eye(4))},
            r"grid \(3, 4\) of a rated image does not fit its \(4, 3\) voxels",
        ),
    ],
)
def test_what_is_no_rated_image_is_refused(changes, message):
    with pytest.raises(BadInputError, match=message):
        rated(**changes)


def test_an_image_is_a_volume_where_it_lies():
    assert rated().volume.grid.spacing_mm == (1, 1)
    flat: dict = {"image": np.zeros((1, 4, 3, 2), np.float32), "masks": np.zeros((2, 4, 3, 2), bool)}
    there = Grid((4, 3, 2), np.diag([-1.0, 2.0, 3.0, 1.0]))
    assert rated(**flat, spacing_mm=(1, 2, 3), grid=there).volume.grid is there
    # Nobody wrote down where, or not even how large the voxels are.
    assert np.diag(rated(**flat, spacing_mm=(1, 2, 3)).volume.grid.affine).tolist() == [1, 2, 3, 1]
    assert np.diag(rated(**flat, spacing_mm=None).volume.grid.affine).tolist() == [1, 1, 1, 1]


def test_pictures_are_x_y_and_raters_are_in_order(tmp_path: Path):
    write_rated(tmp_path, {"a": {"r10": EMPTY, "r2": MASK}}, IMAGE)
    (case,) = read_rated(tmp_path).cases
    assert case.raters == ("r2", "r10")
    image = case.read()
    assert np.array_equal(image.image[0], IMAGE)
    assert image.image.dtype == np.float32
    assert np.array_equal(image.masks, [MASK, EMPTY])
    assert image.raters == ("r2", "r10")
    assert image.spacing_mm is None


def test_nothing_is_read_before_it_is_asked(tmp_path: Path):
    write_rated(tmp_path, {"a": {"r1": MASK}}, IMAGE)
    (tmp_path / "images" / "a.png").write_bytes(b"no picture")
    (case,) = read_rated(tmp_path).cases
    with pytest.raises(BadInputError, match=r"case a: .*a\.png cannot be read"):
        case.read()


def test_a_case_travels_to_another_process(tmp_path: Path):
    write_rated(tmp_path, {"a": {"r1": MASK}}, IMAGE)
    dataset = read_rated(tmp_path)
    again = pickle.loads(pickle.dumps(dataset))
    assert again == dataset
    assert np.array_equal(again.cases[0].read().masks[0], MASK)


def test_raters_may_be_missing_and_names_may_hold_underscores(tmp_path: Path):
    write_rated(tmp_path, {"a": {"r1": MASK}, "a_b": {"r1": MASK, "r2": MASK}}, IMAGE)
    dataset = read_rated(tmp_path)
    assert {case.id: case.raters for case in dataset.cases} == {"a": ("r1",), "a_b": ("r1", "r2")}
    assert dataset.raters == ("r1", "r2")
    assert check_rated(dataset) == []


def test_volumes_bring_their_spacing_and_one_slice_is_a_picture(tmp_path: Path):
    affine = np.diag([0.5, 0.5, 3.0, 1.0])
    ball = disc((6, 6, 4), (3, 3, 2), 2)
    for name, shape in (("deep", (6, 6, 4)), ("flat", (6, 6, 1))):
        write_volume(tmp_path / name / "images" / "a.nii.gz", np.ones(shape, np.float32), affine)
        write_volume(tmp_path / name / "masks" / "a_r1.nii.gz", ball[..., : shape[2]], affine)
    deep = read_rated(tmp_path / "deep").cases[0].read()
    assert (deep.image.shape, deep.spacing_mm) == ((1, 6, 6, 4), (0.5, 0.5, 3.0))
    assert np.array_equal(deep.masks[0], ball)
    flat = read_rated(tmp_path / "flat").cases[0].read()
    assert (flat.image.shape, flat.masks.shape, flat.spacing_mm) == ((1, 6, 6), (1, 6, 6), (0.5, 0.5))


def test_a_table_says_whose_the_cases_are(tmp_path: Path):
    write_rated(tmp_path, {name: {"r1": MASK} for name in "abcd"}, IMAGE)
    (tmp_path / "patients.csv").write_text("case,patient,subset\na,anna,Training\nb,anna,Training\nc,,Test\n")
    dataset = read_rated(tmp_path)
    assert [case.patient for case in dataset.cases] == ["anna", "anna", "c", "d"]
    assert dataset.patients == ("anna", "c", "d")
    assert dataset.subsets == ("Test", "Training")
    assert [case.id for case in dataset.of_subset("Training").cases] == ["a", "b"]
    with pytest.raises(NotFoundError, match="no part 'Validation'; there are Test, Training"):
        dataset.of_subset("Validation")


def test_a_pattern_finds_the_patient_in_the_name(tmp_path: Path):
    write_rated(tmp_path, {name: {"r1": MASK} for name in ("p1_s1", "p1_s2", "p2_s1")}, IMAGE)
    assert read_rated(tmp_path, patient_pattern=r"p\d+").patients == ("p1", "p2")
    assert read_rated(tmp_path, patient_pattern=r"p(\d+)").patients == ("1", "2")
    with pytest.raises(BadInputError, match="finds no patient in case p1_s1"):
        read_rated(tmp_path, patient_pattern="q")
    with pytest.raises(BadInputError, match="not a regular expression"):
        read_rated(tmp_path, patient_pattern="(")


def test_slices_of_lidc_have_their_patient_and_their_readers_are_nobody(tmp_path: Path):
    names = ("LIDC-IDRI-0002_s01", "LIDC-IDRI-0002_s02")
    write_rated(tmp_path, {name: {"reader1": MASK} for name in names}, IMAGE)
    dataset = read_rated(tmp_path)
    assert dataset.patients == ("LIDC-IDRI-0002",)
    assert not dataset.same_raters
    assert read_rated(tmp_path, same_raters=True).same_raters


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("name,patient\na,anna\n", "lacks a column 'case'"),
        ("case,patient\na,anna\na,berta\n", "gives case a to two patients"),
        (b"case,patient\na,\xff\xfe\n", "cannot be read"),
    ],
)
def test_a_broken_table_is_refused(tmp_path: Path, table, message):
    write_rated(tmp_path, {"a": {"r1": MASK}}, IMAGE)
    (tmp_path / "patients.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
    with pytest.raises(BadInputError, match=message):
        read_rated(tmp_path)


def test_two_images_of_one_name_are_refused(tmp_path: Path):
    write_rated(tmp_path, {"a": {"r1": MASK}}, IMAGE)
    write_picture(tmp_path / "images" / "a.tif", IMAGE)
    with pytest.raises(BadInputError, match=r"a\.png and a\.tif are both called a"):
        read_rated(tmp_path)


def test_all_that_is_wrong_comes_in_one_table(tmp_path: Path):
    write_rated(tmp_path, {name: {"r1": MASK} for name in "abcdefg"}, IMAGE)
    write_picture(tmp_path / "images" / "bare.png", IMAGE)
    write_picture(tmp_path / "masks" / "gone_r1.png", MASK)
    write_picture(tmp_path / "masks" / "b_r2.png", disc((8, 12), (3, 3), 2))
    write_picture(tmp_path / "masks" / "c_r2.png", IMAGE)
    (tmp_path / "masks" / "d_r1.png").write_bytes(b"no picture")
    write_picture(tmp_path / "images" / "e.png", np.zeros((*SHAPE, 3), np.uint8))
    colourful = np.zeros((*SHAPE, 3), np.uint8)
    colourful[2, 2] = (255, 0, 0)
    write_picture(tmp_path / "masks" / "f_r1.png", colourful)
    (tmp_path / "index.csv").write_text("id,patient\na,anna\nzoe,zoe\n")
    (tmp_path / "images" / "g.png").write_bytes(b"")
    dataset = read_rated(tmp_path)
    seen = []
    problems = check_rated(dataset, lambda done, of: seen.append((done, of)))
    assert seen[-1] == (8, 8)
    found = [(p.case, p.file, p.what) for p in problems]
    assert found[0] == ("gone_r1", "gone_r1.png", "is the mask of no image")
    assert found[1] == ("zoe", "index.csv", "is in the table, but not among the images")
    by_case = {case: (file, what) for case, file, what in found[2:]}
    assert by_case["b"] == (
        "b_r2.png",
        "lies on another grid than its image: shape (8, 12) instead of (12, 8)",
    )
    assert by_case["bare"] == ("", "has no mask: nobody labelled it")
    assert by_case["c"][0] == "c_r2.png"
    assert "holds 96 values (0, 1, 2, 3 …), a mask holds 0 and one other" in by_case["c"][1]
    assert "cannot be read" in by_case["d"][1]
    assert by_case["e"] == ("", "2-D with 3 channels, most cases are 2-D with 1 channel")
    assert "is a picture in colour" in by_case["f"][1]
    assert by_case["g"][0] == "g.png"
    assert set(by_case) == {"b", "bare", "c", "d", "e", "f", "g"}
    with pytest.raises(BrokenDatasetError, match=r"has 9 problems:\n  gone_r1 \| gone_r1\.png"):
        ensure_rated_sound(dataset)


def test_a_mask_that_vanished_and_a_mask_elsewhere_are_told(tmp_path: Path):
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    away = affine.copy()
    away[0, 3] = 10
    ball = disc((6, 6, 4), (3, 3, 2), 2)
    write_volume(tmp_path / "images" / "a.nii.gz", np.ones((6, 6, 4), np.float32), affine)
    write_volume(tmp_path / "masks" / "a_r1.nii.gz", ball, away)
    write_volume(tmp_path / "masks" / "a_r2.nii.gz", ball, affine)
    dataset = read_rated(tmp_path)
    (tmp_path / "masks" / "a_r2.nii.gz").unlink()
    problems = {problem.file: problem.what for problem in check_rated(dataset)}
    assert "a position that differs by 10 mm" in problems["a_r1.nii.gz"]
    assert "does not exist" in problems["a_r2.nii.gz"]
    (tmp_path / "images" / "a.nii.gz").unlink()
    assert Problem("a", "a.nii.gz", "image file is missing") in check_rated(dataset)
    with pytest.raises(BadInputError, match=r"case a: .*a\.nii\.gz image file is missing"):
        dataset.cases[0].read()


def test_a_sound_data_set_raises_nothing(tmp_path: Path):
    ensure_rated_sound(read_rated(write_rated(tmp_path, {"a": {"r1": MASK, "r2": EMPTY}}, IMAGE)))


def with_patients(tmp_path: Path, sizes: dict[str, int]) -> RatedDataset:
    cases = {f"{patient}_{i}": {"r1": MASK} for patient, size in sizes.items() for i in range(size)}
    return read_rated(write_rated(tmp_path, cases, IMAGE), patient_pattern="[a-z]+")


def test_folds_never_divide_a_patient_and_judge_every_case_once(tmp_path: Path):
    dataset = with_patients(tmp_path, {"a": 5, "b": 3, "c": 2, "d": 2, "e": 1, "f": 1, "g": 1})
    folds = dataset.folds(3, np.random.default_rng(0))
    judged = [case.id for fold in folds for case in fold.test]
    assert sorted(judged) == [case.id for case in dataset.cases]
    for fold in folds:
        assert {case.patient for case in fold.train}.isdisjoint({case.patient for case in fold.test})
        assert len(fold.train) + len(fold.test) == len(dataset.cases)
    assert [len(fold.test) for fold in folds] == [5, 5, 5]


def test_folds_follow_the_generator(tmp_path: Path):
    dataset = with_patients(tmp_path, dict.fromkeys("abcdefghij", 1))
    first, again, other = (dataset.folds(5, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_folds_need_patients(tmp_path: Path):
    dataset = with_patients(tmp_path, {"a": 5, "b": 3})
    for count in (1, 3):
        with pytest.raises(BadInputError, match=f"{count} folds of .* at most its 2 patients"):
            dataset.folds(count, np.random.default_rng(0))


def test_a_data_set_has_cases_of_different_names(tmp_path: Path):
    dataset = with_patients(tmp_path, {"a": 1})
    with pytest.raises(NotFoundError, match="dataset x holds no case"):
        RatedDataset("x", ())
    with pytest.raises(BadInputError, match="several cases of the name a_0"):
        RatedDataset("x", dataset.cases * 2)


def test_brain_growth_has_seven_raters_of_39_images():
    dataset = read_rated(shared("qubiq_brain_growth_7raters"))
    assert len(dataset.cases) == len(dataset.patients) == 39
    assert dataset.same_raters
    assert all(case.raters == tuple(f"r{k}" for k in range(1, 8)) for case in dataset.cases)
    assert check_rated(dataset) == []
    image = dataset.cases[0].read()
    assert (image.image.shape, image.masks.shape) == ((1, 128, 128), (7, 128, 128))


def test_lidc_slices_have_two_to_four_readers_of_three_patients():
    dataset = read_rated(shared("lidc_slices_readers"))
    assert (len(dataset.cases), len(dataset.patients)) == (40, 3)
    assert not dataset.same_raters
    assert sorted({len(case.raters) for case in dataset.cases}) == [2, 4]
    # The reader of the first slice of the sheet saw something, the others did not.
    slice_5 = next(case for case in dataset.cases if case.id == "LIDC-IDRI-0005_s01").read()
    assert slice_5.masks.sum(axis=(1, 2)).tolist() == [33, 0, 0, 0]


def test_lidc_nodules_have_one_rater_and_many_patients():
    dataset = read_rated(shared("lidc_nodule_ct3d"))
    assert (len(dataset.cases), len(dataset.patients)) == (994, 551)
    image = dataset.cases[0].read()
    assert image.raters == ("reference",)
    assert image.image.ndim == 4
    assert image.masks.any()
