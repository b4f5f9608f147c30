"""Scores, servings, turns, labels, models and decisions come back as they were kept, from either database."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError

from overread.domain.errors import BadInputError, NotFoundError
from overread.state import decisions, labels, models, scores, servings, turns
from overread.state.database import Database
from overread.state.rows import to_json
from overread.state.schema import SERVINGS
from overread.state.servings import Serving

SCORE = scores.ScoreRow(
    recipe="heart",
    champion="abc",
    case_id="case 1",
    revision="12-34",
    doubt=0.125,
    quality=None,
    class_doubt={"ventricle": 0.1},
    foreground_mm3={"ventricle": 1200.5},
    features=(0.1, -3.0),
    took_s=1.5,
    error=None,
    scored_at=1_700_000_000.25,
)
LABEL = labels.LabelRow(
    case_id="case 1",
    patient="patient 1",
    rater="Ä. Müller",
    client_id="client",
    revision=1,
    file="case 1/m-1.nii.gz",
    sha256="00",
    tag="final",
    recipe="heart",
    champion="abc",
    serving_id=3,
    strategy="random",
    arm=servings.CONTROL,
    reason="by chance",
    took_s=61.5,
    dice_to_proposal=0.75,
    details={"dice": {"ventricle": 0.75}},
    partial=False,
    protected=True,
    submitted_at=1_700_000_000.25,
)
MODEL = models.ModelRow("heart", "abc", "", models.CHAMPION, {"weights": ["00"]}, 1.5)


def put(database: Database, *rows: scores.ScoreRow) -> None:
    with database.writing() as c:
        for row in rows:
            scores.put_score(c, row)


def serve(database: Database, case_id: str = "case 1", client_id: str = "one", now: float = 100.0) -> Serving:
    with database.writing() as c:
        return servings.serve(
            c,
            case_id=case_id,
            patient="patient",
            client_id=client_id,
            recipe="heart",
            champion="abc",
            strategy="random",
            arm=servings.STRATEGY,
            reason="by chance",
            score=None,
            now=now,
            lease_s=60,
        )


def end(database: Database, serving: Serving, outcome: str, now: float) -> Serving:
    """The serving as it is kept afterwards."""
    with database.writing() as c:
        servings.end(c, serving.id, outcome, now)
        kept = servings.serving_for(c, serving.case_id, serving.client_id)
    assert kept is not None
    return kept


def test_a_score_comes_back_as_it_was_kept(database: Database):
    put(database, SCORE)
    with database.reading() as c:
        assert scores.scores_of(c, "heart", "abc") == {"case 1": SCORE}
        assert scores.scores_of(c, "heart", "abd") == {}
        assert scores.scores_of(c, "liver", "abc") == {}


def test_numpy_numbers_become_plain_ones(database: Database):
    put(
        database,
        replace(
            SCORE,
            doubt=np.float32(0.125),
            class_doubt={"ventricle": np.float64(0.1)},
            features=np.float32([1]),
        ),
    )
    with database.reading() as c:
        (kept,) = scores.scores_of(c, "heart", "abc").values()
    assert (kept.doubt, kept.class_doubt, kept.features) == (0.125, {"ventricle": 0.1}, (1.0,))


def test_a_newer_score_takes_the_place_of_the_older(database: Database):
    put(database, SCORE, replace(SCORE, revision="new", doubt=None, error="the file is cut off"))
    with database.reading() as c:
        (kept,) = scores.scores_of(c, "heart", "abc").values()
    assert (kept.revision, kept.doubt, kept.error) == ("new", None, "the file is cut off")


def test_parts_of_the_doubt_are_kept_with_their_score_and_go_with_it(database: Database):
    parts = {"style": 0.125, "within": 0.5, "members": 0.0}
    put(database, replace(SCORE, parts=parts), replace(SCORE, champion="old", parts=parts))
    with database.writing() as c:
        assert scores.parts_of(c, "heart", "abc", "case 1") == parts
        assert scores.parts_of(c, "heart", "abc", "case 2") == {}
        assert scores.scores_of(c, "heart", "abc") == {"case 1": replace(SCORE, parts=parts)}
        assert scores.forget_scores(c, "heart", {"abc"}) == 1
        assert scores.parts_of(c, "heart", "old", "case 1") == {}
    put(database, SCORE)
    with database.reading() as c:
        assert scores.parts_of(c, "heart", "abc", "case 1") == {}
        assert scores.scores_of(c, "heart", "abc") == {"case 1": SCORE}


def test_only_scores_of_other_champions_of_the_recipe_are_forgotten(database: Database):
    put(
        database,
        SCORE,
        replace(SCORE, champion="old"),
        replace(SCORE, champion=scores.COLD),
        replace(SCORE, champion="old", recipe="liver"),
    )
    with database.writing() as c:
        assert scores.forget_scores(c, "heart", {"abc", scores.COLD}) == 1
        assert scores.scores_of(c, "heart", "old") == {}
        assert len(scores.scores_of(c, "heart", "abc")) == 1
        assert len(scores.scores_of(c, "heart", scores.COLD)) == 1
        assert len(scores.scores_of(c, "liver", "old")) == 1
        assert scores.forget_scores(c, "heart", ()) == 2


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"doubt": math.nan}, "score of case case 1: doubt is nan; a finite number is expected"),
        ({"quality": math.inf}, "score of case case 1: quality is inf"),
        ({"features": (math.nan,)}, "score of case case 1: features cannot be kept as JSON"),
        ({"parts": {"style": math.nan}}, "score of case case 1: parts cannot be kept as JSON"),
        ({"foreground_mm3": {"ventricle": math.inf}}, "score of case case 1: foreground_mm3 cannot be kept"),
    ],
)
def test_a_score_that_is_no_number_is_refused(database: Database, change: dict, sentence: str):
    with pytest.raises(BadInputError, match=sentence):
        put(database, replace(SCORE, **change))


def test_a_serving_is_open_until_it_ends(database: Database):
    served = serve(database)
    assert (served.served_at, served.expires_at, served.ended_at, served.outcome) == (100, 160, None, None)
    with database.reading() as c:
        assert servings.open_servings(c) == [served]
        assert servings.open_of_client(c, "one") == [served]
        assert servings.open_of_client(c, "two") == []
        assert servings.serving_for(c, "case 1", "one") == served
        assert servings.serving_for(c, "case 1", "two") is None
    kept = end(database, served, servings.SUBMITTED, 130)
    assert (kept.ended_at, kept.outcome) == (130, servings.SUBMITTED)
    with database.reading() as c:
        assert servings.open_servings(c) == []


def test_a_case_is_with_one_client_at_a_time(database: Database):
    first = serve(database)
    with pytest.raises(servings.CaseTakenError, match="case case 1 is with client one for another 50 s"):
        serve(database, client_id="two", now=110.0)
    serve(database, case_id="case 2", client_id="two")
    end(database, first, servings.SKIPPED, 120)
    assert serve(database, client_id="two", now=130.0).client_id == "two"


def test_the_database_itself_refuses_a_second_open_serving(database: Database):
    first = serve(database)
    values = {field: getattr(first, field) for field in Serving.__dataclass_fields__ if field != "id"}
    with pytest.raises(IntegrityError), database.writing() as c:
        c.execute(insert(SERVINGS).values(values))
    with database.writing() as c:
        c.execute(insert(SERVINGS).values(values | {"ended_at": 1.0, "outcome": "skipped"}))


def test_a_lease_expires_at_its_end(database: Database):
    serve(database)
    with database.writing() as c:
        assert servings.expire(c, 159.9) == 0
        assert servings.expire(c, 200.0) == 1
        assert servings.expire(c, 300.0) == 0
        kept = servings.serving_for(c, "case 1", "one")
    assert kept is not None
    assert (kept.ended_at, kept.outcome) == (160, servings.EXPIRED)


@pytest.mark.parametrize("first", [servings.SKIPPED, servings.EXPIRED])
def test_a_label_that_comes_late_still_answers_the_serving(database: Database, first: str):
    served = serve(database)
    end(database, served, first, 170)
    kept = end(database, served, servings.SUBMITTED, 180)
    assert (kept.ended_at, kept.outcome) == (180, servings.SUBMITTED)


@pytest.mark.parametrize("later", servings.OUTCOMES)
def test_what_was_submitted_stays_submitted(database: Database, later: str):
    served = serve(database)
    end(database, served, servings.SUBMITTED, 120)
    kept = end(database, served, later, 180)
    assert (kept.ended_at, kept.outcome) == (120, servings.SUBMITTED)


def test_servings_are_listed_oldest_first(database: Database):
    first, second = serve(database, now=100.0), serve(database, case_id="case 2", now=200.0)
    with database.reading() as c:
        assert servings.servings(c) == [first, second]
        assert servings.servings(c, recipe="heart", since=100.5) == [second]
        assert servings.servings(c, recipe="liver") == []


def test_an_unknown_serving_or_outcome_is_refused(database: Database):
    served = serve(database)
    with pytest.raises(NotFoundError, match="there is no serving 77"), database.writing() as c:
        servings.end(c, 77, servings.SKIPPED, 1)
    with pytest.raises(
        BadInputError, match="outcome 'lost' is not known; expected one of submitted, skipped"
    ):
        end(database, served, "lost", 1)


def test_turns_come_back_in_their_order(database: Database):
    with database.writing() as c:
        for client, clicks in (("one", [[1, 2, 3]]), ("two", []), ("one", [[4, 5, 6]])):
            turn = turns.add_turn(
                c,
                case_id="case 1",
                client_id=client,
                recipe="heart",
                champion="abc",
                kind="click",
                payload={"foreground": clicks},
                now=5,
            )
    with database.reading() as c:
        mine = turns.turns_of(c, "case 1", "one")
        assert [turn.payload["foreground"] for turn in mine] == [[[1, 2, 3]], [[4, 5, 6]]]
        assert mine[-1] == turn
        assert len(turns.turns_of(c, "case 1")) == 3
        assert turns.turns_of(c, "case 2") == []


def keep_state(database: Database, now: float, client: str = "one", recipe: str = "heart") -> None:
    with database.writing() as c:
        turn = turns.add_turn(
            c,
            case_id="case 1",
            client_id=client,
            recipe=recipe,
            champion="abc",
            kind="state",
            payload={"step": now},
            now=now,
        )
        turns.forget_earlier(c, turn)


def test_a_turn_takes_the_place_of_the_clients_earlier_ones_of_its_kind(database: Database):
    with database.writing() as c:
        turns.add_turn(
            c,
            case_id="case 1",
            client_id="one",
            recipe="heart",
            champion="abc",
            kind="click",
            payload={},
            now=0,
        )
    for now in (1, 2):
        keep_state(database, now)
    keep_state(database, 1, client="two")
    keep_state(database, 1, recipe="liver")
    with database.reading() as c:
        there = [
            (turn.client_id, turn.recipe, turn.kind, turn.payload) for turn in turns.turns_of(c, "case 1")
        ]
    assert there == [
        ("one", "heart", "click", {}),
        ("one", "heart", "state", {"step": 2}),
        ("two", "heart", "state", {"step": 1}),
        ("one", "liver", "state", {"step": 1}),
    ]


def test_turns_are_forgotten_of_a_client_a_kind_and_what_they_hold(database: Database):
    for client, recipe in (("one", "heart"), ("one", "liver"), ("two", "heart")):
        keep_state(database, 1, client, recipe)

    def forgotten(client: str, kind: str, recipe: str | None, step: int) -> int:
        with database.writing() as c:
            return turns.forget_turns(c, client, kind, recipe, lambda kept: kept["step"] == step)

    assert forgotten("one", "click", None, 1) == 0
    assert forgotten("one", "state", None, 7) == 0
    assert forgotten("one", "state", "heart", 1) == 1
    assert forgotten("one", "state", None, 1) == 1
    with database.reading() as c:
        assert [turn.client_id for turn in turns.turns_of(c, "case 1")] == ["two"]


def test_a_label_comes_back_as_it_was_kept(database: Database):
    with database.writing() as c:
        number = labels.add_label(c, LABEL)
        other = labels.add_label(c, replace(LABEL, case_id="case 2", file="other", recipe="liver"))
    with database.reading() as c:
        assert labels.labels(c, recipe="heart") == [replace(LABEL, id=number)]
        assert [row.id for row in labels.labels(c)] == [number, other]
        assert [row.id for row in labels.labels(c, case_id="case 2")] == [other]
        assert labels.labels(c, recipe="heart", case_id="case 2") == []


def test_two_labels_never_share_a_file(database: Database):
    with database.writing() as c:
        labels.add_label(c, LABEL)
    with pytest.raises(IntegrityError), database.writing() as c:
        labels.add_label(c, replace(LABEL, revision=2))


def test_labels_are_counted_by_what_they_agree_in(database: Database):
    with database.writing() as c:
        for number, dice in enumerate((0.8004, 0.8, None)):
            labels.add_label(c, replace(LABEL, file=str(number), dice_to_proposal=dice))
        labels.set_status(c, 1, labels.FLAGGED, "the apex is missing")
    with database.reading() as c:
        found = {(count.status, count.dice): count.labels for count in labels.count_labels(c)}
        assert found == {("flagged", 0.8): 1, ("accepted", 0.8): 1, ("accepted", None): 1}
        assert {count.recipe for count in labels.count_labels(c)} == {LABEL.recipe}


def test_whether_a_patient_is_protected_is_asked_by_recipe(database: Database):
    with database.writing() as c:
        for number, (recipe, protected) in enumerate((("heart", True), ("liver", False), ("heart", False))):
            labels.add_label(c, replace(LABEL, file=str(number), recipe=recipe, protected=protected))
        assert labels.protections(c, "heart", LABEL.patient) == [True, False]
        assert labels.protections(c, "heart", "nobody") == []


def test_the_status_of_a_label_can_change(database: Database):
    with database.writing() as c:
        number = labels.add_label(c, LABEL)
        labels.set_status(c, number, labels.FLAGGED, "the apex is missing")
        (row,) = labels.labels(c)
    assert (row.status, row.status_reason) == ("flagged", "the apex is missing")


def test_an_unknown_label_or_status_is_refused(database: Database):
    with pytest.raises(NotFoundError, match="there is no label 77"), database.writing() as c:
        labels.set_status(c, 77, labels.APPROVED, "")
    with pytest.raises(BadInputError, match="status 'fine' is not known"), database.writing() as c:
        labels.set_status(c, 1, "fine", "")
    with (
        pytest.raises(BadInputError, match=r"label of case case 1 by .*: took_s is nan"),
        database.writing() as c,
    ):
        labels.add_label(c, replace(LABEL, took_s=math.nan))


def test_models_come_back_oldest_first_and_change_their_status(database: Database):
    child = replace(MODEL, identity="aaa", parent="abc", status=models.CHALLENGER, created_at=2.5)
    with database.writing() as c:
        models.put_model(c, child)
        models.put_model(c, MODEL)
        models.put_model(c, replace(MODEL, recipe="liver"))
        assert models.models(c, "heart") == [MODEL, child]
        assert len(models.models(c)) == 3
        models.set_model_status(c, "heart", "aaa", models.REJECTED)
        assert models.model(c, "heart", "aaa") == replace(child, status=models.REJECTED)
        assert models.model(c, "heart", "zzz") is None
        models.put_model(c, replace(MODEL, status=models.RETIRED))
        assert [row.status for row in models.models(c, "heart")] == [models.RETIRED, models.REJECTED]


def test_an_unknown_model_or_status_is_refused(database: Database):
    with pytest.raises(NotFoundError, match="model heart has no version abc"), database.writing() as c:
        models.set_model_status(c, "heart", "abc", models.RETIRED)
    with pytest.raises(BadInputError, match="status 'best' is not known"), database.writing() as c:
        models.put_model(c, replace(MODEL, status="best"))


def test_a_decision_is_kept_before_it_is_applied(database: Database):
    def decide(c, recipe: str, promoted: bool) -> int:
        return decisions.add_decision(
            c,
            recipe=recipe,
            champion="abc",
            challenger="abd",
            promoted=promoted,
            reason="local Dice rises",
            report={"local": {"difference": 0.02}},
            now=7.0,
        )

    with database.writing() as c:
        first, second = decide(c, "heart", False), decide(c, "heart", True)
        decide(c, "liver", True)
        assert [row.applied for row in decisions.decisions(c, "heart")] == [False, False]
        decisions.mark_applied(c, second)
    with database.reading() as c:
        kept = decisions.decisions(c, "heart")
        assert len(decisions.decisions(c)) == 3
    assert [(row.id, row.promoted, row.applied) for row in kept] == [
        (first, False, False),
        (second, True, True),
    ]
    assert kept[1].report == {"local": {"difference": 0.02}}


def test_an_unknown_decision_is_refused(database: Database):
    with pytest.raises(NotFoundError, match="there is no decision 77"), database.writing() as c:
        decisions.mark_applied(c, 77)


def test_json_is_the_same_text_whatever_the_order():
    assert to_json({"b": 1, "a": [0.1, None]}, "it") == to_json({"a": [0.1, None], "b": 1}, "it")
    assert to_json({"b": 1, "a": [0.1, None]}, "it") == '{"a":[0.1,null],"b":1}'
