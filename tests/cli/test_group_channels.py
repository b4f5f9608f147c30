"""Files become cases as nnU-Net numbers their channels; what is ambiguous is refused."""

from pathlib import Path

import pytest

from overread.cli.predict import group_channels
from overread.domain import BadInputError, NotFoundError


@pytest.fixture
def touch(tmp_path: Path):
    def make(name: str) -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        return file

    return make


def test_numbered_files_are_channels_of_one_case_in_order(touch):
    second, first = touch("brain_0001.nii.gz"), touch("brain_0000.nii.gz")
    assert group_channels([second, first]) == {"brain": [first, second]}


def test_a_file_without_number_is_a_case(touch):
    one, two = touch("one.nrrd"), touch("two.NII.GZ")
    assert group_channels([one, two]) == {"one": [one], "two": [two]}


def test_a_folder_stands_for_the_images_in_it(touch, tmp_path: Path):
    one, _ = touch("scans/one_0000.nii.gz"), touch("scans/notes.txt")
    assert group_channels([tmp_path / "scans"]) == {"one": [one]}


def test_a_folder_without_images_is_refused(touch, tmp_path: Path):
    touch("scans/notes.txt")
    with pytest.raises(NotFoundError, match=r"scans holds no image; known are \.nii\.gz"):
        group_channels([tmp_path / "scans"])


def test_a_channel_that_is_missing_is_named(touch):
    with pytest.raises(BadInputError, match="case 'brain' has the channels _0000, _0002; they must count up"):
        group_channels([touch("brain_0000.nii.gz"), touch("brain_0002.nii.gz")])


def test_two_files_that_would_be_written_alike_are_refused(touch):
    with pytest.raises(BadInputError, match="would both be written as case 'brain'"):
        group_channels([touch("a/brain.nii.gz"), touch("b/brain.nrrd")])
