"""Every wrong request gets a 4xx with a sentence that names the culprit, and changes nothing on the disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import pytest
import requests
from requests_toolbelt import MultipartEncoder

from overread.domain import Grid
from overread.imaging.volumes import write_nifti
from support.servers import Server, marker_voxels, oblique_grid, phantom_server, write_case

NAMES = ["doubt: high", "doubt: moderate", "organ", "tumour"]
GARBAGE_BYTES = 300_000_000


def label_file(folder: Path, labels: np.ndarray, grid: Grid | None = None) -> Path:
    path = folder / "label.nii.gz"
    write_nifti(path, labels, grid or oblique_grid(labels.shape))
    return path


def submission(path: Path, names: list[str] | None = NAMES, **params: object) -> dict:
    info = {} if names is None else {"label_info": [{"name": name, "idx": 1} for name in names]}
    return {"files": {"label": (path.name, path.read_bytes())}, "data": {"params": json.dumps(info | params)}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """As everywhere, but nothing is scored in the background: what is new on its disk came of a request."""
    with phantom_server(tmp_path_factory.mktemp("refusing"), ["scoring", "false"]) as running:
        yield running


def files_below(*folders: Path) -> set[Path]:
    """All but logs and the index, which the server writes anew beside the old one whenever the folder changed."""
    return {
        path
        for folder in folders
        for path in folder.rglob("*")
        if "logs" not in path.parts and path.name != ".datastore_v2.json.new"
    }


@pytest.fixture
def labelled(server, case, tmp_path) -> str:
    """A case that has its label: organ where the marker volume is bright."""
    good = label_file(tmp_path, (marker_voxels() > 60).astype(np.uint8) * 3)
    answer = requests.put(
        f"{server.url}/datastore/label", params={"image": case}, timeout=60, **submission(good)
    )
    assert answer.ok, answer.text
    return case


@pytest.fixture
def label_refused(server, labelled, refused):
    """Submit a label that must be refused; the earlier one must still be there. Gives the sentence."""

    def send(status: int, **submitted: object) -> str:
        kept = server.studies / "labels" / "final" / f"{labelled}.nii.gz"
        before = kept.read_bytes()
        sentence = refused(status, "PUT", "/datastore/label", params={"image": labelled}, **submitted)
        assert kept.read_bytes() == before
        info = requests.get(f"{server.url}/info/", timeout=60).json()
        assert info["datastore"]["completed"] == 1
        return sentence

    return send


# -- inference


def test_an_unknown_model(case, refused):
    sentence = refused(404, "POST", "/infer/liver", params={"image": case})
    assert sentence == "no model is called 'liver'; there are phantom"


def test_an_unknown_image(refused):
    sentence = refused(404, "POST", "/infer/phantom", params={"image": "case99"})
    assert sentence == "no image is called 'case99' in the studies folder"


@pytest.mark.parametrize(
    "image", ["/etc/passwd", "../../etc/passwd", "apps/radiology", "C:\\x", "..", "a\x00b", ".lock"]
)
def test_an_image_id_that_is_a_path(refused, image):
    assert "image id" in refused(400, "POST", "/infer/phantom", params={"image": image})
    assert "image id" in refused(400, "GET", "/datastore/image", params={"image": image})


def test_a_file_in_the_working_folder_of_the_server_is_no_image(refused):
    assert Path("pyproject.toml").exists()
    assert "no image is called" in refused(404, "POST", "/infer/phantom", params={"image": "pyproject.toml"})


def test_a_request_without_an_image(refused):
    assert "name an image" in refused(400, "POST", "/infer/phantom")


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ("{", "params is not valid JSON"),
        ("[1]", "params is a JSON list, expected an object"),
        ("3", "params is a JSON int"),
        ('{"x": NaN}', "params holds NaN, which JSON has not"),
        ("[" * 100_000, "params is not valid JSON"),
        ('{"measure": "gut feeling"}', "measure 'gut feeling' is not offered; there are predictive_entropy"),
        ('{"doubt": "maybe"}', "doubt 'maybe' is not offered"),
        ('{"members": "7"}', "members '7' is not offered; there are all, 1, 2, 3"),
        ('{"result_extension": ".exe"}', "result_extension '.exe' is not written"),
    ],
)
def test_bad_params(case, refused, params, words):
    assert words in refused(400, "POST", "/infer/phantom", params={"image": case}, data={"params": params})


def test_params_cannot_replace_what_the_url_names(server, case):
    params = {"model": "liver", "image": "/etc/passwd", "image_id": "../x"}
    answer = requests.post(
        f"{server.url}/infer/phantom",
        params={"image": case, "output": "json"},
        data={"params": json.dumps(params)},
        timeout=60,
    )
    assert answer.json()["model"] == "phantom"


def test_a_dicom_answer_is_not_there(case, refused):
    sentence = refused(400, "POST", "/infer/phantom", params={"image": case, "output": "dicom_seg"})
    assert "needs a DICOM server" in sentence


def test_a_corrupt_image_in_the_studies_folder(server, refused):
    path = server.studies / "corrupt.nii.gz"
    path.write_bytes(b"no volume at all")
    try:
        sentence = refused(400, "POST", "/infer/phantom", params={"image": "corrupt"})
        assert "image corrupt cannot be read" in sentence
        assert str(server.studies) not in sentence
    finally:
        path.unlink()


def test_an_image_with_nan(refused, tmp_path):
    voxels = marker_voxels()
    voxels[0, 0, 0] = np.nan
    path = write_case(tmp_path, "nan", voxels)
    sentence = refused(400, "POST", "/infer/phantom", files={"file": (path.name, path.read_bytes())})
    assert "nan.nii.gz holds NaN" in sentence


def test_an_unknown_session(refused):
    sentence = refused(404, "POST", "/infer/phantom", params={"session_id": "0000"})
    assert "no session '0000'; it may have expired" in sentence
    assert "looks like a path" in refused(400, "POST", "/infer/phantom", params={"session_id": "../tmp"})


# -- images


def test_a_corrupt_image_is_not_taken_in(server, refused, tmp_path):
    before = files_below(server.studies, server.app_dir)
    answer = refused(
        400, "PUT", "/datastore/image", params={"image": "bad"}, files={"file": ("x.nii.gz", b"junk")}
    )
    assert "image bad cannot be read" in answer
    assert "cannot be read" in refused(400, "PUT", "/session/", files={"files": ("x.nii.gz", b"junk")})
    assert files_below(server.studies, server.app_dir) == before


@pytest.mark.parametrize("image", ["../evil", "/evil", "a/b", "a\\b", "x\ny", ".hidden", "n" * 300])
def test_an_image_name_that_is_a_path(server, refused, tmp_path, image):
    path = write_case(tmp_path, "good")
    before = files_below(server.studies, server.app_dir, server.studies.parent)
    files = {"file": (path.name, path.read_bytes())}
    assert "image id" in refused(400, "PUT", "/datastore/image", params={"image": image}, files=files)
    assert "image id" in refused(400, "PUT", "/datastore/", params={"image": image}, files=files)
    assert files_below(server.studies, server.app_dir, server.studies.parent) == before


def test_a_file_that_is_no_volume_by_its_name(refused):
    sentence = refused(400, "PUT", "/datastore/image", files={"file": ("evil.py", b"print()")})
    assert "file 'evil.py' is of no kind that is read here" in sentence
    sentence = refused(400, "PUT", "/datastore/image", files={"file": ("x.mha", b"")})
    assert "images of kind .mha are not listed here" in sentence
    sentence = refused(
        400, "PUT", "/datastore/image", params={"image": "a.nii"}, files={"file": ("a.nii", b"")}
    )
    assert "image id 'a.nii' ends as a file does" in sentence


def test_a_header_that_announces_more_than_is_taken(refused, tmp_path):
    image = nib.Nifti1Image(np.zeros((2, 2, 2), dtype=np.int16), np.eye(4))
    path = tmp_path / "huge.nii"
    nib.save(image, path)
    raw = bytearray(path.read_bytes())
    raw[42:48] = np.array([30000, 30000, 30000], dtype="<i2").tobytes()
    sentence = refused(400, "PUT", "/datastore/image", files={"file": ("huge.nii", bytes(raw))})
    assert "announces 1.08e+05 GB of voxels" in sentence


def test_a_session_takes_one_volume(refused, tmp_path):
    files = [("files", ("a.nii.gz", b"")), ("files", ("b.nii.gz", b""))]
    assert "a session takes one volume file as it is, got 2 files" in refused(
        400, "PUT", "/session/", files=files
    )
    sentence = refused(400, "PUT", "/session/", params={"uncompress": True}, files=files[:1])
    assert "to uncompress" in sentence


def test_removing_what_is_not_there(case, refused):
    assert "no image is called" in refused(404, "DELETE", "/datastore/image", params={"id": "nobody"})
    sentence = refused(404, "DELETE", "/datastore/label", params={"id": case, "tag": "final"})
    assert "has no label with tag 'final'" in sentence
    assert "tag" in refused(400, "DELETE", "/datastore/label", params={"id": case, "tag": "../x"})


def test_facts_about_an_image_are_json_objects(server, case, refused):
    query = {"image": case}
    assert "not valid JSON" in refused(400, "PUT", "/datastore/image/info", params=query, data={"info": "{"})
    sentence = refused(404, "GET", "/datastore/image/info", params={"image": "nobody"})
    assert "no image is called 'nobody'" in sentence
    # Kept, it would have MONAI Label answer 500 to everybody from now on.
    sentence = refused(400, "PUT", "/datastore/image/info", params=query, data={"info": '{"score": NaN}'})
    assert sentence == "info holds NaN, which JSON has not"
    assert requests.get(f"{server.url}/datastore/?output=all", timeout=60).ok


# -- labels


def test_garbage_as_a_label(label_refused, tmp_path):
    path = tmp_path / "garbage.nii.gz"
    path.write_bytes(b"\x00garbage" * 100)
    assert "the label cannot be read" in label_refused(400, **submission(path))


def test_a_label_of_another_kind(label_refused, tmp_path):
    path = tmp_path / "label.exe"
    path.write_bytes(b"MZ")
    assert "file 'label.exe' is of no kind" in label_refused(400, **submission(path))


def test_a_label_of_another_shape(label_refused, tmp_path):
    path = label_file(tmp_path, np.zeros((40, 30, 13), dtype=np.uint8))
    assert "shape (40, 30, 13) instead of (40, 30, 12)" in label_refused(400, **submission(path))


def test_a_label_at_another_place(label_refused, tmp_path):
    moved = np.array(oblique_grid((40, 30, 12)).affine)
    moved[0, 3] += 5
    path = label_file(tmp_path, np.zeros((40, 30, 12), dtype=np.uint8), Grid((40, 30, 12), moved))
    assert "a position that differs by 5 mm" in label_refused(400, **submission(path))


def test_a_label_with_nan_fractions_or_negative_values(label_refused, tmp_path):
    labels = np.zeros((40, 30, 12), dtype=np.float32)
    labels[1, 1, 1] = np.nan
    assert "NaN" in label_refused(400, **submission(label_file(tmp_path, labels)))
    labels[1, 1, 1] = 1.5
    assert "the label holds 1.5; a label map holds whole numbers" in label_refused(
        400, **submission(label_file(tmp_path, labels))
    )
    labels[1, 1, 1] = -1
    assert "the label holds -1" in label_refused(400, **submission(label_file(tmp_path, labels)))


def test_a_value_without_a_name(label_refused, tmp_path):
    path = label_file(tmp_path, np.full((40, 30, 12), 5, dtype=np.uint8))
    assert "value 5, but label_info has 4 entries" in label_refused(400, **submission(path))
    assert "value 5, expected 0..2" in label_refused(400, **submission(path, None))


def test_a_name_that_is_no_class(label_refused, tmp_path):
    path = label_file(tmp_path, np.ones((40, 30, 12), dtype=np.uint8))
    sentence = label_refused(400, **submission(path, ["Segment_1"]))
    assert sentence == "label_info names 'Segment_1'; the model's classes are 'organ', 'tumour'"


def test_label_info_of_the_wrong_form(label_refused, tmp_path):
    path = label_file(tmp_path, np.zeros((40, 30, 12), dtype=np.uint8))
    assert "label_info is str" in label_refused(400, **submission(path, None, label_info="organ"))
    assert "label_info holds 3" in label_refused(400, **submission(path, None, label_info=[3]))
    assert "no model is called 'liver'" in label_refused(404, **submission(path, model="liver"))


@pytest.mark.parametrize("tag", ["../../../evil", "a/b", "..", "x\ty"])
def test_a_tag_that_is_a_path(server, labelled, refused, tmp_path, tag):
    path = label_file(tmp_path, np.zeros((40, 30, 12), dtype=np.uint8))
    before = files_below(server.studies, server.studies.parent)
    query = {"image": labelled, "tag": tag}
    assert "tag" in refused(400, "PUT", "/datastore/label", params=query, **submission(path))
    assert files_below(server.studies, server.studies.parent) == before


def test_a_label_of_an_unknown_image(refused, tmp_path):
    path = label_file(tmp_path, np.zeros((4, 3, 2), dtype=np.uint8))
    sentence = refused(404, "PUT", "/datastore/label", params={"image": "nobody"}, **submission(path))
    assert "no image is called 'nobody'" in sentence


# -- size


def send_garbage(url: str, field: str, query: dict[str, str], folder: Path) -> requests.Response:
    path = folder / "garbage.nii.gz"
    with path.open("wb") as file:
        file.truncate(GARBAGE_BYTES)
    with path.open("rb") as file:
        encoder = MultipartEncoder({"params": "{}", field: (path.name, file)})
        return requests.put(
            url, params=query, data=encoder, headers={"Content-Type": encoder.content_type}, timeout=120
        )


def test_300_mb_of_garbage_is_refused_without_filling_the_memory(server, labelled, tmp_path):
    process = psutil.Process().children()[0]
    before = process.memory_info().rss
    answer = send_garbage(f"{server.url}/datastore/label", "label", {"image": labelled}, tmp_path)
    assert answer.status_code == 413
    assert "the request holds 300 MB or more; at most 1.164 MB are taken here" in answer.json()["detail"]
    answer = send_garbage(f"{server.url}/datastore/image", "file", {"image": "garbage"}, tmp_path)
    assert answer.status_code == 400
    assert "image garbage cannot be read" in answer.json()["detail"]
    assert process.memory_info().rss - before < GARBAGE_BYTES / 2
    assert not any((server.app_dir / "tmp").iterdir())


def test_a_body_without_a_length_is_counted_as_it_comes(server):
    answer = requests.post(
        f"{server.url}/activelearning/first",
        data=(b" " * 65536 for _ in range(100)),
        headers={"Content-Type": "application/json"},
        timeout=60,
    )
    assert answer.status_code == 413
    assert "at most 4.194 MB are taken here" in answer.json()["detail"]


# -- the rest


def test_unknown_strategies_and_trainers(refused):
    sentence = refused(404, "POST", "/activelearning/oracle")
    assert sentence.startswith("no strategy is called 'oracle'; there are pairwise_dice, ")
    assert "no trainer is called 'unet'" in refused(404, "POST", "/train/unet")
    assert refused(404, "GET", "/train/")


@pytest.mark.parametrize(
    "path", ["/infer/wsi/phantom", "/batch/infer/phantom", "/scoring/dice", "/reload", "/model/phantom"]
)
def test_what_this_app_does_not_offer_is_not_found(refused, path):
    refused(404, "POST", path)
