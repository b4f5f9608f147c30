"""The server starts from any folder, says what is wrong with its options, and writes only where it may."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image

from overread.imaging.volumes import read_labelmap
from support.servers import ROOT, app_copy, publish_threshold, running_server, write_case

pytestmark = pytest.mark.slow


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    studies = tmp_path / "studies"
    studies.mkdir()
    return app_copy(tmp_path / "app"), studies


def test_from_another_folder_with_options_and_a_picture(folders, tmp_path):
    app_dir, studies = folders
    publish_threshold(app_dir, "one")
    publish_threshold(app_dir, "two", bands=False)
    publish_threshold(
        app_dir, "flat", classes=("background", "bright"), cuts=[128], bands=False, patch=(16, 16)
    )
    write_case(studies, "a")
    picture = np.zeros((20, 30), dtype=np.uint8)
    picture[5:9, 10:25] = 255
    Image.fromarray(picture).save(studies / "picture.png")
    # A file of this name in the working folder must not be taken for the image.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a").write_text("not the image")
    conf = [
        "models",
        "two,flat",
        "measure",
        "variance",
        "bands",
        "off",
        "members",
        "2",
        "device",
        "cpu",
        "keep_maps",
        "no",
    ]
    with running_server(app_dir, studies, conf, cwd=elsewhere) as url:
        info = requests.get(f"{url}/info/", timeout=60).json()
        assert set(info["models"]) == {"two", "flat"}
        # Without calibrated bands there are no segments for them.
        assert info["labels"] == ["organ", "tumour", "bright"]
        config = info["models"]["two"]["config"]
        assert (config["measure"][0], config["doubt"][0], config["members"][0]) == ("variance", "off", "2")
        query = {"image": "a", "output": "json"}
        facts = requests.post(f"{url}/infer/two", params=query, timeout=60).json()
        assert facts["members"] == 2
        assert facts["label_names"] == {"organ": 1, "tumour": 2}
        kept = requests.get(f"{url}/overread/maps", params={"model": "two", "image": "a"}, timeout=60).json()
        assert kept["maps"] == ["proposal"]

        query = {"image": "picture", "output": "image"}
        refused = requests.post(f"{url}/infer/two", params=query, timeout=60)
        assert "two looks at 3-D windows, the image is 2-D (30, 20)" in refused.json()["detail"]
        answer = tmp_path / "answer.nrrd"
        answer.write_bytes(requests.post(f"{url}/infer/flat", params=query, timeout=60).content)
        labels = read_labelmap(answer)[0]
        np.testing.assert_array_equal(labels[..., 0], picture.T > 128)
        submitted = requests.put(
            f"{url}/datastore/label",
            params={"image": "picture"},
            data={"params": '{"label_info": [{"name": "bright"}]}'},
            files={"label": (answer.name, answer.read_bytes())},
            timeout=60,
        )
        assert submitted.ok, submitted.text
    written = {path.name for path in app_dir.iterdir()}
    known = {"main.py", "__pycache__", "model", "lib", "logs", "bin", "tmp", "sessions", "maps"}
    assert written <= known | {"state", "scoring", "training"}
    assert {path.name for path in studies.iterdir()} == {
        "a.nii.gz",
        "picture.png",
        "labels",
        "datastore_v2.json",
        ".lock",
        ".incoming",
        "accepted",
    }
    assert list(elsewhere.iterdir()) == [elsewhere / "a"]


def test_without_a_champion_it_starts_and_a_champion_can_come_later(folders):
    app_dir, studies = folders
    with running_server(app_dir, studies) as url:
        assert requests.get(f"{url}/info/", timeout=60).json()["models"] == {}
        answer = requests.post(f"{url}/infer/phantom", params={"image": "a"}, timeout=60)
        assert answer.json()["detail"] == "no model is called 'phantom'; no model is served yet"
        unnamed = requests.post(f"{url}/infer/", params={"image": "a"}, timeout=60)
        assert unnamed.status_code == 404
        assert unnamed.json()["detail"] == "no model was named, and none is served yet; train one first"
        assert requests.post(f"{url}/activelearning/random", timeout=60).json() == {}
        publish_threshold(app_dir)
        assert list(requests.get(f"{url}/info/", timeout=60).json()["models"]) == ["phantom"]


def test_an_unknown_option_ends_the_start_with_the_known_ones(folders):
    app_dir, studies = folders
    with (
        pytest.raises(
            RuntimeError,
            match="--conf colour is not known; known keys are allow_anonymous, assumed_um_per_px, bands",
        ),
        running_server(app_dir, studies, ["colour", "red"]),
    ):
        pass


def test_the_app_is_thin():
    assert len((ROOT / "apps" / "radiology" / "main.py").read_text().splitlines()) < 60
