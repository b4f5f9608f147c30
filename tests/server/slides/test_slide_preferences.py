"""A MedUHIP champion remembers how each reader outlines: their next rectangle begins from what they submitted."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import shapely
import shapely.affinity
from shapely.geometry import shape

from overread.access import Role, UsersFile
from overread.access.users import default_users
from overread.domain import Region
from overread.domain.slides import PatchLocation
from overread.ensemble.slides.prediction import predict_slide
from overread.ensemble.storage import load_ensemble
from overread.imaging.slides.pyramid import write_pyramid
from overread.imaging.slides.slide import open_slide
from overread.learning.champions import ChampionStore
from overread.learning.preferences import Preferences
from overread.queue.patches.files import SlideState
from overread.queue.scoring import revision_of
from overread.server.maps import MapKey
from overread.server.slides.maps import SlideMapStore
from overread.state.database import Database
from support.blobs import CLASSES, MODEL_PIXEL, PIXEL, TUMOUR, publish_blob_champion
from support.pages import Text
from support.servers import app_copy, running_server
from support.slide_store import asap, rectangle
from support.styles import BODY, CORE, MIDDLE, OUTER, THRESHOLDS, publish_styles

pytestmark = pytest.mark.slow

RECIPE = "styles"
NOT_READ = "kept, but not read yet by the model in service"
# Green and blue of all tissue; red tells the shells.
GREEN, BLUE = 20, 60
# The square that is asked about, in pixels of the model, which are two of the slide's; and what is drawn in one quarter
# of it: were axes exchanged or turned round, it would lie in another.
EDGE = 40
OUTER_BOX, MIDDLE_BOX, CORE_BOX = (
    (slice(22, 38), slice(4, 16)),
    (slice(22, 32), slice(4, 12)),
    (slice(22, 28), slice(4, 8)),
)
# How far apart squares lie side by side on a slide, and where the first begins.
STEP, FIRST = 120, (40, 160)
LESSONS = 4


def square() -> np.ndarray:
    """What the model sees of a square, `(channel, x, y)`."""
    seen = np.empty((3, EDGE, EDGE), np.float32)
    seen[:] = np.array([BODY, GREEN, BLUE]).reshape(3, 1, 1)
    for box, value in ((OUTER_BOX, OUTER), (MIDDLE_BOX, MIDDLE), (CORE_BOX, CORE)):
        seen[(0, *box)] = value
    return seen


def place(number: int) -> Region:
    """A square on the slide."""
    return Region(FIRST[0] + number * STEP, FIRST[1], 2 * EDGE, 2 * EDGE)


def outline(box: tuple[slice, slice], at: Region) -> Region:
    """Where a shell of a square lies on the slide."""
    x, y = box
    return Region(at.x + 2 * x.start, at.y + 2 * y.start, 2 * (x.stop - x.start), 2 * (y.stop - y.start))


def write_squares(path: Path, count: int) -> None:
    """A slide with a strip of tissue that holds so many squares."""
    picture = np.full((400, count * STEP + 80, 3), 245, np.uint8)
    picture[FIRST[1] - 60 : FIRST[1] + 2 * EDGE + 60] = (int(BODY), GREEN, BLUE)
    of_square = np.kron(square().transpose(2, 1, 0), np.ones((2, 2, 1))).astype(np.uint8)
    for number in range(count):
        at = place(number)
        picture[at.y : at.bottom, at.x : at.right] = of_square
    write_pyramid(path, picture, PIXEL)


def publish(app_dir: Path, thresholds: tuple[float, ...] = THRESHOLDS) -> None:
    publish_styles(
        app_dir,
        RECIPE,
        axes=2,
        classes=CLASSES,
        structures=(thresholds,),
        image=square(),
        um_per_px=MODEL_PIXEL.um,
    )


@dataclass
class Desk:
    """A server, and what a program asks it that says who is asking."""

    url: str
    app_dir: Path
    studies: Path
    _fresh: int = 0

    def fresh(self) -> Region:
        """A square that nobody asked about."""
        self._fresh += 1
        return place(self._fresh - 1)

    def ask(
        self, at: Region | None, person: str = "", slide: str = "one", token: str = "", **said: Any
    ) -> tuple[list[shapely.Polygon], dict[str, Any]]:
        """Outlines of tumour, and the facts. Without a name a client is known by its address."""
        where = {} if at is None else {"location": [at.x, at.y], "size": [at.width, at.height]}
        answer = self.send(
            "POST", f"/infer/wsi/{RECIPE}?image={slide}", token, json=where | _named(person) | said
        )
        facts = answer.json()
        drawn = [
            shape(feature["geometry"])
            for feature in facts["features"]
            if feature["properties"]["classification"]["name"] == TUMOUR
        ]
        return drawn, facts

    def submit(self, image: str, xml: bytes, person: str = "", token: str = "") -> dict[str, Any]:
        form = {"params": json.dumps(_named(person))}
        answer = self.send(
            "PUT",
            f"/datastore/label?image={image}",
            token,
            data=form,
            files={"label": ("one.xml", xml)},
        )
        return answer.json()["accepted"]

    def accept(self, at: Region, person: str = "", slide: str = "one", token: str = "", **said: Any) -> None:
        """Look at a square, and submit the outer shell as all that is in it."""
        self.ask(at, person, slide, token, **said)
        drawn = asap((TUMOUR, rectangle(*outline(OUTER_BOX, at).bbox)), box=at.bbox)
        told = self.submit(PatchLocation(slide, at).name, drawn, person, token)
        assert [label["partial"] for label in told["labels"]] == [False]

    def teach(self, person: str, **said: Any) -> None:
        for _ in range(LESSONS):
            self.accept(self.fresh(), person, **said)
        self.wait_for(person, LESSONS)

    def send(self, method: str, path: str, token: str, **content: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        answer = requests.request(method, self.url + path, headers=headers, timeout=120, **content)
        assert answer.ok, answer.text
        return answer

    def with_preferences(self, then: Callable[[Preferences], Any]) -> Any:
        database = Database.open(self.app_dir / "state" / "overread.db", must_exist=True)
        try:
            return then(Preferences(database))
        finally:
            database.close()

    def learnt(self, person: str | None = None) -> list[dict[str, Any]]:
        """What the database holds of a person, as `overread preference show` tells it."""
        return self.with_preferences(lambda kept: kept.show(person))

    def page(self, person: str) -> str:
        """What a browser shows of it."""
        answer = requests.get(f"{self.url}/preferences", params={"person": person}, timeout=60)
        assert answer.ok, answer.text
        return Text(answer.text).read

    def wait_for(self, person: str, cases: int) -> None:
        """Learning is done in the background."""
        wait_until(lambda: [row["cases"] for row in self.learnt(person)] == [cases])

    def wait_for_all(self) -> None:
        """Lessons come one after another: when another one's is learnt, all are that were submitted before."""
        witness = f"witness {self._fresh}"
        self.accept(self.fresh(), witness)
        self.wait_for(witness, 1)


def _named(person: str) -> dict[str, str]:
    return {"client_id": person} if person else {}


def wait_until(done: Callable[[], bool]) -> None:
    for _ in range(240):
        if done():
            return
        time.sleep(0.25)
    raise AssertionError("it was waited for a minute in vain")


def is_shell(drawn: list[shapely.Polygon], box: tuple[slice, slice], at: Region) -> bool:
    """Whether just that shell is drawn, to a pixel of the model."""
    where = outline(box, at)
    expected = shapely.box(where.x, where.y, where.right, where.bottom)
    return shapely.hausdorff_distance(shapely.union_all(drawn), expected) <= 2


def moved(drawn: list[shapely.Polygon], start: Region, end: Region) -> shapely.Geometry:
    """What is drawn in one square as it would be in another."""
    return shapely.affinity.translate(shapely.union_all(drawn), end.x - start.x, end.y - start.y)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A server with a MedUHIP champion of three styles, and an ensemble that knows the same classes."""
    base = tmp_path_factory.mktemp("habits")
    app_dir, studies = app_copy(base / "app", "pathology"), base / "studies"
    studies.mkdir()
    publish(app_dir)
    publish_blob_champion(app_dir)
    # As many as all tests ask about, each afresh.
    write_squares(studies / "one.tif", 60)
    write_squares(studies / "gone.tif", 3)
    conf = ["scoring", "no", "max_region_px", "40000", "control_share", "0", "threads", "1"]
    with running_server(app_dir, studies, conf) as url:
        yield Desk(url, app_dir, studies)


@pytest.fixture
def anna(desk: Desk) -> str:
    """Somebody who has submitted the outer shell several times."""
    if not desk.learnt("anna"):
        desk.teach("anna")
    return "anna"


def test_the_first_answer_follows_what_its_reader_submitted_before_and_only_theirs(desk: Desk):
    first = desk.fresh()
    usual, facts = desk.ask(first, "anna")
    assert facts["preference"] == {"style": "my usual style", "purpose": "diagnosis", "applied": False}
    # Two styles of three hold the middle shell.
    assert is_shell(usual, MIDDLE_BOX, first)
    desk.teach("anna")
    (known,) = desk.learnt("anna")
    assert (known["recipe"], known["purpose"], known["structure"]) == (RECIPE, "diagnosis", TUMOUR)
    # It was compared where it lies: elsewhere no style is more like it than another.
    assert known["components"][1] > 0.9
    at = desk.fresh()
    mine, facts = desk.ask(at, "anna")
    assert facts["preference"]["applied"] is True
    assert is_shell(mine, OUTER_BOX, at)
    # Not for another purpose, not where it is switched off, not for another person, and for nobody.
    for person, said in (
        ("anna", {"purpose": "radiotherapy"}),
        ("anna", {"preference": "off"}),
        ("bert", {}),
        ("", {}),
    ):
        theirs, facts = desk.ask(at, person, **said)
        assert facts["preference"]["applied"] is False
        assert shapely.equals(shapely.union_all(theirs), moved(usual, first, at))
    assert desk.learnt("bert") == []
    # An open rectangle where only the preference is changed begins anew with it.
    assert is_shell(desk.ask(at, "anna")[0], OUTER_BOX, at)


def test_points_go_on_from_the_usual_style_and_are_honoured(desk: Desk, anna: str):
    at = desk.fresh()
    where, core = outline(OUTER_BOX, at), outline(CORE_BOX, at)
    # All styles hold the core, so that a point against it speaks for none of them; only the outer shell holds the rim.
    inside, rim = [int(part) for part in core.centre], shapely.Point(where.x + 4, where.bottom - 4)
    desk.ask(at, anna)
    for person, is_hers in ((anna, True), ("bert", False)):
        drawn, facts = desk.ask(at, person, background=[inside])
        whole = shapely.union_all(drawn)
        assert facts["preference"]["applied"] is is_hers
        assert not whole.contains(shapely.Point(inside))
        assert whole.contains(rim) is is_hers


def test_objects_below_the_least_area_are_left_out_of_the_usual_style_too(desk: Desk, anna: str):
    at = desk.fresh()
    area = outline(OUTER_BOX, at).area_px
    assert len(desk.ask(at, anna, min_poly_area=area // 2)[0]) == 1
    assert desk.ask(at, anna, min_poly_area=area * 2)[0] == []


def test_after_a_reset_an_open_rectangle_begins_without(desk: Desk):
    desk.teach("rita")
    at = desk.fresh()
    click = {"foreground": [[at.x + 2 * 24, at.y + 2 * 6]]}
    began, facts = desk.ask(at, "rita", **click)
    assert facts["preference"]["applied"] is True
    desk.with_preferences(lambda kept: kept.reset("rita", time.time()))
    without, facts = desk.ask(at, "rita", **click)
    assert facts["preference"]["applied"] is False
    assert not shapely.equals(shapely.union_all(began), shapely.union_all(without))
    nobodys, _ = desk.ask(at, "", **click)
    assert shapely.equals(shapely.union_all(nobodys), shapely.union_all(without))


def test_a_lesson_is_for_the_purpose_that_was_asked_with(desk: Desk):
    desk.accept(desk.fresh(), "petra", purpose="radiotherapy")
    desk.wait_for("petra", 1)
    assert [row["purpose"] for row in desk.learnt("petra")] == ["radiotherapy"]
    at = desk.fresh()
    assert desk.ask(at, "petra")[1]["preference"]["applied"] is False
    _, facts = desk.ask(at, "petra", purpose="radiotherapy")
    assert facts["preference"] == {"style": "my usual style", "purpose": "radiotherapy", "applied": True}


def test_an_address_is_no_person(desk: Desk):
    desk.accept(desk.fresh())
    desk.wait_for_all()
    assert not [row for row in desk.learnt() if row["person"] in ("", "anonymous", "at 127.0.0.1")]
    # Nor is it somebody who calls themselves so.
    desk.accept(desk.fresh(), "at 127.0.0.1")
    desk.wait_for("at 127.0.0.1", 1)
    assert desk.ask(desk.fresh())[1]["preference"]["applied"] is False


def test_what_says_nothing_of_a_reader_teaches_nothing(desk: Desk):
    # Begun without the usual style; without having asked there; of another place; and not all of it was judged.
    desk.accept(desk.fresh(), "otto", preference="off")
    at = desk.fresh()
    drawn = asap((TUMOUR, rectangle(*outline(OUTER_BOX, at).bbox)), box=at.bbox)
    desk.submit(PatchLocation("one", at).name, drawn, "olga")
    desk.ask(desk.fresh(), "olaf")
    desk.submit(PatchLocation("one", at).name, drawn, "olaf")
    desk.ask(at, "oona")
    unsure = ("Ignore*", rectangle(at.x, at.y + 60, 20, 10))
    shell = (TUMOUR, rectangle(*outline(OUTER_BOX, at).bbox))
    told = desk.submit(PatchLocation("one", at).name, asap(shell, unsure, box=at.bbox), "oona")
    assert [label["partial"] for label in told["labels"]] == [True]
    # A single object fills its own box, and says nothing of what lies around it.
    desk.ask(at, "odin")
    told = desk.submit("one", asap(shell), "odin")
    assert [label["partial"] for label in told["labels"]] == [False]
    desk.wait_for_all()
    assert not {row["person"] for row in desk.learnt()} & {"otto", "olga", "olaf", "oona", "odin"}


def test_the_options_are_those_of_models_that_remember(desk: Desk):
    models = desk.send("GET", "/info/", "").json()["models"]
    told = models[RECIPE]["config"]
    assert (told["preference"], told["purpose"]) == (["my usual style", "off"], "diagnosis")
    assert not {"preference", "purpose"} & set(models["blobs"]["config"])
    where = {"location": list(place(0).bbox[:2]), "size": list(place(0).bbox[2:])}
    blobs = desk.send("POST", "/infer/wsi/blobs?image=one", "", json=where).json()
    assert "preference" not in blobs


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"preference": "mine"}, "preference 'mine' is not offered; there are my usual style, off"),
        ({"purpose": "x" * 61}, "purpose is longer than 60 characters, or not plain text"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_sentence(desk: Desk, said: dict[str, Any], sentence: str):
    answer = requests.post(f"{desk.url}/infer/wsi/{RECIPE}?image=one", json=said, timeout=60)
    assert (answer.status_code, answer.json()["detail"]) == (400, sentence)


def test_what_the_background_scoring_answers_is_for_everybody(desk: Desk, anna: str):
    path = desk.studies / "one.tif"
    ensemble = load_ensemble(ChampionStore(desk.app_dir / "model").current(RECIPE), "cpu")
    with open_slide(path) as slide:
        maps = predict_slide(ensemble, slide).maps
    # Tumour everywhere, as shells are smaller than the cells of maps.
    maps.probability[:] = np.array([0, 1]).reshape(2, 1, 1)
    files = SlideMapStore(desk.app_dir / "maps").files(MapKey(RECIPE, ensemble.identity, "one"))
    files.write(maps, SlideState(revision_of(path), rows_done=maps.shape[0], is_complete=True, doubt=0.1))
    drawn, facts = desk.ask(None, anna)
    assert facts["from"] == "the background scoring"
    assert facts["preference"]["applied"] is False
    assert drawn
    assert drawn == desk.ask(None, "bert")[0]


def test_preferences_are_learnt_anew_for_a_new_champion_without_images_that_are_gone(desk: Desk, anna: str):
    for number in range(2):
        desk.accept(place(number), anna, "gone")
    (before,) = desk.learnt(anna)
    desk.wait_for(anna, LESSONS + 2)
    assert NOT_READ not in desk.page(anna)
    (desk.studies / "gone.tif").unlink()
    publish(desk.app_dir, THRESHOLDS[::-1])
    wait_until(lambda: NOT_READ in desk.page(anna))
    desk.ask(desk.fresh(), anna)

    def is_replayed() -> bool:
        (now,) = desk.learnt(anna)
        return now["champion"] != before["champion"] and now["cases"] == LESSONS

    wait_until(is_replayed)
    assert NOT_READ not in desk.page(anna)
    (after,) = desk.learnt(anna)
    np.testing.assert_allclose(after["components"], before["components"][::-1], atol=0.02)
    at = desk.fresh()
    drawn, facts = desk.ask(at, anna)
    assert facts["preference"]["applied"] is True
    assert is_shell(drawn, OUTER_BOX, at)


def test_who_is_signed_in_is_the_person_whatever_the_client_calls_itself(tmp_path: Path):
    app_dir, studies = app_copy(tmp_path / "app", "pathology"), tmp_path / "studies"
    studies.mkdir()
    publish(app_dir)
    write_squares(studies / "one.tif", 4)
    users = UsersFile(default_users(app_dir))
    users.add("cora", Role.READER, None, time.time())
    token = users.add_token("cora", "test", time.time())
    with running_server(app_dir, studies, ["scoring", "no", "control_share", "0", "threads", "1"]) as url:
        desk = Desk(url, app_dir, studies)
        # Without a name, as QuPath asks, and with another's.
        desk.accept(desk.fresh(), token=token)
        desk.accept(desk.fresh(), "bert", token=token)
        desk.wait_for("cora", 2)
        assert {row["person"] for row in desk.learnt()} == {"cora"}
        assert desk.ask(desk.fresh(), token=token)[1]["preference"]["applied"] is True
