"""Whatever is sent to a server of volumes, it answers soon, is never at fault, and writes only where it may.

The short form of a search: `OVERREAD_FUZZ=1000` in the environment makes it a long one.
"""

from __future__ import annotations

import gzip
import io
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image

from overread.access import Role, UsersFile
from overread.access.users import default_users
from overread.imaging.volumes import write_nifti, write_nrrd
from support.fuzzing import Place, fuzz_files, fuzz_operations, unharmed
from support.servers import (
    app_copy,
    marker_voxels,
    oblique_grid,
    publish_threshold,
    running_server,
    write_case,
)
from support.slicer import write_segments
from support.styles import publish_styles

pytestmark = pytest.mark.slow

CASES = ("first", "second", "third")
KNOWN = {
    "image": [*CASES, "nobody"],
    "label": CASES,
    "id": CASES,
    "model": ["phantom", "styles", "nobody"],
    "tag": ["final", "version_1", "original"],
    "strategy": ["first", "random", "most_uncertain"],
    "map": ["proposal", "predictive_entropy", "probabilities"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A server with an ensemble and a MedUHIP model, and an admin's token."""
    base = tmp_path_factory.mktemp("fuzzed")
    app_dir, studies = app_copy(base / "app"), base / "studies"
    studies.mkdir()
    publish_threshold(app_dir)
    publish_styles(app_dir, "styles")
    restore(studies)
    users = UsersFile(default_users(app_dir))
    users.add("chief", Role.ADMIN, None, time.time())
    header = {"Authorization": f"Bearer {users.add_token('chief', 'fuzz', time.time())}"}
    with running_server(app_dir, studies, ["scoring", "no", "lease_minutes", "0.01"]) as url:
        yield Place(url, base, app_dir, studies, header)


def restore(studies: Path) -> None:
    for case in CASES:
        if not (studies / f"{case}.nii.gz").exists():
            write_case(studies, case)


def good_files(folder: Path) -> dict[str, bytes]:
    """One of each kind that is read, and some that are not."""
    shape, grid = (40, 30, 12), oblique_grid((40, 30, 12))
    labels = (marker_voxels() > 60).astype(np.uint8)
    write_nifti(folder / "a.nii", labels, grid)
    write_nrrd(folder / "a.nrrd", labels, grid)
    write_segments(folder / "b.nrrd", [labels], [("organ", 0, 1)], grid)
    raw = (folder / "a.nii").read_bytes()
    pictures = {}
    for suffix in ("png", "jpg", "tif"):
        buffer = io.BytesIO()
        Image.fromarray(labels[:, :, 5] * 200).save(
            buffer, {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix)
        )
        pictures[f"p.{suffix}"] = buffer.getvalue()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("../../evil.nii", raw)
    dicom = b"\x00" * 128 + b"DICM\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.1\x00" + raw[352:2000]
    assert shape == labels.shape
    return {
        "a.nii": raw,
        "a.nii.gz": gzip.compress(raw),
        "a.nrrd": (folder / "a.nrrd").read_bytes(),
        "b.seg.nrrd": (folder / "b.nrrd").read_bytes(),
        "a.mha": b"ObjectType = Image\nNDims = 3\nDimSize = 40 30 12\nElementType = MET_UCHAR\n"
        b"ElementDataFile = LOCAL\n" + labels.tobytes(order="F"),
        **pictures,
        "z.zip": archive.getvalue(),
        "d.dcm": dicom,
    }


def test_requests_of_every_kind(place):
    with unharmed(place):
        fuzz_operations(place, KNOWN, lambda: restore(place.studies))


def test_damaged_files_wherever_files_are_taken(place, tmp_path):
    restore(place.studies)

    def send(name: str, content: bytes) -> None:
        place.ask("PUT", "/datastore/image", params={"image": "fuzzed"}, files={"file": (name, content)})
        place.ask("PUT", "/datastore/label", params={"image": "first"}, files={"label": (name, content)})
        session = place.ask("PUT", "/session/", files={"files": (name, content)})
        if session.ok:
            place.ask("DELETE", f"/session/{session.json()['session_id']}")
        place.ask("POST", "/infer/phantom", files={"file": (name, content)}, params={"output": "json"})

    with unharmed(place):
        fuzz_files(good_files(tmp_path), send)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nhdr", ".mhd"])
def test_no_file_makes_the_server_read_another_one_of_its_own(place, suffix):
    secret = place.base / "secret.raw"
    secret.write_bytes(bytes(range(64)))
    before = place.outside()
    nrrd = (
        "NRRD0005\ntype: uint8\ndimension: 3\nspace: left-posterior-superior\nsizes: 4 4 4\nencoding: raw\n"
    )
    nrrd += f"space directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\nDATA FILE: {secret}\n\n"
    meta = f"NDims = 3\nDimSize = 4 4 4\nElementType = MET_UCHAR\nElementDataFile = {secret}\n"
    content = (nrrd if suffix in (".nrrd", ".nhdr") else meta).encode()
    for method, path, field in [
        ("PUT", "/datastore/image?image=thief", "file"),
        ("PUT", "/datastore/label?image=first", "label"),
        ("PUT", "/session/", "files"),
        ("POST", "/infer/phantom", "file"),
    ]:
        answer = place.ask(method, path, files={field: (f"thief{suffix}", content)})
        assert answer.status_code == 400
        assert "keeps its voxels in another file" in answer.json()["detail"]
    assert place.outside() == before
    assert not list(place.studies.glob("thief*"))


def test_half_a_character_is_refused_before_anybody_else_has_to_read_it(place):
    half = '"\\ud800"'
    said = {"Content-Type": "application/json"} | dict(place.header)
    for method, path, sent in [
        ("POST", "/infer/phantom?image=first", {"data": {"params": f'{{"client_id": {half}}}'}}),
        ("PUT", "/datastore/image/info?image=first", {"data": {"info": f'{{"a": {half}}}'}}),
        ("POST", "/train/phantom", {"data": f"{{{half}: 1}}"}),
        ("POST", "/activelearning/first", {"data": f'{{"x": [{half}]}}'}),
    ]:
        headers = said if isinstance(sent["data"], str) else dict(place.header)
        answer = requests.request(method, f"{place.url}{path}", headers=headers, timeout=60, **sent)
        assert answer.status_code == 400, answer.text
        assert "half of a character" in answer.json()["detail"]
    assert place.ask("GET", "/datastore/?output=all").ok


@pytest.mark.parametrize("path", ["/static/%00", "/ohif/%2e%2e", "/static/%2e%2e/app.py", "/session/%0a"])
def test_an_address_that_no_file_has_is_refused(place, path):
    assert place.ask("GET", path).status_code == 400


def test_several_parts_of_a_file_at_once_are_answered_with_all_of_it(place):
    many = dict(place.header) | {"Range": "bytes=" + "0-1," * 2000 + "5-6"}
    query = {"image": "first"}
    whole = place.ask("GET", "/datastore/image", params=query)
    answer = requests.get(f"{place.url}/datastore/image", params=query, headers=many, timeout=60)
    assert (answer.status_code, answer.content) == (200, whole.content)
    one = requests.get(
        f"{place.url}/datastore/image", params=query, headers=many | {"Range": "bytes=2-5"}, timeout=60
    )
    assert (one.status_code, one.content) == (206, whole.content[2:6])


def test_a_refusal_of_the_wrong_shape_repeats_nothing_that_was_sent(place):
    answer = place.ask(
        "POST", "/auth/token", files={"username": ("a", b"b"), "password": ("c", b"my secret")}
    )
    assert answer.status_code == 422
    assert set(answer.json()["detail"][0]) == {"type", "loc", "msg"}
