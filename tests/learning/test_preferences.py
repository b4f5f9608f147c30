"""A preference is one person's, for one recipe and purpose; can be seen, copied, forgotten, and survives retraining."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from overread.domain import BadInputError
from overread.imaging.volumes import Volume
from overread.learning import preferences as memory
from overread.learning.preferences import Preferences, packed, unpacked
from overread.meduhip.memory import Preference, mean_weights
from overread.meduhip.session import SITTING, StructureState, begin
from overread.server.meduhip.sittings import Sitting, Sittings, Who
from overread.state import audit
from overread.state.database import Database
from overread.state.turns import last_turn
from support.known_meduhip import RADII, disc_of, known_reader, picture

READER = known_reader()
OPENED = READER.open(picture())
# The same champion trained anew: its components come in another order.
ORDER = (2, 0, 3, 1)
LATER = known_reader([RADII[index] for index in ORDER], "b" * 64)
TWO = known_reader(classes=("background", "disc", "ring"))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database.open(tmp_path / "overread.db")
    yield opened
    opened.close()


@pytest.fixture
def kept(database: Database) -> Preferences:
    return Preferences(database)


def accept(
    kept: Preferences, radii: Sequence[float], person: str = "anna", purpose: str = "", recipe: str = "disc"
) -> None:
    for number, radius in enumerate(radii):
        kept.accepted(person, recipe, purpose, READER, OPENED, [disc_of(radius)], f"case{number}", number + 1)


def favourite(states: Sequence[StructureState] | None) -> int:
    assert states is not None
    return int(np.argmax(states[0].weights))


def test_the_next_case_starts_from_what_was_accepted(kept: Preferences):
    assert kept.priors("anna", "disc", "", READER) is None
    accept(kept, [10, 10, 10])
    assert favourite(kept.priors("anna", "disc", "", READER)) == 3


def test_another_persons_is_never_applied_nor_that_of_another_purpose_or_recipe(kept: Preferences):
    accept(kept, [10, 10, 10])
    accept(kept, [4, 4, 4], person="bert")
    accept(kept, [6, 6, 6], purpose="radiotherapy")
    assert kept.priors("carl", "disc", "", READER) is None
    assert kept.priors("anna", "disc", "diagnosis", READER) is None
    assert kept.priors("anna", "liver", "", READER) is None
    assert favourite(kept.priors("anna", "disc", "", READER)) == 3
    assert favourite(kept.priors("bert", "disc", "", READER)) == 0
    assert favourite(kept.priors("anna", "disc", "radiotherapy", READER)) == 1


def test_a_newcomer_begins_with_the_mean_of_several_others_and_with_no_single_ones(database: Database):
    kept, even = Preferences(database, mean_of_others=True), Preferences(database)
    for person, radii in (("anna", [10, 10]), ("bert", [10, 10, 10])):
        accept(kept, radii, person=person)
    assert kept.priors("dora", "disc", "", READER) is None, (
        "a mean of two would tell each what the other wants"
    )
    accept(kept, [4], person="carl")
    states = kept.priors("dora", "disc", "", READER)
    assert states is not None
    people = [
        Preference(tuple(row["values"]["counts"]), tuple(row["values"]["shift"]), row["cases"])
        for person in ("anna", "bert", "carl")
        for row in kept.export(person)["preferences"]
    ]
    assert states[0].weights == pytest.approx(mean_weights(people))
    assert states[0].shift == ()
    assert favourite(states) == 3
    assert even.priors("dora", "disc", "", READER) is None
    assert kept.priors("dora", "disc", "radiotherapy", READER) is None
    assert kept.priors("", "disc", "", READER) is None
    # Of three, each sees the mean of two: that is, nothing of them.
    assert kept.priors("carl", "disc", "", READER) == even.priors("carl", "disc", "", READER)
    accept(kept, [4, 4, 4], person="dora")
    assert kept.priors("dora", "disc", "", READER) != even.priors("dora", "disc", "", READER)
    kept.reset("anna", 9)
    assert kept.priors("emma", "disc", "", READER) is not None, "bert, carl and dora are left"
    kept.reset("bert", 9)
    assert kept.priors("emma", "disc", "", READER) is None


def test_nobody_has_no_preference(kept: Preferences):
    accept(kept, [10], person="")
    assert kept.show() == []
    assert kept.priors("", "disc", "", READER) is None


def test_a_case_that_is_accepted_again_teaches_what_is_accepted_now(kept: Preferences):
    accept(kept, [4])
    accept(kept, [10])
    (row,) = kept.show("anna")
    assert row["cases"] == 1
    assert favourite(kept.priors("anna", "disc", "", READER)) == 3
    # Nothing is left of the structure: nor is the lesson.
    kept.accepted("anna", "disc", "", READER, OPENED, [np.zeros((32, 32), bool)], "case0", 9)
    assert kept.show("anna") == []
    assert kept.priors("anna", "disc", "", READER) is None


def test_old_cases_are_forgotten(kept: Preferences, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "MOST_EXAMPLES", 2)
    accept(kept, [4, 4, 10, 10])
    assert kept.show("anna")[0]["cases"] == 2
    assert favourite(kept.priors("anna", "disc", "", READER)) == 3


def test_it_can_be_seen(kept: Preferences):
    accept(kept, [10, 10])
    (row,) = kept.show()
    assert (row["person"], row["recipe"], row["structure"], row["cases"]) == ("anna", "disc", "disc", 2)
    assert row["champion"] == "a" * 12
    assert row["in_words"].endswith("% larger than the model's own answer")
    assert sum(row["components"]) == pytest.approx(1)
    assert kept.show("bert") == []
    accept(kept, [4], person="bert")
    assert "smaller" in kept.show("bert")[0]["in_words"]


def test_all_that_is_kept_can_be_taken_along(kept: Preferences):
    accept(kept, [10])
    accept(kept, [4], person="bert")
    exported = json.loads(json.dumps(kept.export("anna"), allow_nan=False))
    assert [row["person"] for row in exported["preferences"]] == ["anna"]
    (example,) = exported["examples"]
    assert np.array_equal(unpacked(example["masks"]["disc"]), disc_of(10))


def test_it_can_be_forgotten_in_part_and_altogether(kept: Preferences, database: Database):
    for purpose in ("diagnosis", "radiotherapy"):
        accept(kept, [10, 8], purpose=purpose)
    accept(kept, [4], person="bert")
    assert kept.reset("anna", 5, "disc", "diagnosis") == 2
    assert kept.priors("anna", "disc", "diagnosis", READER) is None
    assert kept.priors("anna", "disc", "radiotherapy", READER) is not None
    assert kept.reset("anna", 6, actor="administrator") == 2
    assert kept.export("anna") == {"preferences": [], "examples": []}
    assert [row["person"] for row in kept.show()] == ["bert"]
    with database.reading() as c:
        told = [(row.actor, row.action, row.subject) for row in audit.rows(c)]
        assert audit.verify(c) == []
    assert told.count(("anna", "preference learnt", "disc")) == 4
    assert told[-2:] == [
        ("anna", "preference reset", "disc"),
        ("administrator", "preference reset", "all models"),
    ]


def test_what_was_accepted_before_somebody_was_forgotten_does_not_teach_afterwards(kept: Preferences):
    kept.reset("anna", 5, "disc", "diagnosis")
    # Learning takes a while: the label came first.
    kept.accepted("anna", "disc", "diagnosis", READER, OPENED, [disc_of(10)], "case", 4)
    assert kept.show("anna") == []
    kept.accepted("anna", "disc", "radiotherapy", READER, OPENED, [disc_of(10)], "case", 4)
    kept.accepted("bert", "disc", "diagnosis", READER, OPENED, [disc_of(10)], "case", 4)
    kept.accepted("anna", "disc", "diagnosis", READER, OPENED, [disc_of(10)], "case", 6)
    assert [(row["person"], row["purpose"]) for row in kept.show()] == [
        ("anna", "diagnosis"),
        ("anna", "radiotherapy"),
        ("bert", "diagnosis"),
    ]


def test_what_a_case_began_with_is_forgotten_too(kept: Preferences, database: Database):
    accept(kept, [10, 8], purpose="diagnosis")

    def sit(case: str, person: str, purpose: str, priors: tuple[StructureState, ...] | None) -> None:
        session = begin(READER.model, case, READER.identity, priors=priors)
        who = Who(case, person, "disc", "a" * 12, case)
        Sittings(database).keep(who, Sitting(session, session, purpose=purpose), 1)

    known = kept.priors("anna", "disc", "diagnosis", READER)
    sit("begun so", "anna", "diagnosis", known)
    sit("for something else", "anna", "radiotherapy", known)
    sit("untouched", "anna", "diagnosis", None)
    sit("begun so", "bert", "diagnosis", known)
    kept.reset("anna", 5, "disc", "diagnosis")
    with database.reading() as c:
        there = {
            (person, case)
            for case in ("begun so", "for something else", "untouched")
            for person in ("anna", "bert")
            if last_turn(c, case, person, "disc", "a" * 12, SITTING) is not None
        }
    assert there == {("anna", "for something else"), ("anna", "untouched"), ("bert", "begun so")}


def test_it_is_known_who_was_forgotten_since_when_and_for_what(kept: Preferences):
    def was_reset(
        since: float, person: str = "anna", recipe: str = "disc", purpose: str = "diagnosis"
    ) -> bool:
        return kept.was_reset(person, recipe, purpose, since)

    assert not was_reset(0)
    kept.reset("anna", 5, "disc", "diagnosis")
    assert was_reset(4.5)
    assert not any(
        [was_reset(5), was_reset(0, "bert"), was_reset(0, recipe="ring"), was_reset(0, purpose="x")]
    )
    kept.reset("anna", 6)
    assert all([was_reset(5), was_reset(5, recipe="ring"), was_reset(5, purpose="x")])


def test_another_champion_knows_nothing_before_the_replay_and_the_permuted_after(kept: Preferences):
    accept(kept, [10, 8, 10, 10])
    accept(kept, [4, 4], person="bert")
    old = kept.priors("anna", "disc", "", READER)
    assert kept.priors("anna", "disc", "", LATER) is None
    read = {f"case{number}": picture() for number in range(4)}
    done = kept.replay("disc", LATER, read.get, 9)
    assert (done.people, done.cases, done.missing) == (("anna", "bert"), 4, ())
    new = kept.priors("anna", "disc", "", LATER)
    assert favourite(new) == ORDER.index(3)
    assert old is not None
    assert new is not None
    assert new[0].weights == pytest.approx([old[0].weights[index] for index in ORDER], abs=0.05)
    # Once more there is nothing to do; the way back is another replay.
    assert kept.replay("disc", LATER, read.get, 10).cases == 0
    assert kept.priors("anna", "disc", "", READER) is None
    kept.replay("disc", READER, read.get, 11)
    assert kept.priors("anna", "disc", "", READER) == old


def test_a_replay_leaves_out_what_has_no_image_any_more(kept: Preferences):
    accept(kept, [10, 4])
    images: dict[str, Volume | None] = {"case0": picture(), "case1": picture((20, 20))}
    shares: list[float] = []
    done = kept.replay("disc", LATER, images.get, 9, shares.append)
    assert (done.cases, done.missing) == (1, ("case1",))
    assert shares == [0.5, 1.0]
    assert kept.show("anna")[0]["cases"] == 1
    # It comes back, and so does what it taught.
    assert kept.replay("disc", LATER, {"case1": picture()}.get, 10).cases == 1
    assert kept.show("anna")[0]["cases"] == 2


def test_what_was_accepted_before_the_replay_counts_with_it(kept: Preferences):
    accept(kept, [10, 10])
    opened = LATER.open(picture())
    kept.accepted("anna", "disc", "", LATER, opened, [disc_of(10)], "case9", 9)
    assert kept.show("anna")[0]["cases"] == 1
    kept.replay("disc", LATER, lambda case: picture(), 10)
    assert kept.show("anna")[0]["cases"] == 3


def test_each_structure_has_its_own_and_an_empty_one_teaches_nothing(kept: Preferences):
    opened = TWO.open(picture())
    masks = [disc_of(10), np.zeros((32, 32), bool)]
    kept.accepted("anna", "disc", "", TWO, opened, masks, "case0", 1)
    states = kept.priors("anna", "disc", "", TWO)
    assert favourite(states) == 3
    assert states is not None
    assert states[1] == StructureState()
    assert [row["structure"] for row in kept.show()] == ["disc"]


def test_what_does_not_fit_is_refused(kept: Preferences):
    with pytest.raises(BadInputError, match="1 masks were accepted, expected one for each of disc, ring"):
        kept.accepted("anna", "disc", "", TWO, TWO.open(picture()), [disc_of(4)], "case", 1)
    with pytest.raises(BadInputError, match="opened by another model than bbbbbbbbbbbb"):
        kept.accepted("anna", "disc", "", LATER, OPENED, [disc_of(4)], "case", 1)
    for wrong in (disc_of(4).astype(np.uint8), disc_of(4, shape=(20, 20))):
        with pytest.raises(BadInputError, match=r"bool on the image's grid \(32, 32\), got"):
            kept.accepted("anna", "disc", "", READER, OPENED, [wrong], "case", 1)
    assert kept.show() == []


def test_a_pictures_mask_may_have_a_third_axis(kept: Preferences):
    kept.accepted("anna", "disc", "", READER, OPENED, [disc_of(10)[..., None]], "case", 1)
    assert favourite(kept.priors("anna", "disc", "", READER)) == 3


def test_masks_survive_being_packed():
    rng = np.random.default_rng(0)
    for shape in ((3, 5), (4, 4, 3)):
        mask = rng.random(shape) < 0.5
        assert np.array_equal(unpacked(json.loads(json.dumps(packed(mask)))), mask)


def test_a_mask_is_turned_the_way_its_image_is():
    flipped = replace(OPENED.prepared, flips=(True, False))
    mask = np.zeros((32, 32), bool)
    mask[1, 2] = True
    seen = memory.in_model_voxels(mask, flipped)
    assert seen.nonzero().tolist() == [[30, 2]]
