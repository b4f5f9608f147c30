"""Slides are written with their truth for QuPath, and patches of them as a data set that can be trained on."""

import csv
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import openslide
import pytest
from PIL import Image
from shapely.geometry import box, shape

from overread.domain.slides import PatchLocation
from overread.imaging.dataset import read_dataset
from overread.imaging.slides.annotations import read_asap
from overread.imaging.slides.normalised import centre_of
from overread.studies.slides.dataset import make_demo, make_slides
from overread.studies.slides.patches import cut_patches
from overread.studies.slides.picture import draw_centres
from overread.studies.slides.writer import SlideTruth, make_slide

SCRIPT = Path(__file__).parents[3] / "sample-data" / "make_slides.py"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    make_demo(folder, um_per_px=1.0, patch_px=128, per_slide=12, size_px=1600)
    return folder


def test_slides_lie_where_the_demo_wants_them(demo: Path) -> None:
    central = [f"central_A_{n:02d}" for n in (1, 2, 3, 4)]
    served = ["local_B_01", "local_C_02", "local_D_03", "local_E_04"]
    assert sorted(path.stem for path in (demo / "central").glob("*.tif")) == central
    assert sorted(path.stem for path in (demo / "studies").glob("*.tif")) == served
    assert sorted(path.stem for path in (demo / "truth").glob("*.geojson")) == sorted(central + served)
    assert [centre_of(path) for path in sorted((demo / "central").glob("*.tif"))] == ["A"] * 4
    with (demo / "studies" / "patients.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == served
    assert [row["centre"] for row in rows] == ["B", "C", "D", "E"]
    assert len({row["patient"] for row in rows}) == 4


def test_truth_is_geojson_and_asap_of_the_class_that_qupath_has(demo: Path) -> None:
    features = json.loads((demo / "truth" / "central_A_01.geojson").read_text())["features"]
    assert {feature["properties"]["classification"]["name"] for feature in features} == {"Tumor"}
    area = sum(shape(feature["geometry"]).area for feature in features)
    submitted = read_asap((demo / "truth" / "central_A_01.xml").read_bytes())
    assert sum(each.polygon.area for each in submitted.annotations) == pytest.approx(area, rel=1e-3)


def test_patches_are_a_data_set_whose_slides_are_its_patients(demo: Path) -> None:
    dataset = read_dataset(demo / "patches")
    assert dataset.classes == ("background", "Tumor")
    assert dataset.channels == ("R", "G", "B")
    assert len(dataset.cases) == dataset.announced
    assert json.loads((demo / "patches" / "dataset.json").read_text())["um_per_px"] == 1.0
    assert {dataset.patient_of(case.id) for case in dataset.cases} == {
        f"central_A_{n:02d}" for n in (1, 2, 3, 4)
    }
    assert {path.relative_to(demo).as_posix() for path in dataset.slides.values()} == {
        f"central/central_A_{n:02d}.tif" for n in (1, 2, 3, 4)
    }
    with_tumour = 0
    for case in dataset.cases:
        location = PatchLocation.parse(case.id)
        assert location is not None
        assert location.slide == dataset.patient_of(case.id) == dataset.slides[case.id].stem
        assert (location.region.width, location.region.height) == (256, 256)
        label = np.asarray(Image.open(case.label))
        assert label.shape == (128, 128)
        assert set(np.unique(label)) <= {0, 1}
        with_tumour += label.any()
    assert 0.4 < with_tumour / len(dataset.cases) < 0.9


def test_a_patch_and_its_label_are_cut_from_the_same_place(tmp_path: Path) -> None:
    path = tmp_path / "slide.tif"
    make_slide(path, centre="A", size_px=(1600, 1200), seed=2)
    # Not the tumour, but a part of the slide that is neither square nor in its middle.
    truth = SlideTruth((box(500, 300, 900, 450),))
    cut_patches(
        [(path, truth)],
        tmp_path / "set",
        um_per_px=1.0,
        patch_px=200,
        per_slide=6,
        rng=np.random.default_rng(0),
    )
    seen = 0
    with openslide.OpenSlide(path) as slide:
        for file in sorted((tmp_path / "set" / "labelsTr").iterdir()):
            location = PatchLocation.parse(file.stem)
            assert location is not None
            x, y, width, height = location.region.bbox
            region = (
                slide.read_region((x, y), 0, (width, height))
                .convert("RGB")
                .resize((200, 200), Image.Resampling.BOX)
            )
            picture = Image.open(tmp_path / "set" / "imagesTr" / f"{file.stem}_0000.png")
            assert np.abs(np.asarray(region, float) - np.asarray(picture, float)).mean() < 3
            label = np.asarray(Image.open(file)) > 0
            rows, columns = (np.arange(200) + 0.5) * 2 + y, (np.arange(200) + 0.5) * 2 + x
            expected = ((rows > 300) & (rows < 450))[:, None] & ((columns > 500) & (columns < 900))
            # A pixel whose middle lies on the border may belong to either side.
            assert (label != expected).mean() < 0.01
            seen += label.any()
    assert seen >= 1


def test_slides_without_tumour_are_served_and_can_be_cut(tmp_path: Path) -> None:
    known = make_slides(tmp_path, central=0, served=5, size_px=1400)
    assert known == {}
    counts = [
        len(json.loads((tmp_path / "truth" / f"local_{name}.geojson").read_text())["features"])
        for name in ("B_01", "C_02", "D_03", "E_04", "B_05")
    ]
    assert min(counts[:4]) > 0
    assert counts[4] == 0
    path = tmp_path / "studies" / "local_B_05.tif"
    cut_patches(
        [(path, SlideTruth(()))],
        tmp_path / "set",
        um_per_px=1,
        patch_px=64,
        per_slide=4,
        rng=np.random.default_rng(0),
    )
    labels = [np.asarray(Image.open(file)) for file in (tmp_path / "set" / "labelsTr").iterdir()]
    assert len(labels) == 4
    assert not np.any(labels)


def test_the_same_seed_gives_the_same_patches(demo: Path, tmp_path: Path) -> None:
    make_demo(tmp_path, um_per_px=1.0, patch_px=128, per_slide=12, size_px=1600)
    for file in (demo / "patches").rglob("*.*"):
        assert (tmp_path / "patches" / file.relative_to(demo / "patches")).read_bytes() == file.read_bytes()


def test_the_script_writes_slides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--out", str(tmp_path), "--central", "1", "--served", "1", "--size", "400"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *options])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert [path.name for path in (tmp_path / "central").glob("*.tif")] == ["central_A_01.tif"]


def test_the_picture_shows_five_centres_twice(tmp_path: Path) -> None:
    draw_centres(tmp_path / "centres.png", size_px=800, seed=2)
    with Image.open(tmp_path / "centres.png") as picture:
        assert picture.size == (5 * 320 + 4 * 6, 2 * 320 + 6)
        panels = np.asarray(picture.convert("RGB"), float)
    colours = [panels[:320, left : left + 320].mean(axis=(0, 1)) for left in range(0, 5 * 326, 326)]
    assert np.ptp(colours, axis=0).max() > 5
