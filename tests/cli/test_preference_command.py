"""Anybody's habits can be listed, copied and forgotten with one command, and go over to a new champion."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from overread.cli import app
from overread.domain.slides import PatchLocation, PixelSize
from overread.ensemble.plan import Normalisation
from overread.imaging.slides.pyramid import write_pyramid
from overread.learning.champions import ChampionStore
from overread.learning.patches import read_patch
from overread.learning.preferences import Preferences
from overread.meduhip.network import Configuration, MedUHIP
from overread.meduhip.storage import load_reader, save_model
from overread.state.database import Database
from support.known_meduhip import disc_of, known_reader, picture
from support.rated import write_picture

runner = CliRunner(env={"TERM": "dumb", "COLUMNS": "200", "OVERREAD_DEBUG": "", "OVERREAD_APP": ""})


@pytest.fixture
def place(tmp_path: Path) -> str:
    """A database that knows anna and bert."""
    database = Database.open(tmp_path / "overread.db")
    reader = known_reader()
    opened = reader.open(picture())
    for person, radius in (("anna", 10), ("bert", 4)):
        Preferences(database).accepted(
            person, "disc", "", reader, opened, [disc_of(radius)], "case0", 1_700_000_000
        )
    database.close()
    return str(tmp_path / "overread.db")


def run(*arguments: str) -> str:
    outcome = runner.invoke(app, ["preference", *arguments], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.stderr
    return outcome.stdout


def test_show_lists_who_is_known(place: str):
    told = run("show", "--database", place)
    assert "anna" in told
    assert "smaller than the model's own answer" in told
    (row,) = json.loads(run("show", "bert", "--database", place, "--json"))
    assert (row["person"], row["cases"]) == ("bert", 1)


def test_export_writes_all_of_one_person(place: str, tmp_path: Path):
    run("export", "anna", "--out", str(tmp_path / "anna.json"), "--database", place)
    kept = json.loads((tmp_path / "anna.json").read_text())
    assert [row["person"] for row in kept["examples"]] == ["anna"]
    assert json.loads(run("export", "anna", "--database", place)) == kept


def test_reset_forgets_one_person(place: str):
    assert json.loads(run("reset", "anna", "--database", place, "--json"))["cases"] == 1
    assert [row["person"] for row in json.loads(run("show", "--database", place, "--json"))] == ["bert"]
    run("reset", "bert", "--database", place)
    assert "Nothing is remembered of anybody." in run("show", "--database", place)


def test_replay_brings_them_over_to_the_champion_in_service(place: str, tmp_path: Path):
    model = MedUHIP(Configuration(width=4, components=2, dimension=2, prompt_width=4)).eval()
    save_model(
        tmp_path / "made",
        model,
        known_reader().plan,
        name="disc",
        classes=("background", "disc"),
        channels=("image",),
        training={},
    )
    store = ChampionStore(tmp_path / "models")
    champion = store.publish("disc", tmp_path / "made")
    write_picture(tmp_path / "studies" / "case0.png", (picture().voxels[0] * 100).astype("uint8"))
    arguments = ["--studies", str(tmp_path / "studies"), "--models", str(store.root), "--database", place]
    done = json.loads(run("replay", "disc", *arguments, "--device", "cpu", "--json"))
    assert done == {"model": "disc", "people": ["anna", "bert"], "cases": 1, "missing": []}
    rows = json.loads(run("show", "--database", place, "--json"))
    assert {row["champion"] for row in rows} == {champion.name}
    database = Database.open(place)
    assert Preferences(database).priors("anna", "disc", "", load_reader(champion)) is not None
    database.close()


def test_replay_cuts_patches_of_slides(tmp_path: Path):
    studies, case = tmp_path / "studies", "one-patch-20_10_60_40"
    studies.mkdir()
    pixels = np.random.default_rng(0).integers(60, 200, (80, 120, 3), dtype=np.uint8)
    write_pyramid(studies / "one.tif", pixels, PixelSize(0.5))
    location = PatchLocation.parse(case)
    assert location is not None
    plan = replace(known_reader().plan, classes=2, normalisation=(Normalisation("rgb"),) * 3, um_per_px=1.0)
    store = ChampionStore(tmp_path / "models")
    database = Database.open(tmp_path / "overread.db")
    champions = []
    for components in (2, 3):
        configuration = Configuration(channels=3, width=4, components=components, dimension=2, prompt_width=4)
        save_model(
            tmp_path / "made",
            MedUHIP(configuration).eval(),
            plan,
            name="disc",
            classes=("background", "disc"),
            channels=("R", "G", "B"),
            training={},
        )
        champions.append(store.publish("disc", tmp_path / "made"))
    reader = load_reader(champions[0])
    opened = reader.open(read_patch(studies / "one.tif", location, 1.0))
    mask = np.zeros((30, 20), bool)
    mask[5:20, 3:9] = True
    for each in (case, "gone-patch-20_10_60_40", "one-patch-100_10_60_40"):
        Preferences(database).accepted("anna", "disc", "", reader, opened, [mask], each, 1_700_000_000)
    database.close()
    arguments = ["--studies", str(studies), "--models", str(store.root), "--device", "cpu"]
    done = json.loads(
        run("replay", "disc", *arguments, "--database", str(tmp_path / "overread.db"), "--json")
    )
    # Of one the slide is gone, the other does not lie in it.
    missing = ["gone-patch-20_10_60_40", "one-patch-100_10_60_40"]
    assert done == {"model": "disc", "people": ["anna"], "cases": 1, "missing": missing}
