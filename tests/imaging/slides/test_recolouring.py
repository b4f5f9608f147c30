"""Claim: pictures of slides are brought to one laboratory's colours, or refused in words; the first ones stay."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from overread.cli import app
from overread.domain import BadInputError
from overread.domain.slides import PixelSize
from overread.imaging.dataset import read_dataset
from overread.imaging.slides.colours import mean_moments
from overread.imaging.slides.pyramid import write_pyramid
from overread.imaging.slides.recolouring import recolour_dataset
from support.pictures import tissue

# What two laboratories do to red, green and blue.
TINTS = {"slide a": (1.0, 1.0, 1.0), "slide b": (0.6, 0.7, 0.9)}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Three pictures of each of two slides; where the first lies is said."""
    folder, rng = tmp_path / "data", np.random.default_rng(0)
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    patients, cut = {}, []
    for slide, tint in TINTS.items():
        for number in range(3):
            picture, label = tissue(rng, tint=tint)
            name = f"{slide[-1]}{number}"
            Image.fromarray(picture).save(folder / "imagesTr" / f"{name}_0000.png")
            Image.fromarray(label.astype(np.uint8)).save(folder / "labelsTr" / f"{name}.png")
            patients[name] = slide
            if slide == "slide a":
                cut.append(picture)
    write_pyramid(tmp_path / "a.tif", np.concatenate(cut), PixelSize(1.0))
    description = {
        "name": "two",
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": {"background": 0, "blob": 1},
        "numTraining": 6,
        "file_ending": ".png",
        "um_per_px": 1.0,
        "patients": patients,
        "slides": {f"a{number}": "../a.tif" for number in range(3)},
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def pictures(folder: Path, slide: str) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in sorted((folder / "imagesTr").glob(f"{slide}*.png"))]


def test_both_slides_look_alike_labels_stay_and_the_colours_are_said(dataset: Path, tmp_path: Path):
    before = {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file()}
    told: list[tuple[int, int]] = []
    made = recolour_dataset(dataset, tmp_path / "out" / "set", heard=lambda *now: told.append(now)).dataset
    assert told == [(number, 6) for number in range(1, 7)]
    assert {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file()} == before
    assert made.colours is not None
    assert made == read_dataset(tmp_path / "out" / "set")
    assert made.slides["a0"].resolve() == (tmp_path / "a.tif").resolve()
    out = tmp_path / "out" / "set"
    apart = [
        np.linalg.norm(mean_moments(pictures(folder, "a")) - mean_moments(pictures(folder, "b")))
        for folder in (dataset, out)
    ]
    assert apart[1] < apart[0] / 4
    np.testing.assert_allclose(mean_moments(pictures(tmp_path / "out" / "set", "b")), made.colours, atol=0.05)
    for name in ("a0.png", "b2.png"):
        assert (tmp_path / "out" / "set" / "labelsTr" / name).read_bytes() == (
            dataset / "labelsTr" / name
        ).read_bytes()


def test_the_command_does_it(dataset: Path, tmp_path: Path):
    command = CliRunner().invoke(app, ["recolour", str(dataset), str(tmp_path / "out"), "--json"])
    assert command.exit_code == 0, command.output
    told = json.loads(command.stdout)
    assert told["pictures"] == 6
    assert told["centres"] == []
    assert read_dataset(tmp_path / "out").colours == tuple(tuple(row) for row in told["colours"])
    again = CliRunner().invoke(app, ["recolour", str(dataset), str(tmp_path / "out")])
    assert again.exit_code == 1
    assert "exists already" in again.stderr


def test_pictures_of_one_centre_go_through_one_map(dataset: Path, tmp_path: Path):
    described = json.loads((dataset / "dataset.json").read_text())
    (dataset / "dataset.json").write_text(
        json.dumps({key: value for key, value in described.items() if key not in ("slides", "patients")})
    )
    rows = "".join(f"{slide}{number},{slide}{number},{{}}\n" for slide in "ab" for number in range(3))
    (dataset / "patients.csv").write_text("case,patient,centre\n" + rows.replace("{}", "east"))
    made = recolour_dataset(dataset, tmp_path / "one").dataset
    # The mean over all is the reference, so nothing moves.
    for slide in "ab":
        for now, before in zip(pictures(tmp_path / "one", slide), pictures(dataset, slide), strict=True):
            np.testing.assert_allclose(now.astype(int), before, atol=1)
    (dataset / "patients.csv").write_text("case,patient,centre\n" + rows.replace("{}", ""))
    alone = recolour_dataset(dataset, tmp_path / "two").dataset
    assert made.colours is not None
    assert alone.colours is not None
    np.testing.assert_allclose(made.colours, alone.colours)
    apart = pictures(tmp_path / "two", "a")[0].astype(int) - pictures(dataset, "a")[0]
    assert np.abs(apart).max() > 10


def test_the_command_says_which_centres_it_measured_and_what_has_none(dataset: Path, tmp_path: Path):
    rows = "".join(f"a{number},slide a,east\n" for number in range(3))
    (dataset / "patients.csv").write_text("case,patient,centre\n" + rows)
    command = CliRunner().invoke(app, ["recolour", str(dataset), str(tmp_path / "out")])
    assert command.exit_code == 0, command.output
    assert "Measured on the slides of east" in command.stdout
    assert "3 pictures are of no centre that patients.csv names" in command.stdout
    # The slide's own folder may say it as well.
    (dataset / "patients.csv").unlink()
    (tmp_path / "patients.csv").write_text("case,patient,centre\na,slide a,west\n")
    made = recolour_dataset(dataset, tmp_path / "again")
    assert (made.centres, made.alone) == (("west",), 3)


def changed(dataset: Path, **values: object) -> Path:
    path = dataset / "dataset.json"
    described = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in described.items() if value is not None}))
    return dataset


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"um_per_px": None}, "no um_per_px is said"),
        ({"colours": np.eye(3).tolist()}, "was recoloured already"),
        ({"colours": [[1, 2], [3, 4]]}, "expected the 3 x 3 second moments"),
        ({"colours": "blue"}, "expected the 3 x 3 second moments"),
        ({"colours": (-np.eye(3)).tolist()}, "expected the 3 x 3 second moments"),
        ({"colours": np.eye(3).tolist(), "um_per_px": None}, "says colours and no um_per_px"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_nothing_is_written(
    dataset: Path, tmp_path: Path, values: dict[str, object], words: str
):
    with pytest.raises(BadInputError, match=words):
        recolour_dataset(changed(dataset, **values), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tif", "data"]


def test_grey_pictures_and_folders_in_the_way_are_refused(dataset: Path, tmp_path: Path):
    (tmp_path / "there").mkdir()
    with pytest.raises(BadInputError, match="there exists already"):
        recolour_dataset(dataset, tmp_path / "there")
    Image.new("L", (40, 24)).save(dataset / "imagesTr" / "b0_0000.png")
    with pytest.raises(BadInputError, match=r"b0_0000.png has 1 channels, expected red, green and blue"):
        recolour_dataset(dataset, tmp_path / "out")
    assert not (tmp_path / "out").exists()
