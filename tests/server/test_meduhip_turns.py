"""A reader's turns with a MedUHIP model, in 3D Slicer's order with MONAI Label's own client, against a real server."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from monailabel.client import MONAILabelClient
from PIL import Image

from overread.domain import Grid
from overread.imaging.volumes import LPS_TO_RAS, read_array, read_labelmap, write_nifti
from overread.learning.preferences import Preferences
from overread.state.database import Database
from overread.state.scores import ScoreRow, put_score
from support.servers import app_copy, oblique_grid, publish_threshold, running_server
from support.slicer import write_segments
from support.styles import (
    BODY,
    CORE_BOX,
    MIDDLE_BOX,
    OUTER_BOX,
    SHAPE,
    THRESHOLDS,
    publish_styles,
    shells,
)

# What was accepted in one test is to change nothing in the next.
FORCED = {"result_extension": ".nrrd", "result_dtype": "uint8", "preference": "off"}
OHIF = {
    "result_extension": ".nrrd",
    "result_dtype": "uint8",
    "result_compress": False,
    "restore_label_idx": False,
}
USUAL = {"preference": "my usual style"}
# Right-handed, so that 3D Slicer counts voxels as they are stored.
GRID = Grid(SHAPE, np.diag([-1.0, -1, 1, 1]))
CANDIDATES = ["candidate A", "candidate B", "candidate C", "candidate D"]
BANDS = ["doubt: moderate", "doubt: high"]


def box(where: tuple[slice, ...], shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[where] = True
    return mask


OUTER, MIDDLE, CORE = box(OUTER_BOX), box(MIDDLE_BOX), box(CORE_BOX)
# The first answer: organ where most styles have it, candidate B adds a shell, candidate C takes one away.
FIRST = np.select([CORE, MIDDLE, OUTER], [1, 4, 3], 0)
IN_B, IN_C = (20, 20, 8), (11, 11, 3)


@dataclass
class Desk:
    """A server that can be started anew over the same folders."""

    app_dir: Path
    studies: Path
    url: str = ""
    running: Any = None

    def start(self) -> None:
        self.running = running_server(self.app_dir, self.studies, ["scoring", "no", "control_share", "0"])
        self.url = self.running.__enter__()

    def stop(self) -> None:
        self.running.__exit__(None, None, None)

    def client(self, folder: Path, name: str = "anna") -> MONAILabelClient:
        return MONAILabelClient(self.url, str(folder), name)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    base = tmp_path_factory.mktemp("turns")
    desk = Desk(app_copy(base / "app"), base / "studies")
    desk.studies.mkdir()
    publish_styles(desk.app_dir, "shells")
    publish_styles(desk.app_dir, "doubted", bands=True)
    classes = ("background", "organ", "tumour")
    publish_styles(desk.app_dir, "pair", classes=classes, structures=(THRESHOLDS, PAIR_TUMOUR))
    publish_styles(desk.app_dir, "flat", axes=2)
    for case in (
        "anna's",
        "bert's",
        "options",
        "round",
        "doubt",
        "parts",
        "pair",
        "bad",
        "restart",
        "marked",
        "ohif",
        "reset",
        "background",
        "selected",
        "by name",
    ):
        write_nifti(desk.studies / f"{case}.nii.gz", shells(), GRID)
    write_nifti(desk.studies / "oblique.nii.gz", shells(), oblique_grid(SHAPE))
    picture = Image.fromarray(shells((0, 0)).T.astype(np.uint8))
    picture.save(desk.studies / "picture.png")
    write_nifti(
        desk.studies / "slice.nii.gz", shells()[..., 4:5], Grid((*SHAPE[:2], 1), np.diag([1.0, 1, 5, 1]))
    )
    desk.start()
    yield desk
    desk.stop()


@pytest.fixture(scope="module")
def habits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    base = tmp_path_factory.mktemp("habits")
    desk = Desk(app_copy(base / "app"), base / "studies")
    desk.studies.mkdir()
    publish_styles(desk.app_dir, "shells")
    for name in (*map(str, range(HABITS)), "new", "next", "last", "again"):
        write_nifti(desk.studies / f"habit_{name}.nii.gz", shells(), GRID)
    desk.start()
    yield desk
    desk.stop()


# Cases that teach a habit.
HABITS = 8
# The tumour is the core for two styles, the middle for one.
PAIR_TUMOUR = (THRESHOLDS[2], THRESHOLDS[2] + 1, THRESHOLDS[0])


@pytest.fixture
def client(desk: Desk, tmp_path: Path) -> MONAILabelClient:
    return desk.client(tmp_path)


def asked(
    client: MONAILabelClient, model: str, case: str, **params: Any
) -> tuple[np.ndarray, dict[str, Any]]:
    """What 3D Slicer gets: the label map's values and the facts."""
    file, facts = client.infer(model, case, FORCED | params)
    return read_labelmap(Path(file))[0], facts


def as_slicer(
    client: MONAILabelClient,
    model: str,
    case: str,
    label: str,
    points: dict[str, list[tuple[int, ...]]] | None = None,
    **options: Any,
) -> tuple[np.ndarray, dict[str, Any]]:
    """As 3D Slicer's SmartEdit asks: the points of every name in the server's list of labels and of no other, the
    label that is selected, and every option of the table.
    """
    info = client.info()
    params: dict[str, Any] = {name: (points or {}).get(name, []) for name in info["labels"]}
    assert set(points or {}) <= set(params), (
        "of a label that is not listed Slicer has no segment to put points on"
    )
    table = info["models"][model]["config"]
    chosen = {key: value[0] if isinstance(value, list) else value for key, value in table.items()}
    file, facts = client.infer(model, case, FORCED | params | {"label": label} | chosen | options)
    return read_labelmap(Path(file))[0], facts


def refusal(desk: Desk, model: str, case: str, **params: Any) -> str:
    answer = requests.post(
        f"{desk.url}/infer/{model}",
        params={"image": case},
        files={"params": (None, json.dumps(FORCED | {"client_id": "anna"} | params))},
        timeout=120,
    )
    assert answer.status_code == 400, answer.text
    return answer.json()["detail"]


def test_slicer_may_run_a_model_after_next_sample_though_it_names_none(habits, tmp_path):
    # It names what its list of `segmentation` models has selected, and here that is empty.
    client = habits.client(tmp_path)
    file, facts = client.infer("", "habit_new", FORCED)
    np.testing.assert_array_equal(read_labelmap(Path(file))[0], FIRST)
    assert facts["model"] == "shells"
    assert facts["label_names"] == client.info()["models"]["shells"]["labels"]


def test_the_whole_round_of_a_reader(desk, client, tmp_path):
    info = client.info()
    assert info["labels"][:6] == ["doubt: high", "doubt: moderate", *CANDIDATES]
    # Last, so that it is not the label that 3D Slicer begins with, and once however many models take clicks on it.
    assert info["labels"][6:] == ["organ", "tumour", "background"]
    model = info["models"]["shells"]
    assert (model["type"], model["dimension"]) == ("deepedit", 3)
    assert model["labels"] == {"organ": 1} | {name: n for n, name in enumerate(CANDIDATES, start=2)}
    assert model["config"]["candidate"] == ["auto", "A", "B", "C", "D", "none of these"]
    assert model["config"]["preference"] == ["my usual style", "off"]
    assert (model["config"]["purpose"], model["config"]["markups"]) == ("diagnosis", False)

    labels, facts = asked(client, "shells", "round", label="organ", organ=[], background=[])
    np.testing.assert_array_equal(labels, FIRST)
    assert facts["label_names"] == model["labels"]
    same, larger, smaller = facts["candidates"]["organ"]
    assert same["words"] == "the same"
    assert larger["words"] == "+2.2 mL, adds the upper pole"
    assert larger["added_ml"] == pytest.approx((OUTER & ~MIDDLE).sum() / 1000)
    assert smaller["removed_ml"] == pytest.approx((MIDDLE & ~CORE).sum() / 1000)
    assert larger["support"] == pytest.approx(1 / 3, abs=1e-3)
    assert (facts["turn"], facts["encoded"], facts["candidates_of"]) == (0, "new", "organ")
    assert set(facts["latencies"]) == {"total", "waiting", "pre", "encode", "decode", "post"}
    assert facts["latencies"]["encode"] > 0

    # A click into the region of B, on the class that is selected.
    labels, facts = asked(client, "shells", "round", label="organ", organ=[IN_B], background=[])
    np.testing.assert_array_equal(labels == 0, ~OUTER)
    assert labels[IN_B] == 1
    assert (facts["turn"], facts["encoded"], facts["latencies"]["encode"]) == (1, "cached", 0)

    # Candidates are left standing, in 3D Slicer's order of segments: what they cover returns to the proposal.
    names = [*CANDIDATES, "organ"]
    exported = np.select([labels == value for value in (2, 3, 4, 5, 1)], [1, 2, 3, 4, 5])
    assert set(np.unique(exported)) & {1, 2, 3, 4}
    path = tmp_path / "submitted.nii.gz"
    write_nifti(path, exported.astype(np.uint8), GRID)
    client.save_label("round", str(path), params={"label_info": [{"name": name} for name in names]})
    stored = requests.get(
        f"{desk.url}/datastore/label", params={"label": "round", "tag": "final"}, timeout=60
    )
    (tmp_path / "stored.nii.gz").write_bytes(stored.content)
    np.testing.assert_array_equal(read_labelmap(tmp_path / "stored.nii.gz")[0], OUTER)
    index = client.datastore()["objects"]["round"]["labels"]["final"]["info"]
    assert index["accepted"]["dice_to_proposal"] == 1


def test_a_candidate_is_picked_without_a_click_and_none_of_these_goes_on_looking(client):
    asked(client, "shells", "options")
    labels, facts = asked(client, "shells", "options", candidate="C", candidates="off")
    np.testing.assert_array_equal(labels, CORE)
    assert facts["turn"] == 1
    before = facts["candidates"]["organ"][0]["support"]
    _, facts = asked(client, "shells", "options", candidate="none of these")
    assert facts["turn"] == 2
    assert facts["candidates"]["organ"][0]["support"] < before


def test_two_clients_do_not_move_each_others_proposal(desk, client, tmp_path):
    bert = desk.client(tmp_path, "bert")
    asked(client, "shells", "anna's")
    asked(bert, "shells", "anna's")
    asked(client, "shells", "anna's", candidate="B")
    labels, facts = asked(bert, "shells", "anna's")
    np.testing.assert_array_equal(labels, FIRST)
    assert facts["turn"] == 0
    # Nor is a label of one completed from what the other was shown.
    exported = np.select([FIRST == 1, FIRST == 3, FIRST == 4], [3, 1, 2])
    path = tmp_path / "submitted.nii.gz"
    write_nifti(path, exported.astype(np.uint8), GRID)
    info = [{"name": name} for name in ("candidate B", "candidate C", "organ")]
    bert.save_label("anna's", str(path), params={"label_info": info})
    stored = requests.get(
        f"{desk.url}/datastore/label", params={"label": "anna's", "tag": "final"}, timeout=60
    )
    (tmp_path / "stored.nii.gz").write_bytes(stored.content)
    np.testing.assert_array_equal(read_labelmap(tmp_path / "stored.nii.gz")[0], MIDDLE)


def test_free_clicks_and_clicks_that_are_taken_back(client):
    first, _ = asked(client, "shells", "bert's", candidates="off")
    np.testing.assert_array_equal(first, MIDDLE)
    body = (5, 5, 5)
    assert shells()[body] == BODY
    one, _ = asked(client, "shells", "bert's", organ=[body], candidates="off")
    assert one[body] == 1
    two, facts = asked(client, "shells", "bert's", organ=[body], background=[[15, 15, 4]], candidates="off")
    assert (two[body], two[15, 15, 4], facts["turn"]) == (1, 0, 2)
    back, facts = asked(client, "shells", "bert's", organ=[body], candidates="off")
    np.testing.assert_array_equal(back, one)
    assert facts["turn"] == 1


def test_a_background_click_of_slicer_arrives_and_its_empty_segment_is_not_submitted(client, desk, tmp_path):
    first, _ = as_slicer(client, "shells", "background", "organ", preference="off", candidates="off")
    np.testing.assert_array_equal(first, MIDDLE)
    place = (15, 15, 4)
    clicks = {"background": [place]}
    labels, facts = as_slicer(
        client,
        "shells",
        "background",
        "background",
        clicks,
        preference="off",
        candidates="off",
        reset_state=True,
    )
    assert (labels[place], facts["turn"], facts["candidates_of"]) == (0, 1, "organ")
    # As a whole segmentation file, which holds the empty segment too.
    path = write_segments(
        tmp_path / "submitted.seg.nrrd",
        [(labels == 1).astype(np.uint8) * 7],
        [
            *((name, 0, value) for value, name in enumerate(CANDIDATES, start=1)),
            ("organ", 0, 7),
            ("background", 0, 8),
        ],
        GRID,
    )
    names = [*CANDIDATES, "organ"]
    client.save_label("background", str(path), params={"label_info": [{"name": name} for name in names]})
    stored = requests.get(
        f"{desk.url}/datastore/label", params={"label": "background", "tag": "final"}, timeout=60
    )
    (tmp_path / "stored.nii.gz").write_bytes(stored.content)
    np.testing.assert_array_equal(read_labelmap(tmp_path / "stored.nii.gz")[0], labels == 1)


def test_what_was_chosen_stays_when_another_label_is_selected_in_slicer(client):
    usual = {"preference": "off"}
    as_slicer(client, "pair", "selected", "organ", **usual)
    labels, facts = as_slicer(client, "pair", "selected", "organ", candidate="B", candidates="off", **usual)
    chosen = labels == 1
    assert facts["turn"] == 1
    assert int(chosen.sum()) > int((MIDDLE & ~CORE).sum())
    # The first request after another label was selected says so, and still has the choice of before in its table.
    again = {"candidate": "B", "candidates": "off", **usual}
    labels, facts = as_slicer(client, "pair", "selected", "tumour", reset_state=True, **again)
    np.testing.assert_array_equal(labels == 1, chosen)
    # The tumour's candidates are shown now; none of them was seen before, so none was picked.
    assert (facts["turn"], facts["candidates_of"]) == (1, "tumour")
    _, facts = as_slicer(client, "pair", "selected", "tumour", **again)
    assert facts["turn"] == 2
    # Our own word for it begins anew.
    _, facts = as_slicer(client, "pair", "selected", "tumour", reset=True, **(again | {"candidate": "auto"}))
    assert facts["turn"] == 0


def test_a_candidate_of_one_class_is_shown_as_it_was_offered_whatever_other_classes_say(client):
    _, facts = asked(client, "pair", "by name", label="tumour")
    offered = max(facts["candidates"]["tumour"], key=lambda offer: offer["volume_ml"])
    assert offered["added_ml"] > 0
    labels, facts = asked(
        client, "pair", "by name", label="tumour", candidate=offered["letter"], candidates="off"
    )
    np.testing.assert_array_equal(labels, np.where(MIDDLE, 2, 0))
    assert offered["volume_ml"] == pytest.approx((labels == 2).sum() / 1000)
    # A click against it is honoured.
    place = [11, 11, 3]
    labels, _ = asked(
        client,
        "pair",
        "by name",
        label="tumour",
        candidate=offered["letter"],
        candidates="off",
        organ=[place],
    )
    assert labels[tuple(place)] == 1


def test_clicks_as_slicer_counts_them_reach_an_oblique_left_handed_image(client):
    asked(client, "shells", "oblique", candidates="off")
    inside, outside = (5, 5, 5), (15, 15, 4)
    as_in_slicer = [[i, j, SHAPE[2] - 1 - k] for i, j, k in (inside, outside)]
    labels, _ = asked(
        client, "shells", "oblique", organ=as_in_slicer[:1], background=as_in_slicer[1:], candidates="off"
    )
    assert (labels[inside], labels[outside]) == (1, 0)


def test_several_classes_take_clicks_in_turn(client):
    labels, facts = asked(client, "pair", "pair", candidates="off")
    np.testing.assert_array_equal(
        labels, np.select([CORE, MIDDLE], [2, 1], 0) if labels[14, 14, 3] == 2 else MIDDLE
    )
    assert list(facts["candidates"]) == ["organ", "tumour"]
    in_middle, in_core = [11, 11, 3], [15, 15, 4]
    labels, _ = asked(
        client, "pair", "pair", tumour=[in_middle], organ=[in_core], candidates="off", label="organ"
    )
    assert (labels[tuple(in_middle)], labels[tuple(in_core)]) == (2, 1)
    labels, facts = asked(client, "pair", "pair", tumour=[in_middle], organ=[in_core], label="tumour")
    assert facts["candidates_of"] == "tumour"
    # A viewer of the deepgrow kind sends one class's clicks only; the others stand.
    labels, _ = asked(
        client, "pair", "pair", foreground=[in_middle], background=[], label="tumour", candidates="off"
    )
    assert (labels[tuple(in_middle)], labels[tuple(in_core)]) == (2, 1)


def test_ohif_gets_classes_without_holes_for_its_points_and_the_whole_answer_without_saying_the_clicks_again(
    desk, tmp_path
):
    def shown(model: str, **params: Any) -> np.ndarray:
        """As OHIF's panel asks: it gets the bare file, and names nobody."""
        answer = requests.post(
            f"{desk.url}/infer/{model}",
            params={"image": "ohif", "output": "image"},
            files={"params": (None, json.dumps(OHIF | params))},
            timeout=120,
        )
        assert answer.ok, answer.text
        (tmp_path / "answer.nrrd").write_bytes(answer.content)
        return read_labelmap(tmp_path / "answer.nrrd")[0]

    whole = "doubted (whole answer)"
    listed = requests.get(f"{desk.url}/info/", timeout=60).json()["models"]["doubted"]["labels"]
    first = shown(whole, preference="off")
    np.testing.assert_array_equal(first, FIRST)
    regions = shown(whole, preference="off", candidates="regions only")
    np.testing.assert_array_equal(regions == listed["candidate B"], OUTER & ~MIDDLE)
    picked = shown("doubted", organ=[IN_B], background=[])
    np.testing.assert_array_equal(picked, OUTER)
    again = shown(whole, preference="off", candidates="off", doubt="off")
    np.testing.assert_array_equal(again, OUTER)
    # An option that is sent again with each look is meant once.
    shown(whole, preference="off", candidate="C", candidates="off", doubt="off")
    smaller = shown("doubted", organ=[IN_B], background=[])
    np.testing.assert_array_equal(
        shown(whole, preference="off", candidate="C", candidates="off", doubt="off"), smaller
    )


def test_doubt_bands_are_drawn_beside_the_candidates(desk, client):
    labels, facts = asked(client, "doubted", "doubt", candidates="off")
    assert facts["label_names"]["doubt: high"] == 7
    # Where one style of three differs the samples doubt 0.64 nat.
    np.testing.assert_array_equal(labels == 7, OUTER & ~CORE)
    assert facts["doubt"]["voxels"]["high"] == int((OUTER & ~CORE).sum())
    # What was clicked nobody doubts: the class is seen there, and nothing is laid over it.
    place = (20, 20, 8)
    labels, _ = asked(client, "doubted", "doubt", candidates="off", organ=[place])
    assert labels[place] == 1
    bands, _ = asked(client, "doubted", "doubt", doubt="bands only", organ=[place])
    assert bands[place] == 0
    asked(client, "doubted", "doubt")
    bands, facts = asked(client, "doubted", "doubt", doubt="bands only")
    assert facts["label_names"] == {"doubt: moderate": 1, "doubt: high": 2}
    np.testing.assert_array_equal(bands == 2, OUTER & ~CORE)
    both, facts = asked(client, "doubted", "doubt", candidates="regions only", doubt="off")
    assert facts["label_names"] == {name: n for n, name in enumerate(CANDIDATES, start=1)}
    np.testing.assert_array_equal(both, np.select([MIDDLE & ~CORE, OUTER & ~MIDDLE], [3, 2], 0))
    maps = requests.get(
        f"{desk.url}/overread/maps", params={"model": "doubted", "image": "doubt"}, timeout=60
    ).json()
    assert {"predictive_entropy", "probability_organ", "proposal"} <= set(maps["maps"])


def test_whose_doubt_it_is_can_be_had_as_three_maps(desk, client, tmp_path):
    _, facts = asked(client, "shells", "parts", measure="style")
    told = facts["doubt_parts"]
    assert (told["asks"], told["words"]) == ("person", "doubt mostly of style: ask a person")
    assert told["parts"]["members"] == 0
    assert "`members` is 0 where there is one network" in told["meaning"]["networks"]
    assert facts["scores"]["style"] == told["parts"]["style"]
    query = {"model": "shells", "image": "parts"}
    found = {}
    for name in ("style", "within", "members"):
        answer = requests.get(f"{desk.url}/overread/maps", params=query | {"map": name}, timeout=60)
        assert answer.ok, answer.text
        (tmp_path / "map.nii.gz").write_bytes(answer.content)
        found[name], grid = read_array(tmp_path / "map.nii.gz")
        assert grid.difference_from(GRID) is None
    # One style of three differs there, and each is sure.
    np.testing.assert_allclose(found["style"][OUTER & ~CORE], 2 / 9, atol=0.02)
    assert found["style"][CORE].max() < 0.01
    assert found["within"].max() < 0.03
    assert not found["members"].any()
    # Nobody asked for the parts: they are not worked out.
    assert asked(client, "shells", "options")[1].get("doubt_parts") is None


def test_who_asks_for_the_next_case_is_told_whose_doubt_it_is(desk):
    queue = requests.get(f"{desk.url}/info/", timeout=60).json()["queue"]
    parts = {"style": 0.1, "within": 0.02, "members": 0.0}
    row = ScoreRow(
        recipe=queue["recipe"],
        champion=queue["champion"],
        case_id="parts",
        revision="1",
        doubt=0.5,
        quality=None,
        class_doubt={"organ": 0.4},
        foreground_mm3={"organ": 1000.0},
        features=(0.0,),
        took_s=1.0,
        error=None,
        scored_at=time.time(),
        parts=parts,
    )
    database = Database.open(desk.app_dir / "state" / "overread.db", must_exist=True)
    with database.writing() as c:
        put_score(c, row)
    database.close()
    answer = requests.post(
        f"{desk.url}/activelearning/most_uncertain", json={"client_id": "parts"}, timeout=60
    ).json()
    assert answer["id"] == "parts", answer
    assert answer["reason"].endswith(", doubt mostly of style: ask a person")
    assert answer["reason"] in answer["PatientID"]
    assert answer["doubt_parts"]["parts"] == parts
    assert answer["doubt_parts"]["asks"] == "person"


def test_candidates_can_be_had_as_labelled_points(client):
    asked(client, "shells", "marked")
    file, facts = client.infer("shells", "marked", FORCED | {"markups": True})
    assert file.endswith(".json")
    markups = json.loads(Path(file).read_text())["markups"][0]
    assert markups["coordinateSystem"] == "LPS"
    labels = [point["label"] for point in markups["controlPoints"]]
    assert labels[0] == "B: +2.2 mL, adds the upper pole (33 %)"
    assert len(labels) == 2
    ras = LPS_TO_RAS @ np.array([*markups["controlPoints"][0]["position"], 1])
    voxel = np.rint(np.linalg.solve(GRID.affine, ras))[:3].astype(int)
    assert FIRST[tuple(voxel)] == 3
    assert list(voxel) == facts["candidates"]["organ"][1]["at"]


def test_pictures_and_single_slices_take_clicks(client):
    labels, facts = asked(client, "flat", "picture", candidates="off")
    np.testing.assert_array_equal(labels[..., 0], MIDDLE[..., 4])
    assert "added_px" in facts["candidates"]["organ"][0]
    labels, _ = asked(client, "flat", "picture", organ=[[5, 5, 0]], slice=0, candidates="off")
    assert labels[5, 5, 0] == 1
    labels, facts = asked(client, "flat", "slice", organ=[[5, 5, 0]], candidates="off")
    assert labels.shape == (*SHAPE[:2], 1)
    assert labels[5, 5, 0] == 1
    assert "added_ml" in facts["candidates"]["organ"][0]


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"organ": [[40, 0, 0]]}, "lies outside the image of [40, 34, 12] voxels"),
        ({"organ": [[1, 2]]}, "expected three whole numbers"),
        ({"organ": [[1.5, 2, 3]]}, "expected three whole numbers"),
        ({"organ": [[0, 0, 0]]}, "lies where the image is empty"),
        ({"spleen": [[1, 2, 3]]}, "there are clicks on 'spleen'"),
        ({"candidate": "E"}, "candidate 'E' is not offered"),
        ({"candidate": "D"}, "'candidate D' is not on offer; there are A, B, C"),
        ({"candidates": "all"}, "candidates 'all' is not offered"),
        ({"markups": "perhaps"}, "markups is 'perhaps', expected true or false"),
        ({"purpose": "x" * 61}, "purpose is longer than 60 characters"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_sentence(desk, client, params, sentence):
    asked(client, "shells", "bad")
    assert sentence in refusal(desk, "shells", "bad", **params)
    # Nothing was said by it.
    assert asked(client, "shells", "bad")[1]["turn"] == 0


def test_a_model_for_pictures_refuses_a_volume(desk):
    assert "the image has 12 slices" in refusal(desk, "flat", "bad")


def test_reset_begins_anew_with_the_clicks_that_are_sent(client):
    asked(client, "shells", "reset")
    asked(client, "shells", "reset", candidate="B")
    labels, facts = asked(client, "shells", "reset", reset=True)
    np.testing.assert_array_equal(labels, FIRST)
    assert facts["turn"] == 0


def test_an_image_that_is_not_in_the_folder_has_a_sitting_too(client, tmp_path):
    path = tmp_path / "opened.nii.gz"
    write_nifti(path, shells(), GRID)
    session = client.create_session(str(path))["session_id"]
    client.infer("shells", "Volume: 1/2", FORCED, session_id=session)
    file, facts = client.infer("shells", "Volume: 1/2", FORCED | {"candidate": "B"}, session_id=session)
    assert (facts["turn"], facts["encoded"]) == (1, "cached")
    np.testing.assert_array_equal(read_labelmap(Path(file))[0] == 0, ~OUTER)


def test_what_was_said_is_told_with_the_label_and_sessions_are_not(desk, client, tmp_path):
    asked(client, "shells", "round")
    database = sqlite3.connect(desk.app_dir / "state" / "overread.db")
    kinds = {kind for (kind,) in database.execute("select kind from turns where case_id = 'round'")}
    database.close()
    assert kinds == {"inference", "meduhip"}
    sidecar = next((desk.studies / "accepted" / "round").glob("*.json"))
    interactions = json.loads(sidecar.read_text())["details"]["interactions"]
    assert "meduhip" not in {turn["kind"] for turn in interactions}
    assert [list(IN_B)] in [turn["asked"].get("organ") for turn in interactions]


def test_a_recipe_may_get_a_champion_of_another_kind(desk, client):
    publish_threshold(desk.app_dir, "doubted", classes=("background", "organ"), cuts=(80.0,), offsets=(0.0,))
    try:
        assert client.info()["models"]["doubted"]["type"] == "segmentation"
        labels, _ = asked(client, "doubted", "doubt", doubt="off")
        np.testing.assert_array_equal(labels, MIDDLE)
    finally:
        publish_styles(desk.app_dir, "doubted", bands=True)
    assert client.info()["models"]["doubted"]["type"] == "deepedit"


def test_a_sitting_survives_a_restart_of_the_server(desk, tmp_path):
    client = desk.client(tmp_path)
    asked(client, "shells", "restart")
    asked(client, "shells", "restart", candidate="B")
    clicks = {"organ": [[5, 5, 5]], "candidate": "B"}
    before, facts = asked(client, "shells", "restart", **clicks)
    assert facts["turn"] == 2
    desk.stop()
    desk.start()
    client = desk.client(tmp_path)
    after, again = asked(client, "shells", "restart", organ=[[5, 5, 5]])
    np.testing.assert_array_equal(after, before)
    assert (again["turn"], again["encoded"]) == (2, "new")
    assert again["candidates"] == facts["candidates"]
    # The evidence of the next turn is computed anew from what was said.
    _, third = asked(client, "shells", "restart", organ=[[5, 5, 5]], background=[[15, 15, 4]])
    assert third["turn"] == 3


def accepts(desk: Desk, client: MONAILabelClient, folder: Path, case: str, mask: np.ndarray) -> None:
    """A person looks at a case, and then submits a mask of their own."""
    asked(client, "shells", case, candidates="off", **USUAL)
    path = folder / "submitted.nii.gz"
    write_nifti(path, mask.astype(np.uint8), GRID)
    client.save_label(case, str(path), params={"label_info": [{"name": "organ"}]})


def learnt(desk: Desk, person: str) -> list[dict[str, Any]]:
    """What the database holds of a person, as `overread preference show` tells it."""
    database = Database.open(desk.app_dir / "state" / "overread.db", must_exist=True)
    try:
        return Preferences(database).show(person)
    finally:
        database.close()


def wait_until(done: Callable[[], bool]) -> None:
    """Learning is done in the background."""
    for _ in range(240):
        if done():
            return
        time.sleep(0.25)
    raise AssertionError("it was waited for a minute in vain")


def teach_anna(desk: Desk, client: MONAILabelClient, folder: Path) -> None:
    for index in range(HABITS):
        accepts(desk, client, folder, f"habit_{index}", OUTER)
    wait_until(lambda: [row["cases"] for row in learnt(desk, "anna")] == [HABITS])


def test_the_next_case_starts_from_what_its_reader_accepted_and_only_theirs(habits, tmp_path):
    desk = habits
    client = desk.client(tmp_path)
    first, facts = asked(client, "shells", "habit_new", candidates="off", **USUAL)
    np.testing.assert_array_equal(first, MIDDLE)
    assert facts["preference"]["applied"] is False
    teach_anna(desk, client, tmp_path)
    (known,) = learnt(desk, "anna")
    assert (known["recipe"], known["purpose"], known["structure"]) == ("shells", "diagnosis", "organ")
    assert "larger than the model's own answer" in known["in_words"]

    def proposal(who: MONAILabelClient, **params: Any) -> tuple[np.ndarray, bool]:
        labels, facts = asked(who, "shells", "habit_next", candidates="off", **(USUAL | params))
        return labels, facts["preference"]["applied"]

    mine, applied = proposal(client)
    assert applied
    np.testing.assert_array_equal(mine, OUTER)
    # Not for another purpose, not where it is switched off, not for another person.
    for who, params in (
        (client, {"purpose": "radiotherapy"}),
        (client, {"preference": "off"}),
        (desk.client(tmp_path, "bert"), {}),
    ):
        usual, applied = proposal(who, **params)
        assert not applied
        np.testing.assert_array_equal(usual, MIDDLE)
    assert learnt(desk, "bert") == []


def test_preferences_survive_a_restart_and_a_new_champion_whose_parts_mean_other_things(habits, tmp_path):
    desk = habits
    if not learnt(desk, "anna"):
        teach_anna(desk, desk.client(tmp_path), tmp_path)
    (before,) = learnt(desk, "anna")
    turned = tuple(reversed(THRESHOLDS))
    desk.stop()
    publish_styles(desk.app_dir, "shells", structures=(turned,))
    desk.start()
    client = desk.client(tmp_path)
    asked(client, "shells", "habit_new", candidates="off", **USUAL)

    def is_replayed() -> bool:
        (now,) = learnt(desk, "anna")
        return now["champion"] != before["champion"] and now["cases"] == HABITS

    wait_until(is_replayed)
    (after,) = learnt(desk, "anna")
    np.testing.assert_allclose(after["components"], before["components"][::-1], atol=0.02)
    labels, facts = asked(client, "shells", "habit_last", candidates="off", **USUAL)
    assert facts["preference"]["applied"]
    np.testing.assert_array_equal(labels, OUTER)


def test_a_case_that_began_with_preferences_begins_without_them_once_they_are_reset(habits, tmp_path):
    desk = habits
    client = desk.client(tmp_path)
    if not learnt(desk, "anna"):
        teach_anna(desk, client, tmp_path)
    labels, facts = asked(client, "shells", "habit_again", candidates="off", **USUAL)
    assert facts["preference"]["applied"]
    np.testing.assert_array_equal(labels, OUTER)
    database = Database.open(desk.app_dir / "state" / "overread.db", must_exist=True)
    Preferences(database).reset("anna", time.time())
    database.close()
    labels, facts = asked(client, "shells", "habit_again", candidates="off", **USUAL)
    assert not facts["preference"]["applied"]
    np.testing.assert_array_equal(labels, MIDDLE)
    # It began anew once, not with every request.
    asked(client, "shells", "habit_again", candidate="B", **USUAL)
    _, facts = asked(client, "shells", "habit_again", candidate="B", organ=[[5, 5, 5]], **USUAL)
    assert facts["turn"] == 2
