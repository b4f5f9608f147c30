"""Claim: people see, take along and forget what is remembered of how they draw, in a browser, and nobody else's."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import requests

from overread.access import Person, Role, UsersFile
from overread.access.roles import ForbiddenError
from overread.access.users import default_users
from overread.domain import BadInputError, Grid
from overread.imaging.volumes import Volume, write_nifti
from overread.learning.preferences import Preferences, unpacked
from overread.meduhip.storage import load_reader
from overread.server.front.memory import Habit, Memory, Remembered, memories, memory_page
from overread.server.preference_routes import whose_memory
from overread.state import audit
from overread.state.database import Database, default_path
from support.known_meduhip import disc_of, known_reader, picture
from support.pages import Text
from support.servers import app_copy, publish_threshold, running_server
from support.styles import OUTER_BOX, SHAPE, publish_styles, shells

LIVER = Memory(
    "liver",
    "diagnosis",
    24,
    (
        Habit("liver", 23, "as large as the model's own answer", "2026-11-26 21:45"),
        Habit("lesion", 14, "12% larger than the model's own answer", "2026-11-25 08:00"),
    ),
)
SPLEEN = Memory("spleen", "", 1, ())
SEEN = Remembered("Overread - Radiology", "anna", (LIVER, SPLEEN), person="anna")
ANNA, BO, CHIEF = Person("anna", Role.READER), Person("Bo Ek", Role.REVIEWER), Person("chief", Role.ADMIN)
PASSWORDS = {"anna": "reads all day long", "Bo Ek": "judges the others", "chief": "runs the whole place"}
SHOW, EXPORT, PAGE, FORGET = (
    "/overread/preferences",
    "/overread/preferences/export",
    "/preferences",
    "/preferences/forget",
)


# -- the page


def test_the_page_says_by_model_and_purpose_how_somebody_draws():
    page = Text(memory_page(SEEN))
    assert "What is remembered of you" in page.read
    assert "liver diagnosis liver 23 as large as the model's own answer 2026-11-26 21:45" in page.read
    assert "lesion 14 12% larger than the model's own answer 2026-11-25 08:00" in page.read
    assert "spleen – – 1 kept, but not read yet by the model in service" in page.read
    assert "Set the option preference in the viewer to off" in page.read
    elsewhere = Text(memory_page(replace(SEEN, has_options=False))).read
    assert "QuPath has no such option" in elsewhere
    assert "--conf preference no" in elsewhere
    switched_off = Text(memory_page(replace(SEEN, is_usual=False))).read
    assert "nobody begins so who does not set the option preference to my usual style" in switched_off


def test_each_forget_button_forgets_what_its_row_says_after_a_question():
    page = Text(memory_page(SEEN))
    assert (
        "Forget what 24 cases of liver for diagnosis taught about you? It cannot be brought back."
        in page.read
    )
    assert "Forget what 1 case of spleen taught about you?" in page.read
    buttons = [urlsplit(address) for address in page.fetched if address.startswith(FORGET)]
    said = [parse_qs(button.query, keep_blank_values=True) for button in buttons]
    # The last is for all of them.
    assert said == [
        {"model": ["liver"], "purpose": ["diagnosis"]},
        {"model": ["spleen"], "purpose": [""]},
        {},
    ]
    assert page.tags.count("details") == page.tags.count("summary") == len(buttons)
    assert EXPORT in page.fetched
    one = Text(memory_page(replace(SEEN, memories=(LIVER,))))
    assert len([address for address in one.fetched if address.startswith(FORGET)]) == 1


def test_nothing_is_fetched_from_elsewhere_and_no_script_runs():
    page = Text(memory_page(replace(SEEN, person="chief", is_admin=True, people=["anna"])))
    assert page.fetched
    assert all(address.startswith("/") and not address.startswith("//") for address in page.fetched)
    assert "script" not in page.tags


def test_names_that_are_markup_stay_text_and_reach_the_server_whole():
    hostile = '"><script>alert(1)</script>&model=x'
    memory = Memory(hostile, hostile, 2, (Habit(hostile, 2, "as large", ""),))
    for seen in (
        replace(SEEN, whose=hostile, person="chief", memories=(memory,), is_admin=True, people=[hostile]),
        replace(SEEN, whose="", person="", memories=(), where_named=hostile),
    ):
        page = Text(memory_page(seen))
        assert "script" not in page.tags
        asked = [parse_qs(urlsplit(a).query) for a in page.fetched if a.startswith(FORGET)]
        assert asked in ([], [{"person": [hostile], "model": [hostile], "purpose": [hostile]}])
    assert hostile in Text(memory_page(replace(SEEN, memories=(memory,)))).read


def test_where_nobody_logs_in_a_name_is_asked_for():
    told = "In the viewer's settings: Client/User-ID."
    asked = Text(memory_page(replace(SEEN, whose="", person="", memories=(), where_named=told)))
    assert "Your name, as the viewer sends it" in asked.read
    assert "Client/User-ID" in asked.read
    assert "Nothing is remembered" not in asked.read
    named = Text(memory_page(replace(SEEN, person="")))
    assert f"{EXPORT}?person=anna" in named.fetched
    assert "Nothing is remembered of anna." in Text(memory_page(replace(SEEN, person="", memories=()))).read
    assert "as the viewer sends it" not in Text(memory_page(SEEN)).read


def test_what_was_just_forgotten_and_whose_mean_is_used_is_said():
    def said(**facts: object) -> str:
        return Text(memory_page(replace(SEEN, **facts))).read

    assert "Forgotten: what 3 cases taught." in said(forgotten=3)
    assert "Forgotten: what 1 case taught." in said(forgotten=1)
    assert "There was nothing to forget." in said(forgotten=0)
    assert "orgotten: what" not in said()
    assert "nothing to forget" not in said()
    assert "It is not applied to anybody else." in said()
    assert "only the mean of at least 3 people" in said(has_mean=True)


def test_admins_alone_are_offered_other_names():
    assert "Of somebody else" not in Text(memory_page(SEEN)).read
    admin = memory_page(replace(SEEN, person="chief", is_admin=True, people=["anna", "bo"]))
    assert "Of somebody else" in Text(admin).read
    assert '<option value="bo">' in admin
    assert "What is remembered of anna" in Text(admin).read
    assert f"{EXPORT}?person=anna" in Text(admin).fetched


def test_cases_that_taught_nothing_yet_are_told_as_well():
    row = {"recipe": "liver", "purpose": "", "structure": "lesion", "cases": 2, "in_words": "as large"}
    learnt = [row | {"champion": "c1", "updated_at": 1_795_729_500.0}]
    cases = {("spleen", "b"): 1, ("liver", ""): 3}
    spleen, told = Memory("spleen", "b", 1, ()), Habit("lesion", 2, "as large", "2026-11-26 21:45")
    assert memories(learnt, cases, {"liver": "c1", "spleen": "c2"}) == (
        Memory("liver", "", 3, (told,)),
        spleen,
    )
    # What an earlier champion learnt is not how the next case begins; of a model that is gone, it is all there is.
    assert memories(learnt, cases, {"liver": "c2"}) == (Memory("liver", "", 3, ()), spleen)
    assert memories(learnt, cases, {}) == (Memory("liver", "", 3, (told,)), spleen)


# -- whose it is


def test_people_see_their_own_and_an_admin_anybodys():
    assert whose_memory("", ANNA) == whose_memory("anna", ANNA) == whose_memory(" anna ", ANNA) == "anna"
    assert whose_memory("", CHIEF) == "chief"
    assert whose_memory("anna", CHIEF) == "anna"
    for person in (ANNA, BO):
        with pytest.raises(ForbiddenError, match=r"remembered of .* alone; for others this takes an admin"):
            whose_memory("chief", person)


def test_where_nobody_is_signed_in_the_request_says_whose():
    assert whose_memory("user-xyz", None) == "user-xyz"
    for nobody in ("", "  "):
        with pytest.raises(BadInputError, match="of whom"):
            whose_memory(nobody, None)
    with pytest.raises(BadInputError, match="control character"):
        whose_memory("a\nb", None)


# -- over HTTP


@dataclass(frozen=True)
class Place:
    """A running server and its folders."""

    url: str
    app_dir: Path
    studies: Path

    def ask(self, who: str, method: str, path: str, **arguments: object) -> requests.Response:
        """A request of a user; of nobody where `who` is empty."""
        headers = dict(arguments.pop("headers", {}))  # type: ignore[call-overload]
        if who:
            form = {"username": who, "password": PASSWORDS[who]}
            token = requests.post(f"{self.url}/auth/token", data=form, timeout=60).json()["access_token"]
            headers["Authorization"] = f"Bearer {token}"
        return requests.request(
            method, self.url + path, headers=headers, timeout=120, allow_redirects=False, **arguments
        )

    def page(self, who: str, path: str = PAGE, **params: str) -> Text:
        """What a browser shows."""
        answer = self.ask(who, "GET", path, params=params)
        assert answer.status_code == 200, answer.text
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        return Text(answer.text)

    @contextmanager
    def database(self) -> Iterator[Database]:
        opened = Database.open(default_path(self.app_dir))
        try:
            yield opened
        finally:
            opened.close()

    def known(self) -> dict[str, int]:
        """How many cases are remembered, by person."""
        with self.database() as database:
            memory = Preferences(database)
            return {person: sum(memory.cases(person).values()) for person in memory.people()}

    def rows(self, action: str) -> list[tuple[str, str]]:
        """Who did this to whom, by the audit log."""
        with self.database() as database, database.reading() as c:
            return [(row.actor, row.subject) for row in audit.rows(c) if row.action == action]

    def begin(self, *people: str) -> None:
        """Forget everybody, and learn two cases of each, one of them for another purpose."""
        reader = known_reader()
        opened = reader.open(picture())
        with self.database() as database:
            memory = Preferences(database)
            for person in memory.people():
                memory.reset(person, time.time())
            for person in people:
                for purpose in ("diagnosis", "radiotherapy"):
                    masks = [disc_of(10)]
                    memory.accepted(person, "disc", purpose, reader, opened, masks, "case0", time.time())


@pytest.fixture(scope="module")
def ward_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The radiology app with users, and no model that takes turns."""
    base = tmp_path_factory.mktemp("remembered")
    app_dir, studies = app_copy(base / "app"), base / "studies"
    studies.mkdir()
    publish_threshold(app_dir)
    write_nifti(studies / "open.nii.gz", shells(), Grid(SHAPE, np.diag([-1.0, -1, 1, 1])))
    users = UsersFile(default_users(app_dir))
    for person in (ANNA, BO, CHIEF):
        users.add(person.name, person.role, PASSWORDS[person.name], time.time())
    with running_server(app_dir, studies, ["scoring", "no"]) as url:
        yield Place(url, app_dir, studies)


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The pathology app, on which nobody logs in."""
    base = tmp_path_factory.mktemp("nobody")
    app_dir, studies = app_copy(base / "app", "pathology"), base / "studies"
    studies.mkdir()
    with running_server(app_dir, studies) as url:
        yield Place(url, app_dir, studies)


@pytest.fixture
def ward(ward_server: Place) -> Place:
    ward_server.begin("anna", "Bo Ek")
    return ward_server


@pytest.fixture
def alone(open_server: Place) -> Place:
    open_server.begin("user-xyz", "other")
    return open_server


@pytest.mark.slow
def test_a_reader_sees_and_exports_their_own_with_the_masks(ward):
    shown = ward.ask("anna", "GET", SHOW).json()
    assert [(row["person"], row["recipe"], row["purpose"], row["cases"]) for row in shown] == [
        ("anna", "disc", "diagnosis", 1),
        ("anna", "disc", "radiotherapy", 1),
    ]
    assert shown[0]["in_words"].endswith("than the model's own answer")
    assert ward.ask("anna", "GET", SHOW, params={"model": "other"}).json() == []

    answer = ward.ask("anna", "GET", EXPORT)
    assert answer.headers["Content-Disposition"] == 'attachment; filename="preferences.json"'
    assert answer.headers["Cache-Control"] == "no-store"
    kept = answer.json()
    assert {row["person"] for row in kept["examples"] + kept["preferences"]} == {"anna"}
    np.testing.assert_array_equal(unpacked(kept["examples"][0]["masks"]["disc"]), disc_of(10))
    one = ward.ask("anna", "GET", EXPORT, params={"model": "disc", "purpose": "diagnosis"}).json()
    assert [row["purpose"] for row in one["examples"]] == ["diagnosis"]
    assert ("anna", "anna") in ward.rows("preferences exported")


@pytest.mark.slow
@pytest.mark.parametrize("who", ["anna", "Bo Ek"])
def test_neither_reader_nor_reviewer_reaches_anybody_elses(ward, who):
    for method, path in (("GET", SHOW), ("GET", EXPORT), ("DELETE", SHOW), ("GET", PAGE), ("POST", FORGET)):
        answer = ward.ask(who, method, path, params={"person": "chief"})
        assert answer.status_code == 403, (method, path)
        assert f"remembered of {who} alone" in answer.json()["detail"]
    assert ward.known() == {"anna": 2, "Bo Ek": 2}
    assert "Of somebody else" not in ward.page(who).read


@pytest.mark.slow
def test_without_a_login_nothing_is_told_and_nothing_forgotten(ward):
    for method, path in (("GET", SHOW), ("GET", EXPORT), ("DELETE", SHOW), ("GET", PAGE), ("POST", FORGET)):
        assert ward.ask("", method, path, params={"person": "anna"}).status_code == 401, (method, path)
    browser = ward.ask("", "GET", PAGE, headers={"Accept": "text/html"})
    assert browser.headers["Location"] == "/login?next=%2Fpreferences"
    assert ward.known() == {"anna": 2, "Bo Ek": 2}


@pytest.mark.slow
def test_an_admin_names_another_person_and_the_audit_log_tells(ward):
    assert {row["person"] for row in ward.ask("chief", "GET", SHOW, params={"person": "anna"}).json()} == {
        "anna"
    }
    assert ward.ask("chief", "GET", SHOW).json() == []
    assert "disc diagnosis disc 1" in ward.page("chief", person="anna").read
    ward.ask("chief", "GET", EXPORT, params={"person": "anna"})
    answer = ward.ask("chief", "DELETE", SHOW, params={"person": "anna"})
    assert answer.json() == {"person": "anna", "model": None, "purpose": None, "cases": 2}
    assert ward.known() == {"Bo Ek": 2}
    assert ward.rows("preferences read").count(("chief", "anna")) == 2
    assert ("chief", "anna") in ward.rows("preferences exported")
    assert ward.rows("preference reset")[-1] == ("chief", "all models")
    # Who looks at their own leaves no row.
    ward.page("Bo Ek")
    assert ("Bo Ek", "Bo Ek") not in ward.rows("preferences read")


@pytest.mark.slow
def test_a_reset_forgets_one_purpose_or_all(ward):
    answer = ward.ask("anna", "DELETE", SHOW, params={"model": "disc", "purpose": "diagnosis"})
    assert answer.json()["cases"] == 1
    assert [row["purpose"] for row in ward.ask("anna", "GET", SHOW).json()] == ["radiotherapy"]
    # Of a case for which no purpose was said there is none; this is not all of them.
    assert ward.ask("anna", "DELETE", SHOW, params={"purpose": ""}).json()["cases"] == 0
    assert ward.known() == {"anna": 1, "Bo Ek": 2}
    assert ward.ask("anna", "DELETE", SHOW).json()["cases"] == 1
    assert ward.known() == {"Bo Ek": 2}
    assert ward.rows("preference reset")[-1] == ("anna", "all models")


@pytest.mark.slow
def test_what_would_be_overlooked_so_that_all_was_forgotten_is_refused(ward):
    for sent, sentence in (
        ({"params": {"recipe": "disc"}}, "person, model and purpose, not by recipe"),
        ({"json": {"model": "disc"}}, "not in a body"),
        ({"params": {"model": ""}}, "model is empty"),
        ({"params": {"purpose": "a\x00"}}, "not plain text"),
    ):
        answer = ward.ask("anna", "DELETE", SHOW, **sent)
        assert answer.status_code == 400
        assert sentence in answer.json()["detail"]
    assert ward.known()["anna"] == 2


@pytest.mark.slow
def test_the_buttons_of_the_page_forget_and_those_of_other_sites_do_not(ward):
    page = ward.page("anna")
    buttons = [address for address in page.fetched if address.startswith(FORGET)]
    assert len(buttons) == 3
    for strange in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert ward.ask("anna", "POST", buttons[-1], headers=strange).status_code == 403
        assert ward.ask("anna", "DELETE", SHOW, headers=strange).status_code == 403
    assert ward.known()["anna"] == 2
    answer = ward.ask("anna", "POST", buttons[0], headers={"Origin": ward.url})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/preferences?forgotten=1")
    read = ward.page("anna", answer.headers["Location"]).read
    assert "Forgotten: what 1 case taught." in read
    assert "disc radiotherapy disc 1" in read
    assert "disc diagnosis" not in read
    ward.ask("anna", "POST", buttons[1])
    assert "Nothing is remembered." in ward.page("anna").read
    assert ward.known() == {"Bo Ek": 2}
    answer = ward.ask("chief", "POST", FORGET, params={"person": "Bo Ek"})
    assert answer.headers["Location"] == "/preferences?person=Bo+Ek&forgotten=2"


@pytest.mark.slow
def test_the_first_page_leads_there_where_somebody_is_remembered_or_a_model_remembers(ward):
    assert PAGE in ward.page("anna", "/").fetched
    ward.begin()
    # Another test may have had it served.
    shutil.rmtree(ward.app_dir / "model" / "shells", ignore_errors=True)
    assert PAGE not in ward.page("anna", "/").fetched
    publish_styles(ward.app_dir, "shells")
    assert PAGE in ward.page("anna", "/").fetched


@pytest.mark.slow
def test_a_case_that_had_begun_with_habits_begins_anew_once_they_are_forgotten(ward):
    reader = load_reader(publish_styles(ward.app_dir, "shells"), "cpu")
    opened = reader.open(Volume(shells()[None], Grid(SHAPE, np.eye(4))))
    outer = np.zeros(SHAPE, bool)
    outer[OUTER_BOX] = True
    with ward.database() as database:
        memory = Preferences(database)
        for case in ("a", "b", "c"):
            memory.accepted("anna", "shells", "diagnosis", reader, opened, [outer], case, time.time())

    def is_applied() -> bool:
        params = {"params": (None, json.dumps({"candidates": "off", "preference": "my usual style"}))}
        answer = ward.ask("anna", "POST", "/infer/shells?image=open&output=json", files=params)
        assert answer.status_code == 200, answer.text
        return answer.json()["preference"]["applied"]

    assert is_applied()
    assert is_applied()
    assert ward.ask("anna", "DELETE", SHOW, params={"model": "shells"}).json()["cases"] == 3
    assert not is_applied()


@pytest.mark.slow
def test_where_nobody_logs_in_a_request_names_the_person(alone):
    for method, path in (("GET", SHOW), ("GET", EXPORT), ("DELETE", SHOW), ("POST", FORGET)):
        answer = alone.ask("", method, path)
        assert answer.status_code == 400, (method, path)
        assert "`client_id`" in answer.json()["detail"]
    user = {"person": "user-xyz"}
    assert {row["person"] for row in alone.ask("", "GET", SHOW, params=user).json()} == {"user-xyz"}
    assert len(alone.ask("", "GET", EXPORT, params=user).json()["examples"]) == 2
    assert PAGE in alone.page("", "/").fetched
    asked = alone.ask("", "GET", PAGE)
    assert "QuPath sends none: of whoever does not log in nothing is remembered." in asked.text
    assert "disc" not in asked.text
    page = alone.page("", **user)
    assert "disc diagnosis disc 1" in page.read
    everything = [address for address in page.fetched if address.startswith(FORGET)][-1]
    answer = alone.ask("", "POST", everything)
    assert answer.headers["Location"] == "/preferences?person=user-xyz&forgotten=2"
    assert "Forgotten: what 2 cases taught." in alone.page("", answer.headers["Location"]).read
    assert alone.known() == {"other": 2}
    assert alone.rows("preference reset")[-1] == ("user-xyz", "all models")
    assert alone.ask("", "DELETE", SHOW, params={"person": "other"}).json()["cases"] == 2
