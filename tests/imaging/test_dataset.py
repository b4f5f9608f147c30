"""A folder in nnU-Net's layout is read as it says it is, and everything wrong with it is named at once."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from overread.domain import BadInputError, NotFoundError
from overread.imaging.dataset import BrokenDatasetError, Problem, check_dataset, ensure_sound, read_dataset
from support.datasets import write_balls, write_colour_discs, write_description, write_nifti_case

SHAPE = (6, 5, 4)


def cube() -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[2:4, 2:4, 1:3] = 1
    return label


def image() -> np.ndarray:
    return np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)


def found(folder: Path) -> list[tuple[str, str]]:
    return [(problem.case, problem.file) for problem in check_dataset(read_dataset(folder))]


def what(folder: Path) -> str:
    (problem,) = check_dataset(read_dataset(folder))
    return problem.what


def test_names_classes_channels_and_files_in_order(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_nifti_case(tmp_path, name, [image(), image()], cube())
    write_description(
        tmp_path, 2, name="Cubes", channel_names={"1": "T2", "0": "T1"}, labels={"cube": 1, "background": 0}
    )
    dataset = read_dataset(tmp_path)
    assert (dataset.name, dataset.classes, dataset.channels) == (
        "Cubes",
        ("background", "cube"),
        ("T1", "T2"),
    )
    assert [case.id for case in dataset.cases] == ["a", "b"]
    assert [path.name for path in dataset.cases[0].channels] == ["a_0000.nii.gz", "a_0001.nii.gz"]
    assert dataset.cases[0].label == tmp_path / "labelsTr" / "a.nii.gz"


def test_a_sound_dataset_has_no_problem_and_tells_its_progress(tmp_path: Path) -> None:
    dataset = read_dataset(write_balls(tmp_path, 3))
    told: list[tuple[int, int]] = []
    assert check_dataset(dataset, lambda done, of: told.append((done, of))) == []
    assert told == [(1, 3), (2, 3), (3, 3)]
    ensure_sound(dataset)


def test_a_colour_picture_is_three_channels_in_one_file(tmp_path: Path) -> None:
    dataset = read_dataset(write_colour_discs(tmp_path, 2))
    assert dataset.channels == ("R", "G", "B")
    assert len(dataset.cases[0].channels) == 1
    assert check_dataset(dataset) == []


def test_a_grey_picture_where_colour_was_announced_is_named(tmp_path: Path) -> None:
    write_colour_discs(tmp_path, 1)
    path = tmp_path / "imagesTr" / "disc_00_0000.png"
    Image.open(path).convert("L").save(path)
    assert what(tmp_path) == "channels found: 1, named in dataset.json: 3 (R, G, B); is a file missing?"


def test_hidden_files_are_no_cases(tmp_path: Path) -> None:
    write_balls(tmp_path, 1)
    (tmp_path / "imagesTr" / "._ball_00_0000.nii.gz").write_bytes(b"finder")
    (tmp_path / "labelsTr" / "._ball_00.nii.gz").write_bytes(b"finder")
    assert found(tmp_path) == []


def test_a_label_on_another_grid_is_named(tmp_path: Path) -> None:
    write_nifti_case(tmp_path, "a", [image()], None)
    moved = np.eye(4)
    moved[0, 3] = 3
    nib.save(nib.Nifti1Image(cube(), moved), tmp_path / "labelsTr" / "a.nii.gz")
    write_description(tmp_path, 1)
    assert (
        what(tmp_path) == "lies on another grid than its image: a position that differs by 3 mm at a corner"
    )


def test_an_unknown_class_value_is_named(tmp_path: Path) -> None:
    write_nifti_case(tmp_path, "a", [image()], cube() * 7)
    write_description(tmp_path, 1)
    assert what(tmp_path) == "holds class values [7], dataset.json knows 0 to 1"


def test_nan_in_an_image_is_named(tmp_path: Path) -> None:
    broken = image()
    broken[0, 0, 0] = np.nan
    write_nifti_case(tmp_path, "a", [image(), broken], cube())
    write_description(tmp_path, 1, channel_names={"0": "T1", "1": "T2"})
    (problem,) = check_dataset(read_dataset(tmp_path))
    assert problem.file == "a_0001.nii.gz"
    assert "NaN" in problem.what


def test_an_image_with_a_time_axis_is_named(tmp_path: Path) -> None:
    write_nifti_case(tmp_path, "a", [np.stack([image()] * 3, axis=-1)], cube())
    write_description(tmp_path, 1)
    assert "is 4-D (6, 5, 4, 3), expected 3-D" in what(tmp_path)


def test_an_empty_label_is_named(tmp_path: Path) -> None:
    write_nifti_case(tmp_path, "a", [image()], cube() * 0)
    write_description(tmp_path, 1)
    assert what(tmp_path) == "is empty: every voxel is background"


def test_a_label_that_was_interpolated_is_named(tmp_path: Path) -> None:
    write_nifti_case(tmp_path, "a", [image()], None)
    nib.save(nib.Nifti1Image(cube() * np.float32(0.5), np.eye(4)), tmp_path / "labelsTr" / "a.nii.gz")
    write_description(tmp_path, 1)
    assert "was it interpolated?" in what(tmp_path)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    write_balls(tmp_path, 1)
    (tmp_path / "imagesTr" / "ball_00_0000.nii.gz").write_bytes(b"not a volume")
    (tmp_path / "labelsTr" / "ball_00.nii.gz").write_bytes(b"not a volume")
    assert found(tmp_path) == [("ball_00", "ball_00_0000.nii.gz"), ("ball_00", "ball_00.nii.gz")]


def test_missing_files_are_named(tmp_path: Path) -> None:
    write_nifti_case(tmp_path, "no_label", [image()], None)
    write_nifti_case(tmp_path, "no_image", [], cube())
    write_nifti_case(tmp_path, "no_first", [image(), image()], cube())
    (tmp_path / "imagesTr" / "no_first_0000.nii.gz").unlink()
    write_description(tmp_path, 3)
    assert [(p.case, p.file, p.what) for p in check_dataset(read_dataset(tmp_path))] == [
        ("no_first", "no_first_0000.nii.gz", "channel file is missing"),
        ("no_image", "no_image_0000.nii.gz", "channel file is missing"),
        ("no_label", "no_label.nii.gz", "label file is missing"),
    ]


def test_another_number_of_channels_is_named(tmp_path: Path) -> None:
    write_nifti_case(tmp_path, "a", [image()], cube())
    write_description(tmp_path, 1, channel_names={"0": "T1", "1": "T2"})
    assert what(tmp_path) == "channels found: 1, named in dataset.json: 2 (T1, T2); is a file missing?"


def test_a_wrong_number_of_cases_is_named(tmp_path: Path) -> None:
    write_balls(tmp_path, 2)
    write_description(tmp_path, 5)
    assert check_dataset(read_dataset(tmp_path)) == [
        Problem("", "dataset.json", "numTraining is 5, but there are 2 cases")
    ]


def test_pictures_among_volumes_are_named(tmp_path: Path) -> None:
    # One ending reads as both only in TIFF; a data set put together by hand shows the same.
    write_colour_discs(tmp_path, 3)
    dataset = read_dataset(tmp_path)
    volumes = write_balls(tmp_path / "volumes", 1)
    case = read_dataset(volumes).cases[0]
    mixed = type(dataset)(dataset.name, dataset.classes, dataset.channels, (*dataset.cases, case), 4)
    problems = check_dataset(mixed)
    assert Problem("ball_00", "", "is 3-D, most cases are 2-D") in problems


def test_all_problems_are_raised_at_once(tmp_path: Path) -> None:
    write_nifti_case(tmp_path, "empty", [image()], cube() * 0)
    write_nifti_case(tmp_path, "odd", [image()], cube() * 3)
    write_nifti_case(tmp_path, "sound", [image()], cube())
    write_description(tmp_path, 3)
    with pytest.raises(BrokenDatasetError, match="has 2 problems") as caught:
        ensure_sound(read_dataset(tmp_path))
    assert [problem.case for problem in caught.value.problems] == ["empty", "odd"]
    assert "empty.nii.gz | is empty" in str(caught.value)
    assert isinstance(caught.value, BadInputError)


def test_a_folder_without_description_or_cases_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nnU-Net v2's raw layout"):
        read_dataset(tmp_path)
    write_description(tmp_path, 0)
    with pytest.raises(NotFoundError, match=r"nothing in imagesTr or labelsTr ends in \.nii\.gz"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None, "file_ending": None}, "lacks 'labels', 'file_ending'"),
        ({"numTraining": "many"}, "numTraining is 'many', expected a whole number"),
        ({"file_ending": "nii"}, r"file_ending is 'nii', expected something like '\.nii\.gz'"),
        ({"labels": ["background", "ball"]}, "labels is a list, expected names with their values"),
        ({"labels": {"background": 0, "whole": [1, 2]}}, "label 'whole' is a region made of several values"),
        ({"labels": {"background": 0, "ball": 1, "ignore": 2}}, "an ignore label is not supported"),
        (
            {"labels": {"background": 0, "ball": "one"}},
            "label 'ball' has value 'one', expected a whole number",
        ),
        (
            {"labels": {"background": 0, "ball": 2}},
            r"label values are \[0, 2\], expected 0 \(background\), 1",
        ),
        ({"labels": {"background": 0, "ball": 1, "cube": 1}}, "labels 'ball' and 'cube' share value 1"),
        ({"channel_names": {"1": "MR"}}, "channel_names is {'1': 'MR'}"),
    ],
)
def test_a_broken_description_is_refused_with_the_reason(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    write_balls(tmp_path, 1)
    write_description(tmp_path, 1, **changes)
    with pytest.raises(BadInputError, match=message):
        read_dataset(tmp_path)


@pytest.mark.parametrize(("text", "message"), [("{", "is not valid JSON"), (json.dumps([1]), "holds a list")])
def test_a_description_that_is_no_object_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(BadInputError, match=message):
        read_dataset(tmp_path)


def test_the_pixel_size_of_pictures_that_were_cut_from_slides_is_known(tmp_path: Path) -> None:
    write_colour_discs(tmp_path, 1)
    assert read_dataset(tmp_path).um_per_px is None
    description = json.loads((tmp_path / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps({**description, "um_per_px": 2}))
    assert read_dataset(tmp_path).um_per_px == 2.0


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("1.0", "um_per_px is '1.0', expected micrometres per pixel such as 1.0"),
        (0, "um_per_px: a pixel of 0.0 µm cannot be meant"),
    ],
)
def test_a_pixel_size_that_cannot_be_meant_is_refused(tmp_path: Path, value: object, message: str) -> None:
    write_colour_discs(tmp_path, 1)
    description = json.loads((tmp_path / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps({**description, "um_per_px": value}))
    with pytest.raises(BadInputError, match=message):
        read_dataset(tmp_path)


def test_slides_that_pictures_were_cut_from_are_found_from_the_data_set(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write_colour_discs(folder, 1)
    assert read_dataset(folder).slides == {}
    description = json.loads((folder / "dataset.json").read_text())
    here = {"case": "../slides/a.tif", "other": str(tmp_path / "b.tif")}
    (folder / "dataset.json").write_text(json.dumps({**description, "slides": here}))
    expected = {"case": tmp_path / "slides" / "a.tif", "other": tmp_path / "b.tif"}
    assert read_dataset(folder).slides == expected
    (folder / "dataset.json").write_text(json.dumps({**description, "slides": ["a.tif"]}))
    with pytest.raises(BadInputError, match=r"slides is \['a.tif'\], expected such as"):
        read_dataset(folder)


def test_patients_csv_tells_patients_and_domains(tmp_path: Path) -> None:
    folder = write_balls(tmp_path, 3)
    (folder / "patients.csv").write_text(
        "case,patient,domain\nball_00,anna,east\nball_01,ben,west\nball_02,anna,east\n"
    )
    dataset = read_dataset(folder)
    assert [dataset.patient_of(case.id) for case in dataset.cases] == ["anna", "ben", "anna"]
    assert [case.id for case in dataset.of_domain("east")] == ["ball_00", "ball_02"]
    assert check_dataset(dataset) == []
    with pytest.raises(NotFoundError, match="no domain 'north'; there are east, west"):
        dataset.of_domain("north")


def test_a_row_of_a_slide_tells_the_domain_of_its_patches(tmp_path: Path) -> None:
    for name in ("slide-patch-0_0_9_9", "slide-patch-9_0_9_9"):
        write_nifti_case(tmp_path, name, [image()], cube())
    write_description(tmp_path, 2)
    rows = "case,patient,centre\nslide,anna,east\nslide-patch-9_0_9_9,anna,west\n"
    (tmp_path / "patients.csv").write_text(rows)
    dataset = read_dataset(tmp_path)
    assert dict(dataset.domains) == {"slide-patch-0_0_9_9": "east", "slide-patch-9_0_9_9": "west"}
    assert dataset.patient_of("slide-patch-0_0_9_9") == "anna"
    assert check_dataset(dataset) == []


def test_without_a_table_no_domain_is_known(tmp_path: Path) -> None:
    dataset = read_dataset(write_balls(tmp_path, 2))
    assert not dataset.domains
    with pytest.raises(NotFoundError, match=r"there are none: is there a patients\.csv"):
        dataset.of_domain("east")


def test_rows_without_a_case_and_cases_without_a_domain_are_problems(tmp_path: Path) -> None:
    folder = write_balls(tmp_path, 2)
    (folder / "patients.csv").write_text("case,patient,centre\nball_00,anna,east\nball_07,ben,west\n")
    problems = check_dataset(read_dataset(folder))
    assert [(problem.case, problem.file, problem.what) for problem in problems] == [
        ("ball_07", "patients.csv", "is in the table, but not among the images"),
        ("ball_01", "patients.csv", "has no centre, and other cases have one"),
    ]


def test_two_stories_about_a_patient_are_refused(tmp_path: Path) -> None:
    folder = write_balls(tmp_path, 1)
    (folder / "patients.csv").write_text("case,patient\nball_00,anna\n")
    write_description(folder, 1, patients={"ball_00": "anna"})
    assert read_dataset(folder).patient_of("ball_00") == "anna"
    write_description(folder, 1, patients={"ball_00": "ben"})
    with pytest.raises(
        BadInputError, match=r"ball_00 to patient ben in dataset.json and to anna in patients.csv"
    ):
        read_dataset(folder)
