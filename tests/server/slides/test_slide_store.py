"""The slides folder lists what can be read as a slide; pictures of patches are no images of their own."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from overread.domain import BadInputError, NotFoundError
from overread.domain.slides import PixelSize
from overread.ensemble.threshold import write_threshold_ensemble
from overread.imaging.slides.files import folder_beside
from overread.imaging.slides.pyramid import write_pyramid
from overread.learning.champions import ChampionStore
from overread.server.models import ServedModels
from overread.server.settings import Settings
from overread.server.slides.store import SlideStore
from overread.state.labels import APPROVED, WITHDRAWN
from support.slide_store import HEIGHT, WIDTH, asap, rectangle

PATCH = (100, 60, 80, 40)
NAME = "one-patch-100_60_80_40"


def picture(path: Path, width: int = 80, height: int = 40) -> Path:
    Image.new("RGB", (width, height), "pink").save(path)
    return path


def age(path: Path) -> None:
    """As if it had lain there for an hour."""
    then = time.time() - 3600
    os.utime(path, (then, then))


# -- what is listed


def test_slides_are_listed_whatever_lies_beside_them(folder):
    folder.put("two.tiff")
    folder.put("three.ome.tif")
    (folder.studies / "one.xml").write_text("<ASAP_Annotations/>")
    (folder.studies / "two.csv").write_text("a,b")
    picture(folder.studies / "four.png")
    store = folder.opened()
    assert {name: path.name for name, path in store.slides().items()} == {
        "one": "one.tif",
        "two": "two.tiff",
        "three.ome": "three.ome.tif",
        "four": "four.png",
    }
    assert store.known_image("three.ome").name == "three.ome.tif"


def test_a_file_that_cannot_be_read_is_named_once_and_the_others_go_on(folder, caplog):
    broken = folder.studies / "broken.svs"
    broken.write_bytes(b"no slide")
    age(broken)
    age(folder.studies / "one.tif")
    with caplog.at_level(logging.WARNING):
        store = folder.opened()
        store.refresh()
    assert list(store.slides()) == ["one"]
    assert [record.message for record in caplog.records if "broken.svs" in record.message] == [
        message for message in caplog.messages if message.startswith("Not listed: ")
    ]
    assert len([message for message in caplog.messages if message.startswith("Not listed: ")]) == 1


def test_a_file_that_is_still_being_copied_is_no_news_and_is_found_when_it_is_whole(folder, caplog):
    whole = folder.put("late.tif").read_bytes()
    (folder.studies / "late.tif").write_bytes(whole[:200])
    with caplog.at_level(logging.WARNING):
        store = folder.opened()
        assert list(store.slides()) == ["one"]
    assert not [message for message in caplog.messages if "late" in message]
    (folder.studies / "late.tif").write_bytes(whole)
    deadline = time.monotonic() + 60
    while "late" not in store.slides() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert "late" in store.slides()


def test_a_slides_size_pixel_and_centre_are_told(folder):
    (folder.studies / "patients.csv").write_text("case,patient,centre\none,anna,east\n")
    picture(folder.studies / "flat.png", 30, 20)
    store = folder.opened()
    told = store.get_image_info("one")
    assert (told["width"], told["height"], told["um_per_px"], told["is_assumed"], told["centre"]) == (
        WIDTH,
        HEIGHT,
        pytest.approx(0.5),
        False,
        "east",
    )
    assert store.patient_of(NAME) == "anna"
    told = store.get_image_info("flat")
    assert (told["width"], told["height"], told["is_assumed"], told["centre"]) == (30, 20, True, "")


def test_a_slide_goes_on_waiting_when_a_patch_of_it_is_labelled(store, folder):
    assert store.status()["completed"] == 0
    folder.send(store, NAME, asap(("Tumor", rectangle(*PATCH)), box=PATCH))
    assert store.get_unlabeled_images() == ["one"]
    assert store.get_labeled_images() == ["one"]
    assert {key: store.status()[key] for key in ("total", "completed")} == {"total": 1, "completed": 1}


# -- pictures of patches


def test_a_patchs_picture_is_kept_beside_and_given_back_and_is_no_new_image(store, folder, tmp_path):
    sent = picture(tmp_path / "sent.png")
    assert store.add_image(NAME, str(sent), {}) == NAME
    store.refresh()
    assert store.list_images() == ["one"]
    assert store.known_image(NAME).read_bytes() == sent.read_bytes()
    assert store.known_image(NAME).parent == folder.studies / "patches"
    assert store.get_image_info(NAME)["region"] == PATCH
    store.remove_image(NAME)
    with pytest.raises(NotFoundError, match="no picture of patch 'one-patch-100_60_80_40' was uploaded"):
        store.known_image(NAME)


def test_a_patchs_picture_may_be_coarser_and_end_at_the_slides_border(store, tmp_path):
    store.add_image("one-patch-100_60_81_41", str(picture(tmp_path / "a.png", 40, 20)), {})
    store.add_image(f"one-patch-{WIDTH - 20}_0_40_20", str(picture(tmp_path / "b.png", 20, 20)), {})


@pytest.mark.parametrize(
    ("image", "size", "sentence"),
    [
        (NAME, (80, 50), "more than the slide has there"),
        (NAME, (40, 40), "another shape than its name says"),
        (f"one-patch-{WIDTH}_0_9_9", (9, 9), "lies outside its slide, which has 400 x 300 pixels"),
    ],
)
def test_a_picture_that_cannot_be_of_its_patch_is_refused(store, tmp_path, image, size, sentence):
    with pytest.raises(BadInputError, match=sentence):
        store.add_image(image, str(picture(tmp_path / "sent.png", *size)), {})


def test_a_patch_that_is_no_readable_png_is_refused(store, tmp_path):
    (tmp_path / "sent.png").write_bytes(b"no picture")
    with pytest.raises(BadInputError, match=r"the picture of patch one-patch-.* cannot be read"):
        store.add_image(NAME, str(tmp_path / "sent.png"), {})
    with pytest.raises(BadInputError, match=r"came as \.jpg, expected PNG"):
        store.add_image(NAME, str(picture(tmp_path / "sent.jpg")), {})


def test_a_patch_of_a_slide_that_is_not_here_is_refused(store, tmp_path):
    with pytest.raises(NotFoundError, match="no image is called 'two'"):
        store.add_image("two-patch-0_0_80_40", str(picture(tmp_path / "sent.png")), {})
    with pytest.raises(NotFoundError, match="no image is called"):
        store.update_image_info(NAME, {"seen": True})


# -- uploads of slides


def test_another_picture_becomes_a_slide(store, tmp_path):
    assert store.add_image("new", str(picture(tmp_path / "sent.png")), {"user": "anna"}) == "new"
    assert store.slides()["new"].name == "new.png"
    assert store.get_image_info("new")["width"] == 80


def test_what_is_no_slide_is_not_taken(store, folder, tmp_path):
    (tmp_path / "broken.tif").write_bytes(b"no slide")
    for name, image, sentence in (
        ("scan.nii.gz", "new", "of no kind of slide that is read here"),
        ("scan.mrxs", "new", "put it into the studies folder"),
        ("broken.tif", "new", "image new: broken.tif"),
        ("sent.png", "new.png", "ends as a file does"),
        ("sent.png", "one", "is here already as one.tif"),
    ):
        if name == "sent.png":
            picture(tmp_path / name)
        with pytest.raises(BadInputError, match=sentence):
            store.add_image(image, str(tmp_path / name), {})
    assert list(store.slides()) == ["one"]


def test_labels_say_nothing_about_another_slide_that_takes_the_name(store, folder, tmp_path):
    folder.send(store, NAME, asap(("Tumor", rectangle(*PATCH)), box=PATCH))
    store.add_image("one", str(folder.studies / "one.tif"), {})
    assert store.status()["completed"] == 1
    write_pyramid(tmp_path / "one.tif", np.zeros((50, 60, 3), np.uint8), PixelSize(0.5))
    store.add_image("one", str(tmp_path / "one.tif"), {})
    assert store.status()["completed"] == 0
    assert [row.status for row in folder.rows()] == [WITHDRAWN]


def test_a_slide_goes_with_its_folder_its_labels_and_its_patches(store, folder, tmp_path):
    store.add_image(NAME, str(picture(tmp_path / "sent.png")), {})
    folder.send(store, NAME, asap(("Tumor", rectangle(*PATCH)), box=PATCH))
    store.remove_image("one")
    assert store.list_images() == []
    assert [row.status for row in folder.rows()] == [WITHDRAWN]
    assert list((folder.studies / "patches").iterdir()) == []


def test_only_a_mirax_slide_has_a_folder_that_goes_with_it():
    assert folder_beside(Path("a/scan.1.mrxs")) == Path("a/scan.1")
    assert folder_beside(Path("a/scan.svs")) is None


# -- labels of a slide are those of its patches


def test_a_verdict_on_a_slide_is_one_on_its_patches_and_removing_withdraws_them(store, folder):
    other = (200, 60, 80, 40)
    folder.send(store, NAME, asap(("Tumor", rectangle(*PATCH)), box=PATCH))
    folder.send(store, "one-patch-200_60_80_40", asap(("Stroma", rectangle(*other)), box=other))
    store.update_label_info(
        "one", "final", {"segmentationMeta": {"status": "approved", "approvedBy": "dr.b"}}
    )
    assert [row.status for row in folder.rows()] == [APPROVED, APPROVED]
    store.remove_label("one", "final")
    assert [row.status for row in folder.rows()] == [WITHDRAWN, WITHDRAWN]
    with pytest.raises(NotFoundError, match="has no label with tag 'final'"):
        store.known_label("one", "final")


def test_the_next_start_shows_the_newest_submission_again(store, folder):
    folder.send(store, "one", asap(("Tumor", rectangle(10, 10, 20, 20))))
    folder.send(store, NAME, asap(("Stroma", rectangle(110, 64, 30, 10)), box=PATCH))
    shown = store.known_label("one", "final")
    wanted = shown.read_bytes()
    shown.unlink()
    assert folder.opened().known_label("one", "final").read_bytes() == wanted


def test_what_is_no_accepted_tag_is_kept_for_viewers_only(store, folder):
    folder.send(store, "one", asap(("Tumor", rectangle(10, 10, 20, 20))), tag="original")
    assert folder.rows() == []
    assert store.known_label("one", "original").is_file()


def test_a_store_without_accepted_labels_keeps_what_viewers_see(folder, tmp_path):
    store = SlideStore(str(folder.studies), ServedModels(folder.champions, Settings()))
    sent = tmp_path / "label.xml"
    sent.write_bytes(asap(("Tumor", rectangle(10, 10, 20, 20))))
    assert store.save_label("one", str(sent), "final", {}) == "one"
    assert store.known_label("one", "final").read_bytes() == sent.read_bytes()
    store.remove_label("one", "final")
    assert store.status()["completed"] == 0


def test_a_label_may_be_as_large_as_a_million_points(store):
    assert store.upload_limit("one") == store.upload_limit(NAME) == 64 << 20
    with pytest.raises(NotFoundError, match="no image is called 'two'"):
        store.upload_limit("two-patch-0_0_9_9")


def test_without_a_model_for_slides_labels_have_no_place(folder, tmp_path):
    sent = tmp_path / "label.xml"
    sent.write_bytes(asap(("Tumor", rectangle(10, 10, 20, 20))))
    nothing = ServedModels(ChampionStore(tmp_path / "nothing"), Settings())
    with pytest.raises(BadInputError, match="no model is served yet"):
        SlideStore(str(folder.studies), nothing).submit("one", sent, "final", {})


def test_a_model_that_knows_no_pixel_size_cannot_learn_from_slides(folder, tmp_path):
    staging = tmp_path / "volumes"
    write_threshold_ensemble(staging, "volumes", ("background", "Tumor"), [80])
    champions = ChampionStore(tmp_path / "other")
    champions.publish("volumes", staging)
    sent = tmp_path / "label.xml"
    sent.write_bytes(asap(("Tumor", rectangle(10, 10, 20, 20))))
    store = SlideStore(str(folder.studies), ServedModels(champions, Settings()))
    with pytest.raises(BadInputError, match="model 'volumes' knows no pixel size"):
        store.submit("one", sent, "final", {})
