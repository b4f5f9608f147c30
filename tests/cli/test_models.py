"""The versions of a model, told and compared as the store and the gate remember them, and the way back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from overread.cli import app
from overread.ensemble.storage import read_description, write_description
from overread.ensemble.threshold import write_threshold_ensemble
from overread.learning.champions import ChampionStore
from overread.learning.comparison import CaseComparison, ClassComparison, Comparison
from overread.learning.gate import Decision
from overread.learning.versions import record_decision, settle
from overread.state import audit
from overread.state.database import Database, default_path
from overread.state.models import models as model_rows

runner = CliRunner(env={"TERM": "dumb", "COLUMNS": "200", "OVERREAD_DEBUG": ""})
TABLE = Comparison(
    cases=(CaseComparison("local-study_1", "ada", (0,), {"organ": 0.5}, {"organ": 0.75}),),
    patients=1,
    mean_before=0.5,
    mean_after=0.75,
    difference=0.25,
    low=0.25,
    high=0.25,
    confidence=0.9,
    per_class={"organ": ClassComparison(1, 0.5, 0.75)},
)


class Home:
    """An app folder with two versions of `organ`, the second made from the first and promoted by the gate."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "main.py").touch()
        self.store = ChampionStore(folder / "model")
        self.database = Database.open(default_path(folder))
        self.first = self.store.publish("organ", ensemble(folder / "a", 10)).name
        settle(self.database, self.store, 1.0)
        parent = read_description(self.store.current("organ"))["identity"]
        made = {"parent": parent, "data": {"central": {}, "local": {"local-study_1": {}}}}
        challenger = self.store.add("organ", ensemble(folder / "b", 20, **made))
        self.second = challenger.name
        decision = Decision(
            self.first, self.second, True, "promoted: better here", "cross-validation", None, TABLE
        )
        record_decision(self.database, "organ", challenger, decision, 2.0)
        settle(self.database, self.store, 3.0)

    def run(self, *arguments: str) -> Result:
        return runner.invoke(app, ["models", *arguments, "--app", str(self.folder)])

    def answer(self, *arguments: str):
        result = self.run(*arguments, "--json")
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)


def ensemble(folder: Path, cut: float, **more: object) -> Path:
    write_threshold_ensemble(folder, "organ", ["background", "organ"], [cut])
    write_description(folder, {**read_description(folder), **more})
    return folder


@pytest.fixture
def home(tmp_path: Path):
    made = Home(tmp_path)
    yield made
    made.database.close()


def test_the_list_is_what_the_command_alone_tells(home: Home):
    listed = home.answer("list")
    assert [(row["name"], row["champion"], row["versions"]) for row in listed] == [("organ", home.second, 2)]
    alone = runner.invoke(app, ["models", "--app", str(home.folder), "--json"])
    assert json.loads(alone.stdout) == listed
    assert home.second in home.run("list").stdout


def test_a_damaged_champion_is_listed_with_its_remedy(home: Home):
    (home.store.current("organ") / "ensemble.json").write_text("{")
    row = home.answer("list")[0]
    assert (row["name"], row["champion"]) == ("organ", None)
    assert "overread models rollback organ" in row["damage"]
    assert "damaged" in home.run("list").stdout
    assert "damaged" in home.run("show", "organ").stdout


def test_versions_show_parent_status_and_decision(home: Home):
    rows = home.answer("show", "organ")
    assert [(row["version"], row["parent"], row["status"]) for row in rows] == [
        (home.first, "", "retired"),
        (home.second, home.first, "champion"),
    ]
    assert rows[0]["decision"] is None
    assert rows[1]["decision"]["reason"] == "promoted: better here"
    table = home.run("show", "organ").stdout
    assert "promoted: better here" in table
    assert "retired" in table


def test_one_version_shows_the_gates_tables(home: Home):
    facts = home.answer("show", "organ", home.second[:5])
    assert facts["decision"]["local"]["per_class"]["organ"]["difference"] == 0.25
    assert [term["why"] for term in facts["terms"]] == ["promoted: better here"]
    told = home.run("show", "organ", home.second).stdout
    assert "The gate: promoted: better here" in told
    assert "local-study_1" in told
    assert "+0.250" in told


def test_two_versions_differ_in_plan_and_cases_and_show_what_the_gate_said(home: Home):
    answer = home.answer("diff", "organ", home.first, home.second)
    assert answer["changes"] == {"plan.cuts": {"first": [10.0], "second": [20.0]}}
    assert answer["cases"]["local"] == {"added": ["local-study_1"], "removed": []}
    assert answer["decision"]["promoted"]
    told = home.run("diff", "organ", home.first, home.second).stdout
    assert "plan.cuts" in told
    assert "local cases added: local-study_1" in told
    assert "The gate: promoted: better here" in told
    same = home.run("diff", "organ", home.first, home.first).stdout
    assert "differ in their weights only" in same


def test_rollback_is_served_audited_and_noted(home: Home):
    answer = home.answer("rollback", "organ")
    assert (answer["champion"], answer["noted"]) == (home.first, True)
    assert home.store.current("organ").name == home.first
    with home.database.reading() as c:
        last = list(audit.rows(c))[-1]
        statuses = {row.identity: row.status for row in model_rows(c, "organ")}
    assert (last.actor, last.action, last.details) == (
        "overread models",
        "rolled back",
        {"from": home.second, "to": home.first},
    )
    assert statuses == {home.first: "champion", home.second: "retired"}
    # The next start does not promote again what was decided before.
    assert settle(home.database, home.store, 9.0) == []
    told = home.run("rollback", "organ", home.second[:6])
    assert f"{home.second} is the champion of organ again." in told.stdout


def test_a_decision_that_waits_is_applied_before_a_rollback_and_does_not_come_back(home: Home):
    third = home.store.add("organ", ensemble(home.folder / "c", 30))
    decision = Decision(home.second, third.name, True, "promoted: even better", "", None, None)
    record_decision(home.database, "organ", third, decision, 4.0)
    assert home.answer("rollback", "organ")["champion"] == home.second
    assert [term.champion for term in home.store.history("organ")] == [
        *(home.first, home.second, third.name, home.second)
    ]
    assert settle(home.database, home.store, 9.0) == []


def test_a_decision_about_a_champion_that_was_replaced_is_dropped(home: Home):
    third = home.store.add("organ", ensemble(home.folder / "c", 30))
    decision = Decision(home.first, third.name, True, "promoted: better than the first", "", None, None)
    record_decision(home.database, "organ", third, decision, 4.0)
    done = settle(home.database, home.store, 5.0)
    assert len(done) == 1
    assert f"was to replace {home.first}, but {home.second} is in service now" in done[0]
    assert settle(home.database, home.store, 6.0) == []
    with home.database.reading() as c:
        assert list(audit.rows(c))[-1].action == "promotion dropped"


def test_a_champion_whose_folder_is_gone_is_noted_as_retired(home: Home):
    import shutil

    shutil.rmtree(home.store.root / "organ" / home.second)
    assert settle(home.database, home.store, 5.0) == [
        f"{home.second} of organ is gone from the store and noted as retired"
    ]
    assert settle(home.database, home.store, 6.0) == []


def test_a_damaged_manifest_does_not_keep_the_others_from_being_settled(
    home: Home, caplog: pytest.LogCaptureFixture
):
    (home.store.root / "organ" / "champion.json").write_text("{")
    home.store.publish("lung", ensemble(home.folder / "l", 5))
    done = settle(home.database, home.store, 5.0)
    assert [sentence.partition(" of ")[2] for sentence in done] == ["lung is now noted as champion"]
    assert "organ cannot be settled" in caplog.text


def test_rollback_without_a_database_says_that_nobody_noted_it(tmp_path: Path):
    store = ChampionStore(tmp_path / "champions")
    for cut in (10, 20):
        last = store.publish("organ", ensemble(tmp_path / str(cut), cut))
    arguments = ["models", "rollback", "organ", "--models", str(store.root)]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0
    assert "the audit log does not know" in result.stderr
    again = runner.invoke(app, [*arguments, last.name, "--json"])
    assert (json.loads(again.stdout)["champion"], json.loads(again.stdout)["noted"]) == (last.name, False)


def test_a_version_that_is_not_there_is_one_sentence(home: Home):
    result = home.run("show", "organ", "ffffff")
    assert result.exit_code == 1
    assert "has no version 'ffffff'; there are" in result.stderr


def test_options_before_the_command_are_refused_rather_than_ignored(home: Home):
    result = runner.invoke(app, ["models", "--json", "list"])
    assert result.exit_code == 2
    assert "options belong behind the command" in result.stderr
