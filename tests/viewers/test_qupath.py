"""QuPath's extension, played by a Java program, reads slides with the real server from the first click to Train."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image
from shapely import Point, box

from overread.domain import PixelSize, Region
from overread.ensemble.calibrate import calibrate
from overread.ensemble.storage import read_description
from overread.ensemble.training import train_ensemble
from overread.imaging.dataset import read_dataset
from overread.imaging.slides.pyramid import write_pyramid
from overread.learning.central import protected_of, remember_central
from overread.learning.champions import ChampionStore
from support.pictures import BLUE, EXACT, PINK, TINY, write_tissue
from support.qupath_java import QuPath, RefusedError, open_qupath, square
from support.servers import app_copy, running_server

MODEL = "tissue"
SLIDES = ("one", "two", "three", "four & last")
SIZE = (1200, 900)
PATCH = (256, 192)
BLOB = Region(500, 400, 60, 60)
PATIENCE_S = 240


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An app with a small trained champion, and slides on pink tissue with a blue square each."""
    base = tmp_path_factory.mktemp("qupath")
    data = write_tissue(base / "central", 10)
    dataset = read_dataset(data)
    trained = train_ensemble(MODEL, dataset, base / "work", EXACT, TINY)
    calibrate(trained, dataset)
    app = app_copy(base / "app", "pathology")
    store = ChampionStore(app / "model")
    store.publish(MODEL, trained)
    held_out = protected_of(read_description(store.current(MODEL)))
    remember_central(store.recipe_folder(MODEL), data, dataset, held_out)
    (base / "studies").mkdir()
    for number, name in enumerate(SLIDES):
        write_pyramid(base / "studies" / f"{name}.tif", picture(number), PixelSize(1.0))
    return base


@pytest.fixture(scope="module")
def url(place: Path) -> Iterator[str]:
    """A running server that trains for few steps."""
    conf = [
        "train_iterations",
        "8",
        "threads",
        "1",
        "control_share",
        "0",
        "device",
        "cpu",
        "precision",
        "full",
    ]
    with running_server(place / "app", place / "studies", conf) as address:
        yield address


@pytest.fixture
def qupath(url: str, tmp_path: Path) -> Iterator[QuPath]:
    """QuPath with this server in its preferences."""
    with open_qupath(url, tmp_path) as opened:
        yield opened


def picture(number: int) -> np.ndarray:
    """Tissue with noise, and a blob."""
    rng = np.random.default_rng(number)
    found = np.empty((SIZE[1], SIZE[0], 3))
    found[:] = PINK
    found[BLOB.y : BLOB.bottom, BLOB.x : BLOB.right] = BLUE
    return (found + rng.normal(0, 8, found.shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.slow
def test_a_session_from_the_first_patch_to_training(qupath: QuPath, url: str, place: Path, tmp_path: Path):
    info = qupath.info()
    model = info["models"][MODEL]
    assert (model["dimension"], model["pathology"]) == (2, True)
    assert "Tumor" in model["labels"]
    assert not any(":" in name for name in model["labels"])
    assert "most_uncertain" in info["strategies"]
    assert None not in info["trainers"][MODEL]["config"].values()

    opened = qupath.next_slide("most_uncertain")
    assert opened["id"] in SLIDES
    assert Path(opened["path"]).is_file()

    served: dict[str, tuple[int, int, int, int]] = {}
    for slide in SLIDES:
        answer, served[slide] = qupath.next_patch("most_uncertain", slide, SIZE, PATCH)
        assert answer["id"] == slide
        assert served[slide][2:] == PATCH
    _, second = qupath.next_patch("random", SLIDES[0], SIZE, PATCH)
    assert not box(*corners(second)).intersection(box(*corners(served[SLIDES[0]]))).area

    around = (BLOB.x - 60, BLOB.y - 60, BLOB.width + 120, BLOB.height + 120)
    elsewhere = (around[0] + 20, around[1] + 20)
    drawn = qupath.annotate(MODEL, SLIDES[3], around, positive=[elsewhere], negative=[(525, 425)])
    tumour = [each for each in drawn if each.name == "Tumor"]
    assert any(each.shape.buffer(1).contains(Point(elsewhere)) for each in tumour)
    assert not any(each.shape.buffer(-1).contains(Point(525, 425)) for each in tumour)
    assert all(each.colour.startswith("#") for each in drawn)

    for slide in SLIDES[:3]:
        x, y, *_ = served[slide]
        accepted = qupath.submit_slide(slide, [("Tumor", square(x + 20, y + 20, 50))])["accepted"]
        assert [label["patch"] for label in accepted["labels"]] == [
            f"{slide}-patch-" + "_".join(map(str, served[slide]))
        ]
    seen = tmp_path / "patch.png"
    x, y, width, height = around
    Image.fromarray(picture(3)[y : y + height, x : x + width]).save(seen)
    objects = [("Tumor", square(BLOB.x, BLOB.y, BLOB.width))]
    accepted = qupath.submit_patch(SLIDES[3], around, seen, objects)["accepted"]
    assert len(accepted["labels"]) == 1
    assert requests.get(f"{url}/info/", timeout=60).json()["datastore"]["total"] == len(SLIDES)

    qupath.train(MODEL)
    until = time.monotonic() + PATIENCE_S
    while (task := requests.get(f"{url}/train/", timeout=60).json())["status"] == "RUNNING":
        assert time.monotonic() < until, task
        time.sleep(1)
    assert task["status"] == "DONE", task
    stats = requests.get(f"{url}/info/", timeout=60).json()["train_stats"][MODEL]
    assert stats["decision"]["reason"]


def test_broken_outlines_are_refused_in_words(qupath: QuPath):
    with pytest.raises(RefusedError, match="Mitosis") as unknown:
        qupath.submit_slide(SLIDES[0], [("Mitosis", square(300, 300, 50))])
    assert unknown.value.status == 400
    with pytest.raises(RefusedError) as outside:
        qupath.submit_slide(SLIDES[0], [("Tumor", square(9000, 9000, 50))])
    assert outside.value.status == 400


def test_a_picture_that_the_server_does_not_have_is_outlined_where_it_lies(qupath: QuPath, tmp_path: Path):
    shown = tmp_path / "elsewhere.png"
    Image.fromarray(picture(7)[300:600, 400:700]).save(shown)
    drawn = qupath.upload(MODEL, shown, positive=[(130, 130)])
    tumour = [each.shape for each in drawn if each.name == "Tumor"]
    assert any(shape.buffer(1).contains(Point(130, 130)) for shape in tumour)
    assert all(box(-1, -1, 301, 301).contains(shape) for shape in tumour)


def corners(rectangle: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom."""
    x, y, width, height = rectangle
    return x, y, x + width, y + height
