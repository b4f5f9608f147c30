"""Float maps, probabilities and the proposal of an earlier inference can be had by URL, on the input's grid."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import requests

from overread.imaging.volumes import read_array
from support.servers import HIGH_DOUBT, marker_voxels, oblique_grid


@pytest.fixture
def asked(server, case) -> dict[str, str]:
    answer = requests.post(
        f"{server.url}/infer/phantom", params={"image": case, "output": "json"}, timeout=60
    )
    assert answer.ok, answer.text
    return {"model": "phantom", "image": case}


def fetch(server, query: dict[str, str], name: str, folder: Path) -> np.ndarray:
    answer = requests.get(f"{server.url}/overread/maps", params=query | {"map": name}, timeout=60)
    assert answer.ok, answer.text
    path = folder / "map.nii.gz"
    path.write_bytes(answer.content)
    values, grid = read_array(path)
    assert grid.difference_from(oblique_grid(values.shape)) is None
    return values


def test_the_list_names_what_is_kept(server, asked):
    listed = requests.get(f"{server.url}/overread/maps", params=asked, timeout=60).json()
    assert listed["maps"] == [
        "predictive_entropy",
        "probability_background",
        "probability_organ",
        "probability_tumour",
        "proposal",
    ]


def test_the_doubt_is_in_nats(server, asked, tmp_path):
    doubt = fetch(server, asked, "predictive_entropy", tmp_path)
    organ = (1 / (1 + math.exp(-2)) + 1 + 0) / 3
    expected = -organ * math.log(organ) - (1 - organ) * math.log(1 - organ)
    np.testing.assert_allclose(doubt[HIGH_DOUBT], expected, atol=1e-4)
    assert doubt[0, 0, 0] == pytest.approx(0, abs=1e-6)


def test_probabilities_are_means_over_members(server, asked, tmp_path):
    organ = fetch(server, asked, "probability_organ", tmp_path)
    np.testing.assert_allclose(organ[HIGH_DOUBT], (1 / (1 + math.exp(-2)) + 1 + 0) / 3, atol=1e-4)
    assert organ[6, 6, 3] == pytest.approx(1, abs=1e-6)


def test_the_proposal_has_class_indices(server, asked, tmp_path):
    proposal = fetch(server, asked, "proposal", tmp_path)
    voxels = marker_voxels()
    np.testing.assert_array_equal(proposal, np.select([voxels > 120, voxels > 60], [2, 1], 0))


def test_a_map_that_was_not_made_is_refused_with_those_that_were(asked, refused):
    sentence = refused(404, "GET", "/overread/maps", params=asked | {"map": "mutual_information"})
    assert "no map 'mutual_information'" in sentence
    assert "kept are predictive_entropy, probability_background" in sentence


def test_nothing_is_computed_for_the_asking(case, refused):
    query = {"model": "phantom", "image": case, "map": "predictive_entropy"}
    assert "nothing is kept; run an inference first" in refused(404, "GET", "/overread/maps", params=query)


def test_maps_of_an_unknown_image_or_model_or_champion_are_refused(case, refused):
    query = {"model": "phantom", "image": "nobody"}
    assert "no image is called 'nobody'" in refused(404, "GET", "/overread/maps", params=query)
    query = {"model": "nothing", "image": case}
    assert "no model is called 'nothing'" in refused(404, "GET", "/overread/maps", params=query)
    query = {"model": "phantom", "image": case, "champion": "../../x"}
    assert "looks like a path" in refused(400, "GET", "/overread/maps", params=query)
