"""3D Slicer's module, replayed call by call with MONAI Label's own client, gets right voxels and keeps them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import requests
from monailabel.client import MONAILabelClient

from overread.domain import Grid
from overread.imaging.volumes import read_array, read_labelmap, write_nifti
from support.servers import HIGH_DOUBT, MODERATE_DOUBT, marker_voxels, oblique_grid, write_case

FORCED = {"result_extension": ".nrrd", "result_dtype": "uint8"}
ORGAN, TUMOUR, MODERATE, HIGH = 1, 2, 3, 4


def expected_classes() -> np.ndarray:
    """What the marker volume is, class by class."""
    voxels = marker_voxels()
    return np.select([voxels > 120, voxels > 60], [TUMOUR, ORGAN], 0)


def expected_with_bands() -> np.ndarray:
    """The same with doubt in its two places."""
    labels = expected_classes()
    labels[HIGH_DOUBT] = HIGH
    labels[MODERATE_DOUBT] = MODERATE
    return labels


@pytest.fixture
def client(server, tmp_path: Path) -> MONAILabelClient:
    return MONAILabelClient(server.url, str(tmp_path), "tester")


def submit(client: MONAILabelClient, case: str, labels: np.ndarray, names: list[str], folder: Path) -> dict:
    path = folder / "submitted.nii.gz"
    write_nifti(path, labels.astype(np.uint8), oblique_grid(labels.shape))
    # `idx` counts segments that are not exported: it is wrong on purpose, as Slicer's is.
    info = [{"name": name, "idx": position + 7} for position, name in enumerate(names, start=1)]
    return client.save_label(case, str(path), params={"label_info": info})


def stored(server, case: str, tmp_path: Path) -> np.ndarray:
    answer = requests.get(f"{server.url}/datastore/label", params={"label": case, "tag": "final"}, timeout=60)
    assert answer.ok, answer.text
    path = tmp_path / "stored.nii.gz"
    path.write_bytes(answer.content)
    labels, grid = read_labelmap(path)
    assert grid.difference_from(oblique_grid(labels.shape)) is None
    return labels


def test_the_whole_round_of_a_reader(server, client, tmp_path):
    assert client.auth_enabled() is False

    info = client.info()
    assert "config" not in info
    assert info["labels"] == ["doubt: high", "doubt: moderate", "organ", "tumour"]
    model = info["models"]["phantom"]
    assert model["type"] == "segmentation"
    assert model["labels"] == {"organ": 1, "tumour": 2, "doubt: moderate": 3, "doubt: high": 4}
    assert model["config"]["doubt"] == ["bands inside the labels", "bands only", "off"]
    assert model["config"]["measure"][0] == "predictive_entropy"
    assert model["config"]["members"] == ["all", "1", "2", "3"]
    assert client.train_status(check_if_running=True) is False

    sample = client.next_sample("first", {})
    assert sample["id"] == "first"
    assert sample["name"] == "first.nii.gz"
    assert Path(sample["path"]).is_file()
    downloaded = requests.get(f"{server.url}/datastore/image", params={"image": "first"}, timeout=60)
    image = tmp_path / sample["name"]
    image.write_bytes(downloaded.content)
    np.testing.assert_array_equal(read_array(image)[0], marker_voxels())

    file, params = client.infer("phantom", "first", FORCED)
    assert file.endswith(".nrrd")
    labels, grid = read_labelmap(Path(file))
    assert grid.difference_from(oblique_grid(labels.shape), tolerance_mm=1e-4) is None
    np.testing.assert_array_equal(labels, expected_with_bands())
    assert params["label_names"] == {"organ": 1, "tumour": 2, "doubt: moderate": 3, "doubt: high": 4}
    assert params["doubt"]["thresholds"] == {"high": 0.5, "moderate": 0.2}
    assert "held 70% of the wrong voxels in 2.0% of all voxels" in params["doubt"]["meaning"]
    assert params["doubt"]["voxels"] == {"high": 75, "moderate": 75}
    assert params["latencies"]["total"] >= 0

    names = ["doubt: high", "doubt: moderate", "organ", "tumour"]
    as_exported = np.select(
        [labels == HIGH, labels == MODERATE, labels == ORGAN, labels == TUMOUR], [1, 2, 3, 4]
    )
    answer = submit(client, "first", as_exported, names, tmp_path)
    assert answer["label"] == "first"
    np.testing.assert_array_equal(stored(server, "first", tmp_path), expected_classes())

    index = client.datastore()["objects"]["first"]["labels"]["final"]["info"]
    assert index["client_id"] == "tester"
    assert index["label_names"] == {"organ": 1, "tumour": 2}
    assert index["doubt_voxels_returned_to_proposal"] == 150
    assert client.info()["datastore"]["completed"] == 1
    assert client.next_sample("first", {}) == {}
    requests.delete(f"{server.url}/datastore/label", params={"id": "first", "tag": "final"}, timeout=60)


def test_bands_only_holds_nothing_but_bands_so_that_slicer_lays_them_over_its_segments(client, case):
    file, params = client.infer("phantom", case, FORCED | {"doubt": "bands only"})
    expected = np.zeros((40, 30, 12))
    expected[MODERATE_DOUBT], expected[HIGH_DOUBT] = 1, 2
    np.testing.assert_array_equal(read_labelmap(Path(file))[0], expected)
    assert params["label_names"] == {"doubt: moderate": 1, "doubt: high": 2}


def test_off_shows_the_classes_alone_and_clears_earlier_bands_by_naming_them(client, case):
    file, params = client.infer("phantom", case, FORCED | {"doubt": "off"})
    np.testing.assert_array_equal(read_labelmap(Path(file))[0], expected_classes())
    assert set(params["label_names"]) == {"organ", "tumour", "doubt: moderate", "doubt: high"}


def test_one_member_has_no_doubt_where_it_is_sure(client, case):
    file, params = client.infer("phantom", case, FORCED | {"members": "1"})
    labels = read_labelmap(Path(file))[0]
    # The first member alone gives organ 0.88 at 61 (entropy 0.37) and is sure at 70.5.
    assert set(np.unique(labels[HIGH_DOUBT])) == {MODERATE}
    assert set(np.unique(labels[MODERATE_DOUBT])) == {ORGAN}
    assert params["members"] == 1


def test_a_measure_without_calibration_shows_no_bands_and_says_so(client, case):
    file, params = client.infer("phantom", case, FORCED | {"measure": "variance"})
    np.testing.assert_array_equal(read_labelmap(Path(file))[0], expected_classes())
    assert params["doubt"]["calibrated"] is False
    assert "variance was not calibrated on validation cases" in params["doubt"]["meaning"]


@pytest.mark.parametrize("extension", [".nii.gz", ".nii"])
def test_other_forms_of_the_answer_lie_on_the_same_voxels(client, case, extension):
    file, _ = client.infer("phantom", case, {"result_extension": extension})
    assert file.endswith(extension)
    labels, grid = read_labelmap(Path(file))
    assert grid.difference_from(oblique_grid(labels.shape), tolerance_mm=1e-4) is None
    np.testing.assert_array_equal(labels, expected_with_bands())


def test_ohif_gets_the_bare_file_and_scripts_the_bare_facts(server, case):
    url, query = f"{server.url}/infer/phantom", {"image": case}
    image = requests.post(url, params=query | {"output": "image"}, timeout=60)
    assert image.content.startswith(b"NRRD")
    facts = requests.post(url, params=query | {"output": "json"}, timeout=60).json()
    assert facts["label_names"]["organ"] == 1


def test_a_client_that_gets_no_names_finds_the_bands_under_the_values_that_are_listed(server, case, tmp_path):
    listed = requests.get(f"{server.url}/info/", timeout=60).json()["models"]["phantom"]["labels"]
    answer = requests.post(
        f"{server.url}/infer/phantom",
        params={"image": case, "output": "image"},
        data={"params": '{"doubt": "bands only"}'},
        timeout=60,
    )
    (tmp_path / "answer.nrrd").write_bytes(answer.content)
    both = expected_with_bands()
    expected = np.where(np.isin(both, [listed["doubt: moderate"], listed["doubt: high"]]), both, 0)
    np.testing.assert_array_equal(read_labelmap(tmp_path / "answer.nrrd")[0], expected)


def test_an_erased_voxel_under_a_laid_over_band_stays_erased(client, server, case, tmp_path):
    client.infer("phantom", case, FORCED | {"doubt": "off"})
    client.infer("phantom", case, FORCED | {"doubt": "bands only"})
    # The reader erases the doubtful organ; the band still covers its voxels, so Slicer exports them as doubt.
    labels = expected_classes() * 1
    labels = np.select([labels == ORGAN, labels == TUMOUR], [2, 3], 0)
    labels[HIGH_DOUBT] = 1
    submit(client, case, labels, ["doubt: high", "organ", "tumour"], tmp_path)
    expected = expected_classes()
    expected[HIGH_DOUBT] = 0
    np.testing.assert_array_equal(stored(server, case, tmp_path), expected)


def test_an_image_that_slicer_opened_itself_goes_through_a_session(client, server, tmp_path):
    path = write_case(tmp_path, "opened")
    session = client.create_session(str(path))["session_id"]
    assert client.get_session(session)["name"] == session
    file, _ = client.infer("phantom", "Volume: 1/2", FORCED, session_id=session)
    np.testing.assert_array_equal(read_labelmap(Path(file))[0], expected_with_bands())
    assert (server.app_dir / "sessions" / session).is_dir()
    client.remove_session(session)


def test_an_uploaded_image_can_be_asked_about_and_is_not_kept(client, server, tmp_path):
    path = write_case(tmp_path, "passing")
    before = sorted((server.app_dir / "tmp").iterdir())
    file, _ = client.infer("phantom", "", FORCED, file=str(path))
    np.testing.assert_array_equal(read_labelmap(Path(file))[0], expected_with_bands())
    assert sorted((server.app_dir / "tmp").iterdir()) == before


def test_a_label_in_slicers_order_of_slices_is_put_back(client, server, case, tmp_path):
    # 3D Slicer holds right-handed volumes only; the marker's grid is left-handed.
    grid = oblique_grid((40, 30, 12))
    reversed_slices = np.eye(4)
    reversed_slices[2, 2], reversed_slices[2, 3] = -1, 11
    path = tmp_path / "reversed.nii.gz"
    write_nifti(
        path, expected_classes()[..., ::-1].astype(np.uint8), Grid(grid.shape, grid.affine @ reversed_slices)
    )
    client.save_label(case, str(path), params={"label_info": [{"name": "organ"}, {"name": "tumour"}]})
    np.testing.assert_array_equal(stored(server, case, tmp_path), expected_classes())


def test_a_label_without_names_is_taken_as_class_indices(client, server, case, tmp_path):
    path = tmp_path / "indices.nii.gz"
    write_nifti(path, expected_classes().astype(np.uint8), oblique_grid((40, 30, 12)))
    client.save_label(case, str(path))
    np.testing.assert_array_equal(stored(server, case, tmp_path), expected_classes())


def test_random_can_be_called_twice_within_a_second(client, case):
    assert {client.next_sample("random", {})["id"] for _ in range(4)} <= {"first", case}


def test_a_new_champion_answers_the_next_request(tmp_path, client, server, case):
    from support.servers import CUTS, OFFSETS, publish_threshold

    _, before = client.infer("phantom", case, FORCED)
    # The new one sees organ from 100 on: the 90s become background.
    publish_threshold(server.app_dir, cuts=(100.0, 120.0))
    try:
        file, after = client.infer("phantom", case, FORCED | {"doubt": "off"})
        assert after["champion"] != before["champion"]
        assert client.info()["models"]["phantom"]["champion"] == after["champion"]
        labels = read_labelmap(Path(file))[0]
        assert labels[6, 6, 3] == 0
        assert labels[9, 9, 4] == TUMOUR
    finally:
        publish_threshold(server.app_dir, cuts=CUTS, offsets=OFFSETS)
    assert client.infer("phantom", case, FORCED)[1]["champion"] == before["champion"]
