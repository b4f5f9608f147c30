"""What OHIF's panel is told differs from what other clients are told only where the panel works otherwise."""

import pytest

from overread.domain import NotFoundError
from overread.server.ohif.build import BUILD, CONFIGURATION, INDEX, built_file, mended
from overread.server.ohif.panel import POINTS, WHOLE, asked_model, info_for_panel, is_panel

VALUES = {"organ": 1, "candidate A": 2, "candidate B": 3, "doubt: moderate": 4, "doubt: high": 5}
TURNS = {
    "type": "deepedit",
    "labels": VALUES,
    "config": {"doubt": ["off"], "markups": False},
    "champion": "c",
}
PLAIN = {"type": "segmentation", "labels": {"organ": 1}, "config": {"members": ["all"]}}
INFO = {"name": "Overread", "labels": ["organ"], "models": {"plain": PLAIN, "turns": TURNS}}


def test_a_model_that_takes_turns_is_listed_for_its_points_and_as_a_whole_answer():
    told = info_for_panel(INFO)
    assert told | {"models": None} == INFO | {"models": None}
    assert list(told["models"]) == ["plain", "turns", "turns (whole answer)"]
    assert told["models"]["plain"] == PLAIN
    points, whole = told["models"]["turns"], told["models"]["turns (whole answer)"]
    # The panel paints what has the background's value; nothing has this one.
    assert points["labels"] == {"organ": 1, "background": 6}
    assert (points["type"], points["config"], points["champion"]) == ("deepedit", {}, "c")
    assert (whole["type"], whole["labels"]) == ("segmentation", VALUES)
    assert whole["config"] == {"doubt": ["off"]}
    assert INFO["models"]["turns"] is TURNS
    assert TURNS["config"] == {"doubt": ["off"], "markups": False}


def test_the_panel_is_known_by_what_it_sends_and_by_its_page():
    assert asked_model("turns", {"restore_label_idx": False}) == ("turns", POINTS)
    assert asked_model("turns (whole answer)", {"restore_label_idx": False}) == ("turns", WHOLE)
    assert asked_model("turns (whole answer)", {}) == ("turns (whole answer)", None)
    assert is_panel("http://ward:8000/ohif/monai-label?StudyInstanceUIDs=1.2")
    assert not is_panel("http://ward:8000/docs")
    assert not is_panel("")


def test_the_pages_name_no_other_machine_and_tell_the_panel_its_server():
    assert "fonts.g" in (BUILD / INDEX).read_text()
    for file in (BUILD / INDEX, *BUILD.glob("app.bundle*.css")):
        assert "fonts.g" not in mended(file)
    configuration = mended(BUILD / CONFIGURATION)
    assert "MONAILABEL_SERVER_URL" in configuration
    assert "doubt: moderate" in configuration
    assert "storeSegmentation" in configuration


def test_an_address_is_a_file_of_the_build_or_the_viewer():
    assert built_file("assets/favicon.ico") == BUILD / "assets" / "favicon.ico"
    assert built_file("monai-label") == built_file("") == BUILD / INDEX
    assert built_file("../../ohif") == built_file("\0") == built_file("x" * 5000) == BUILD / INDEX
    for address in ("missing.js", "../../ohif.py", "assets/../../../ohif.py"):
        with pytest.raises(NotFoundError, match="OHIF's build has no file"):
            built_file(address)
