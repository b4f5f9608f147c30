"""Labels of patches are learnt from with the pixels of the slide that they were drawn on, whichever way round."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from PIL import Image

from overread.domain import BadInputError, Grid
from overread.domain.labels import IGNORE
from overread.domain.slides import PatchLocation, PixelSize, Region
from overread.ensemble.calibrate import calibrate
from overread.ensemble.storage import load_ensemble, read_description
from overread.ensemble.training import train_ensemble
from overread.imaging.dataset import read_dataset
from overread.imaging.volumes import read_volume
from overread.learning.accepted import AcceptedLabels, Submission
from overread.learning.central import protected_of, remember_central
from overread.learning.champions import ChampionStore
from overread.learning.patches import PatchImages, label_size
from overread.learning.process import PROGRESS, Request, images_for, train
from overread.state.database import Database
from overread.state.labels import labels as label_rows
from support.interruptions import finished_and_begun
from support.pictures import CLASSES, EXACT, HEIGHT, TINY, WIDTH, tissue, write_tissue

RECIPE = "tissue"
ROOT = Path(__file__).parents[2]


def patch(slide: str = "slide", x: int = 8, y: int = 4, width: int = 16, height: int = 8) -> PatchLocation:
    return PatchLocation(slide, Region(x, y, width, height))


def write_slide(folder: Path, name: str = "slide.png") -> np.ndarray:
    """64 columns and 32 rows; red tells the column, green the row."""
    rows, columns = np.indices((32, 64))
    picture = np.stack([4 * columns, 8 * rows, np.full((32, 64), 90)], axis=-1).astype(np.uint8)
    Image.fromarray(picture).save(folder / name)
    return picture


def test_a_patch_has_as_many_pixels_as_its_edge_in_micrometres_asks_for() -> None:
    assert label_size(patch(width=512, height=256), PixelSize(0.5), 1.0) == (256, 128)
    assert label_size(patch(width=512, height=256), PixelSize(0.25), 1.0) == (128, 64)
    assert label_size(patch(width=100, height=99), PixelSize(0.5), 0.5) == (100, 99)
    assert label_size(patch(width=1, height=1), PixelSize(0.25), 2.0) == (1, 1)


def test_a_patch_is_the_pixels_of_its_place(tmp_path: Path) -> None:
    picture = write_slide(tmp_path)
    images = PatchImages(tmp_path, tmp_path / "cache", 0.5, PixelSize(0.5))
    path = images.image_of(patch().name)
    assert path is not None
    assert path.parent == tmp_path / "cache" / "0.5um" / "slide"
    np.testing.assert_array_equal(np.asarray(Image.open(path)), picture[4:12, 8:24])
    # As data sets are read: x first.
    assert read_volume([path]).voxels.shape == (3, 16, 8)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_patch_is_cut_at_the_pixel_size_of_the_model(tmp_path: Path) -> None:
    write_slide(tmp_path)
    for assumed, size in ((0.5, (8, 4)), (0.25, (4, 2))):
        images = PatchImages(tmp_path, tmp_path / "cache", 1.0, PixelSize(assumed))
        path = images.image_of(patch().name)
        assert path is not None
        assert Image.open(path).size == size == label_size(patch(), PixelSize(assumed), 1.0)


def test_a_patch_is_cut_again_when_its_slide_changed_or_the_picture_broke_and_only_then(
    tmp_path: Path,
) -> None:
    write_slide(tmp_path)
    images = PatchImages(tmp_path, tmp_path / "cache", 0.5)
    path = images.image_of(patch().name)
    assert path is not None
    first = path.stat().st_mtime_ns
    assert images.image_of(patch().name) == path
    assert path.stat().st_mtime_ns == first
    Image.new("RGB", (64, 32), (1, 2, 3)).save(tmp_path / "slide.png")
    os.utime(tmp_path / "slide.png", (1e9, 1e9))
    assert images.image_of(patch().name) == path
    assert np.asarray(Image.open(path))[0, 0].tolist() == [1, 2, 3]
    path.write_bytes(b"half a picture")
    assert images.image_of(patch().name) == path
    assert np.asarray(Image.open(path))[0, 0].tolist() == [1, 2, 3]


def test_other_cases_and_patches_of_slides_that_are_gone_or_broken_have_no_picture(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_slide(tmp_path)
    images = PatchImages(tmp_path, tmp_path / "cache", 1.0)
    assert images.image_of("slide") is None
    assert images.image_of(patch("elsewhere").name) is None
    (tmp_path / "torn.png").write_bytes(b"\x89PNG but no picture")
    assert images.image_of(patch("torn").name) is None
    outside = patch(x=10_000)
    assert images.image_of(outside.name) is None
    assert f"Patch {outside.name} cannot be cut: it lies outside" in caplog.text


def test_a_model_of_volumes_takes_the_studies_themselves(tmp_path: Path) -> None:
    write_slide(tmp_path, "picture.png")
    request = Request(RECIPE, tmp_path, tmp_path, "", assumed_um_per_px=0.25)
    assert images_for(None, request, tmp_path)("picture") == tmp_path / "picture.png"
    assert images_for(1.0, request, tmp_path / "work")("picture") is None
    path = images_for(1.0, request, tmp_path / "work")(patch("picture").name)
    assert path is not None
    assert Image.open(path).size == (4, 2)


def test_a_patch_is_in_the_colours_that_the_model_knows_and_cut_again_when_those_change(
    tmp_path: Path,
) -> None:
    write_slide(tmp_path)
    request = Request(RECIPE, tmp_path, tmp_path, "", assumed_um_per_px=0.5)
    plain = images_for(0.5, request, tmp_path / "work")(patch("slide").name)
    assert plain is not None
    before = np.asarray(Image.open(plain)).astype(int)
    seen = []
    for strength in (1.0, 2.0):
        reference = strength * np.eye(3) + 0.1
        path = images_for(0.5, request, tmp_path / "work", reference)(patch("slide").name)
        assert path == plain, "one picture a patch is kept"
        seen.append(np.asarray(Image.open(path)).astype(int))
    assert np.abs(seen[0] - before).mean() > 5
    # Twice the second moments are denser stains.
    assert seen[1].mean() < seen[0].mean() - 5
    again = images_for(0.5, request, tmp_path / "work")(patch("slide").name)
    assert again is not None
    np.testing.assert_array_equal(np.asarray(Image.open(again)), before)


def test_a_pixel_size_that_cannot_be_meant_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="a pixel of 0"):
        images_for(1.0, Request(RECIPE, tmp_path, tmp_path, "", assumed_um_per_px=0), tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A champion store whose members know tissue at 1 µm per pixel."""
    folder = tmp_path_factory.mktemp("trained")
    dataset = read_dataset(write_tissue(folder / "data", 6))
    ensemble = train_ensemble(RECIPE, dataset, folder / "work", EXACT, {**TINY, "norm": "batch"})
    calibrate(ensemble, dataset)
    store = ChampionStore(folder / "model")
    store.publish(RECIPE, ensemble)
    remember_central(
        store.recipe_folder(RECIPE), folder / "data", dataset, protected_of(read_description(ensemble))
    )
    return folder / "model"


def write_local(studies: Path, accepted: AcceptedLabels) -> dict[str, np.ndarray]:
    """Four slides at 0.5 µm, a label of most of each at 1 µm. What was accepted, (x, y)."""
    rng = np.random.default_rng(7)
    labels = {}
    for index in range(4):
        small, label = tissue(rng, tint=(0.8, 0.85, 1))
        slide = np.full((2 * HEIGHT + 20, 2 * WIDTH + 30, 3), 255, np.uint8)
        slide[20:, 30:] = small.repeat(2, axis=0).repeat(2, axis=1)
        Image.fromarray(slide).save(studies / f"slide_{index}.png")
        label[:, :6] = IGNORE
        location = PatchLocation(f"slide_{index}", Region(30, 20, 2 * WIDTH, 2 * HEIGHT))
        submission = Submission(
            case_id=location.name, patient=f"slide_{index}", rater="ada", recipe=RECIPE, classes=CLASSES
        )
        accepted.add(label.T, Grid(label.T.shape, np.eye(4)), submission, 1000.0 + index)
        labels[location.name] = label.T
    return labels


def test_the_loop_learns_from_patches_of_slides_aligned_with_their_labels(
    trained: Path, tmp_path: Path
) -> None:
    studies, work = tmp_path / "studies", tmp_path / "training" / RECIPE
    studies.mkdir()
    database = Database.open(tmp_path / "overread.db")
    labels = write_local(studies, AcceptedLabels(studies / "accepted", database))
    database.close()
    (studies / "patients.csv").write_text(
        "case,patient,centre\n" + "".join(f"slide_{i},slide_{i},east\n" for i in range(4))
    )
    store = ChampionStore(tmp_path / "model")
    shutil.copytree(trained, store.root)
    before = store.current(RECIPE)
    options = {"iterations": 3, "precision": "float32", "threads": 1, "adabn": True, "apart": True}
    request = Request(
        RECIPE, store.root, studies, str(tmp_path / "overread.db"), device="cpu", retraining=options
    )
    decision = train(request, work, Event())
    assert decision.local is not None
    assert {row.case for row in decision.local.cases} <= {f"local-{name}" for name in labels}
    assert set(decision.centres) == {"east"}
    assert decision.centres["east"].patients == decision.local.patients
    assert json.loads((work / PROGRESS).read_text())["decision"]["centres"]["east"]["patients"] > 0
    prepared = {
        file.name.split(".")[0]: file for file in (work / "retraining" / "cases").glob("*/*.label.npy")
    }
    for name, label in labels.items():
        seen = np.load(prepared[f"local-{name}"])
        np.testing.assert_array_equal(seen, label)
        image = np.load(next(prepared[f"local-{name}"].parent.glob(f"local-{name}.*.image.npy")))
        assert image.shape == (3, WIDTH, HEIGHT)
        # The blob is darker in green than what is around it.
        assert image[1][seen == 1].mean() < image[1][seen == 0].mean() - 0.2
    after = read_description(store.current(RECIPE) if decision.promoted else before)
    assert after["plan"]["um_per_px"] == 1.0


def test_a_training_that_is_killed_loses_no_label_and_the_next_start_carries_it_on(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    studies, work = tmp_path / "studies", tmp_path / "training" / RECIPE
    studies.mkdir()
    work.mkdir(parents=True)
    database = Database.open(tmp_path / "overread.db")
    accepted = AcceptedLabels(studies / "accepted", database)
    write_local(studies, accepted)
    store = ChampionStore(tmp_path / "model")
    shutil.copytree(trained, store.root)
    before = store.current(RECIPE)
    with database.reading() as c:
        kept = label_rows(c)
    content = {row.file: (accepted.folder / row.file).read_bytes() for row in kept}
    options = {"iterations": 40, "precision": "float32", "threads": 1, "checkpoint_every_s": 0.0}
    said = {
        "recipe": RECIPE, "models": str(store.root), "studies": str(studies), "id": "clicked",
        "database": str(tmp_path / "overread.db"), "device": "cpu", "retraining": options,
    }  # fmt: skip
    request = work / "request.json"
    request.write_text(json.dumps(said))
    command = [sys.executable, "-m", "overread.learning.process", "--request", str(request)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "lib"), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE) as process:
        while not finished_and_begun(work / "retraining")[1]:
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    assert request.exists()
    settled = accepted.settle(2000.0)
    assert (settled.restored, settled.unclear) == ((), ())
    with database.reading() as c:
        assert label_rows(c) == kept
    assert {name: (accepted.folder / name).read_bytes() for name in content} == content
    assert store.current(RECIPE) == before
    load_ensemble(before)

    with caplog.at_level("INFO"):
        decision = train(Request.read(request), work, Event())
    assert f"The interrupted training of {RECIPE} goes on" in caplog.text
    assert decision.local is not None
    assert {row.case for row in decision.local.cases} <= {f"local-{row.case_id}" for row in kept}
    database.close()
