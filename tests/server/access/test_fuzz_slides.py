"""Whatever is sent to a server of slides, it answers soon, is never at fault, and writes only where it may.

The short form of a search: `OVERREAD_FUZZ=1000` in the environment makes it a long one.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from overread.access import Role, UsersFile
from overread.access.users import default_users
from support.blobs import publish_blob_champion, write_blobs
from support.fuzzing import Place, fuzz_files, fuzz_operations, unharmed
from support.servers import app_copy, running_server

pytestmark = pytest.mark.slow

SLIDES = ("one", "two")
SMALL = (600, 400)
KNOWN = {
    "image": [*SLIDES, "one-patch-10_10_64_64", "nobody"],
    "label": SLIDES,
    "id": SLIDES,
    "model": ["blobs", "nobody"],
    "tag": ["final", "version_1"],
    "strategy": ["first", "random", "most_uncertain"],
    "name": ["uncertainty.tif", "labels.geojson", "thumbnail.png"],
}
OUTLINES = (
    b'<?xml version="1.0"?><Annotations Name="" X="0" Y="0" W="600" H="400">'
    b'<Annotation Name="Tumor" Type="Polygon" PartOfGroup="Tumor" Color="#ff0000"><Coordinates>'
    b'<Coordinate Order="0" X="10" Y="10"/><Coordinate Order="1" X="200" Y="10"/>'
    b'<Coordinate Order="2" X="200" Y="150"/></Coordinates></Annotation></Annotations>'
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A server with the champion `blobs`, and an admin's token."""
    base = tmp_path_factory.mktemp("fuzzed-slides")
    app_dir, studies = app_copy(base / "app", "pathology"), base / "studies"
    studies.mkdir()
    publish_blob_champion(app_dir)
    restore(studies)
    users = UsersFile(default_users(app_dir))
    users.add("chief", Role.ADMIN, None, time.time())
    header = {"Authorization": f"Bearer {users.add_token('chief', 'fuzz', time.time())}"}
    conf = ["scoring", "no", "max_region_px", "400000", "control_share", "0", "threads", "1"]
    with running_server(app_dir, studies, conf) as url:
        yield Place(url, base, app_dir, studies, header)


def restore(studies: Path) -> None:
    for slide in SLIDES:
        if not (studies / f"{slide}.tif").exists():
            write_blobs(studies / f"{slide}.tif", size=SMALL)


def good_files(folder: Path) -> dict[str, bytes]:
    """One of each kind that is taken."""
    write_blobs(folder / "s.tif", size=SMALL)
    patch = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 100, 150)).save(patch, "png")
    picture = io.BytesIO()
    Image.new("RGB", (300, 200), (200, 100, 150)).save(picture, "jpeg")
    return {
        "s.tif": (folder / "s.tif").read_bytes(),
        "s.svs": (folder / "s.tif").read_bytes(),
        "p.png": patch.getvalue(),
        "p.jpg": picture.getvalue(),
        "o.xml": OUTLINES,
    }


def test_requests_of_every_kind(place):
    with unharmed(place):
        fuzz_operations(place, KNOWN, lambda: restore(place.studies))


def test_damaged_files_wherever_files_are_taken(place, tmp_path):
    restore(place.studies)

    def send(name: str, content: bytes) -> None:
        place.ask("PUT", "/datastore/image", params={"image": "fuzzed"}, files={"file": (name, content)})
        patch = {"image": "one-patch-10_10_64_64"}
        place.ask("PUT", "/datastore/image", params=patch, files={"file": (name, content)})
        place.ask("PUT", "/datastore/label", params={"image": "one"}, files={"label": (name, content)})
        place.ask("PUT", "/datastore/label", params=patch, files={"label": (name, content)})
        place.ask("POST", "/infer/wsi_v2/blobs", params={"output": "asap"}, files={"file": (name, content)})

    with unharmed(place):
        fuzz_files(good_files(tmp_path), send)
