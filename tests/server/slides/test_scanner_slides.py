"""Slides of Hamamatsu, Leica and 3DHISTECH are listed, asked about, labelled and removed like any other."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from overread.domain import BadInputError
from overread.server.slides.opened import version_of
from support.blobs import (
    LIKELY_AT,
    PIXEL,
    SIZE,
    SURE_AT,
    TUMOUR,
    UNLIKELY_AT,
    blob_picture,
    publish_blob_champion,
)
from support.qupath import Server, around, body, is_near, named, outlines, patch, wish
from support.servers import app_copy, running_server
from support.slide_store import asap, rectangle
from support.vendor_slides import mirax_size, write_mrxs, write_ndpi, write_scn

SLIDES = {"a 1.2": "a 1.2.ndpi", "b": "b.scn", "c": "c.mrxs"}
PICTURE = blob_picture()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One slide of each maker."""
    folder = tmp_path_factory.mktemp("makers")
    write_ndpi(folder / SLIDES["a 1.2"], PICTURE, PIXEL)
    write_scn(folder / SLIDES["b"], PICTURE, PIXEL)
    write_mrxs(folder / SLIDES["c"], PICTURE, PIXEL)
    return folder


@pytest.fixture(scope="module")
def scanned(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running server over the three, with the champion `blobs`."""
    base = tmp_path_factory.mktemp("scanned")
    app_dir, studies = app_copy(base / "app", "pathology"), base / "studies"
    publish_blob_champion(app_dir)
    shutil.copytree(made, studies)
    (studies / "broken.ndpi").write_bytes((studies / SLIDES["a 1.2"]).read_bytes()[:9000])
    # Time for a first look at all of a slide, however busy the machine is.
    conf = ["scoring", "no", "control_share", "0", "threads", "1", "first_look_seconds", "120"]
    with running_server(app_dir, studies, conf, cwd=base) as url:
        yield Server(url, app_dir, studies)


def age(folder: Path) -> None:
    """As if all of it had lain there for an hour."""
    then = time.time() - 3600
    for path in folder.rglob("*"):
        os.utime(path, (then, then))


# -- through the server


@pytest.mark.slow
@pytest.mark.parametrize("slide", SLIDES)
def test_a_patch_of_each_maker_is_outlined_and_the_next_one_served(scanned: Server, slide: str):
    found = outlines(scanned.annotate(body(around(SURE_AT, LIKELY_AT)), image=slide))
    tumours = sorted(named(found, TUMOUR), key=lambda each: each.bounds[0])
    assert [is_near(*pair) for pair in zip(tumours, (SURE_AT, LIKELY_AT), strict=True)] == [True, True]
    (doubtful,) = named(found, "doubt high")
    assert is_near(doubtful, LIKELY_AT)
    size = mirax_size(PICTURE) if slide == "c" else SIZE
    answer = scanned.next("most_uncertain", wish(slide, image_size=list(size)))
    assert patch(answer).overlaps(LIKELY_AT) or patch(answer).overlaps(UNLIKELY_AT)
    assert Path(answer.json()["path"]) == scanned.studies / SLIDES[slide]


@pytest.mark.slow
def test_all_that_can_be_read_is_listed_under_qupaths_names(scanned: Server):
    assert sorted(scanned.get("/datastore/", output="all").json()["objects"]) == sorted(SLIDES)
    told = scanned.get("/datastore/image/info", image="c").json()
    assert (told["width"], told["height"], told["um_per_px"]) == (*mirax_size(PICTURE), pytest.approx(0.5))


@pytest.mark.slow
def test_a_slide_of_one_file_is_sent_and_of_a_mirax_slide_is_said_why_not(scanned: Server):
    for slide, name in SLIDES.items():
        asked = {"image": slide}
        assert requests.head(f"{scanned.url}/datastore/image", params=asked, timeout=60).status_code == 200
        answer = scanned.get("/datastore/image", **asked)
        if slide == "c":
            assert answer.status_code == 400
            assert "c.mrxs with the folder 'c', which cannot be sent as one file" in answer.json()["detail"]
        else:
            assert answer.content == (scanned.studies / name).read_bytes()


# -- the folder


def test_what_is_broken_is_named_once_and_the_others_are_listed(folder, made: Path, caplog):
    shutil.copytree(made, folder.studies, dirs_exist_ok=True)
    shutil.rmtree(folder.studies / "c")
    (folder.studies / "broken.scn").write_bytes((made / "b.scn").read_bytes()[:9000])
    age(folder.studies)
    with caplog.at_level(logging.WARNING):
        store = folder.opened()
        store.refresh()
    assert sorted(store.slides()) == ["a 1.2", "b", "one"]
    told = [message for message in caplog.messages if message.startswith("Not listed: ")]
    assert [("broken.scn" in line, "c.mrxs" in line) for line in told] == [(True, False), (False, True)]


def test_a_mirax_slide_is_listed_when_its_folder_comes_long_after_its_file(folder, made: Path):
    shutil.copy(made / "c.mrxs", folder.studies)
    age(folder.studies)
    store = folder.opened()
    assert sorted(store.slides()) == ["one"]
    shutil.copytree(made / "c", folder.studies / "c")
    deadline = time.monotonic() + 60
    while "c" not in store.slides() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert sorted(store.slides()) == ["c", "one"]


def test_another_folder_makes_another_slide(folder, made: Path):
    shutil.copytree(made, folder.studies, dirs_exist_ok=True)
    before = version_of(folder.studies / "c.mrxs")
    with (folder.studies / "c" / "Data0001.dat").open("ab") as data:
        data.write(b"more")
    assert version_of(folder.studies / "c.mrxs") != before


@pytest.mark.parametrize("is_linked", [False, True])
def test_a_mirax_slide_goes_with_its_folder(folder, made: Path, tmp_path: Path, is_linked: bool):
    shutil.copytree(made, tmp_path / "archive")
    for name in ("c", "c.mrxs"):
        if is_linked:
            (folder.studies / name).symlink_to(tmp_path / "archive" / name)
        else:
            (tmp_path / "archive" / name).rename(folder.studies / name)
    store = folder.opened()
    assert sorted(store.slides()) == ["c", "one"]
    store.remove_image("c")
    assert list(store.slides()) == ["one"]
    assert not any((folder.studies / name).is_symlink() for name in ("c", "c.mrxs"))
    assert not (folder.studies / "c").exists()
    for name in ("c.mrxs", "c/Slidedat.ini"):
        assert (tmp_path / "archive" / name).is_file() == is_linked


def test_only_a_slide_of_one_file_can_be_sent(folder, made: Path):
    shutil.copytree(made, folder.studies, dirs_exist_ok=True)
    store = folder.opened()
    assert store.sole_file("b") == folder.studies / "b.scn"
    with pytest.raises(
        BadInputError, match=r"slide 'c' is c\.mrxs with the folder 'c', which cannot be sent"
    ):
        store.sole_file("c")


@pytest.mark.parametrize("slide", SLIDES)
def test_labels_lie_on_the_pixels_that_were_outlined(folder, made: Path, slide: str):
    shutil.copytree(made, folder.studies, dirs_exist_ok=True)
    store = folder.opened()
    box = (SURE_AT.x - 40, SURE_AT.y - 40, SURE_AT.width + 80, SURE_AT.height + 80)
    name = f"{slide}-patch-" + "_".join(map(str, box))
    folder.send(store, name, asap(("Tumor", rectangle(*SURE_AT.bbox)), box=box))
    label = folder.label(name)
    assert label.shape == (box[2] // 2, box[3] // 2)
    assert (label == 1).sum() == SURE_AT.area_px // 4
