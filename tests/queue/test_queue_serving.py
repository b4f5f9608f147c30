"""The queue hands each case to one client at a time, with its reason, and keeps the share of the control arm."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import replace
from multiprocessing.queues import Queue
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

from overread.domain import BadInputError, NotFoundError
from overread.queue.leases import is_control
from overread.queue.serving import CaseQueue, Nothing, Served
from overread.queue.settings import QueueSettings
from overread.state.audit import rows, verify
from overread.state.database import Database
from overread.state.labels import LabelRow, add_label
from overread.state.scores import COLD, ScoreRow, put_score
from overread.state.servings import (
    CONTROL,
    EXPIRED,
    SKIPPED,
    STRATEGY,
    SUBMITTED,
    end,
    open_servings,
    serve,
    servings,
)
from support.writers import CONTEXT

RECIPE, CHAMPION = "phantom", "abc123"
CLASSES = ("liver", "tumour")
LEASE_S = 1800.0
CASES = {f"case{n:02d}": f"patient{n:02d}" for n in range(30)}


@pytest.fixture
def database(tmp_path):
    opened = Database.open(tmp_path / "overread.db")
    yield opened
    opened.close()


def score(case: str, doubt: float | None, champion: str = CHAMPION, **changes: object) -> ScoreRow:
    spoken = champion != COLD and doubt is not None
    row = ScoreRow(
        recipe=RECIPE,
        champion=champion,
        case_id=case,
        revision="1",
        doubt=doubt,
        quality=0.5 if spoken else None,
        class_doubt={"liver": 0.01, "tumour": doubt} if spoken and doubt is not None else {},
        foreground_mm3={"liver": 1000.0, "tumour": 100.0} if spoken else {},
        features=tuple(float(f) for f in np.random.default_rng(crc32(case.encode())).normal(0, 10, 8)),
        took_s=1.0,
        error=None,
        scored_at=time.time(),
    )
    return replace(row, **changes)  # pyright: ignore


def put(database: Database, *scores: ScoreRow) -> None:
    with database.writing() as c:
        for row in scores:
            put_score(c, row)


def all_scored(database: Database) -> None:
    """Later cases are more doubtful."""
    put(database, *(score(case, 0.1 + 0.01 * n) for n, case in enumerate(CASES)))


def queue(database: Database, champion: str = CHAMPION, **settings: object) -> CaseQueue:
    chosen = QueueSettings(**({"control_share": 0.0, "lease_s": LEASE_S} | settings))  # pyright: ignore
    return CaseQueue(database, RECIPE, champion, CLASSES, chosen)


def ask(
    line: CaseQueue,
    client: str = "reader",
    now: float = 1000.0,
    labelled: object = (),
    strategy: str | None = None,
    cases: dict[str, str] | None = None,
    prefer: str | None = None,
    seed: int = 0,
) -> Served:
    answer = line.ask(
        strategy,
        client,
        CASES if cases is None else cases,
        labelled,  # pyright: ignore
        now,
        np.random.default_rng(seed),
        prefer,
    )
    assert isinstance(answer, Served), answer
    return answer


# What the reader is told


def test_the_reader_is_told_case_reason_strategy_and_how_far_scoring_is(database):
    put(database, *(score(f"case{n:02d}", 0.1 * n) for n in (3, 4, 5)))
    served = ask(queue(database))
    assert served.text == (
        "case05 | members unsure about tumour, no. 1 of 3 | most_uncertain | 29 left, 3 of 30 scored so far"
    )
    assert (served.waiting, served.scored, served.total, served.arm) == (29, 3, 30, STRATEGY)
    assert served.serving.reason == served.pick.reason


@pytest.mark.parametrize(
    ("largest", "words"),
    [
        ("style", "doubt mostly of style: ask a person"),
        ("members", "doubt mostly between models: ask for a label"),
    ],
)
def test_the_reason_says_whose_the_doubt_is_where_the_champion_can_tell(database, largest, words):
    parts = {"style": 0.01, "within": 0.005, "members": 0.0} | {largest: 0.1}
    put(database, score("case03", 0.3, parts=parts), score("case02", 0.2))
    line = queue(database)
    served = ask(line)
    assert served.parts == parts
    assert served.serving.reason == f"{served.pick.reason}, {words}"
    assert f"no. 1 of 2, {words} | most_uncertain" in served.text
    following = ask(line)
    assert (following.serving.case_id, following.parts) == ("case02", {})
    assert following.serving.reason == following.pick.reason


def test_when_all_is_scored_the_reader_is_not_bothered_with_it(database):
    all_scored(database)
    assert ask(queue(database)).text.endswith("| most_uncertain | 29 left")


def test_without_a_champion_images_decide_and_the_text_says_so(database):
    put(database, *(score(case, None, COLD) for case in CASES))
    served = ask(queue(database, champion=COLD))
    assert served.text.endswith(
        "| nothing scored yet: its image stands for many that were not asked | most_uncertain | 29 left, no model yet"
    )


def test_a_champion_that_has_scored_nothing_leaves_it_to_the_images(database):
    put(database, *(score(case, None, COLD) for case in CASES))
    served = ask(queue(database))
    assert "its image stands for many" in served.text
    assert served.text.endswith("0 of 30 scored so far")


def test_where_nothing_at_all_is_known_chance_decides_and_the_text_says_so(database):
    assert "nothing scored yet: drawn at random" in ask(queue(database)).text


def test_a_case_that_cannot_be_scored_counts_as_done_and_is_not_asked_first(database):
    put(database, score("case00", 0.2), score("case01", None, error="it is no volume", features=()))
    served = ask(queue(database))
    assert served.serving.case_id == "case00"
    assert "2 of 30 scored so far" in served.text


def test_the_serving_and_the_audit_log_say_the_same(database):
    all_scored(database)
    served = ask(queue(database))
    with database.reading() as c:
        [kept] = open_servings(c)
        [row] = list(rows(c))
        assert verify(c) == []
    assert kept == served.serving
    assert (kept.recipe, kept.champion, kept.patient) == (RECIPE, CHAMPION, "patient29")
    assert (row.actor, row.action, row.subject, row.at) == ("reader", "case served", "case29", 1000.0)
    assert row.details["reason"] == "members unsure about tumour, top 4 %"
    assert row.details["serving"] == kept.id


# Scores that arrive


def test_what_is_scored_meanwhile_counts_for_the_next_question(database):
    line = queue(database)
    put(database, score("case01", 0.2))
    assert ask(line).serving.case_id == "case01"
    put(database, score("case07", 0.9))
    assert ask(line).serving.case_id == "case07"
    # The image was replaced and scored anew.
    put(database, score("case03", 0.8), score("case07", 0.1))
    assert ask(line, client="another").serving.case_id == "case03"


def test_scores_of_another_champion_or_recipe_do_not_count(database):
    put(database, score("case01", 0.2), score("case02", 0.9, "other"), score("case03", 0.9, recipe="liver"))
    served = ask(queue(database))
    assert (served.serving.case_id, served.scored) == ("case01", 1)


def test_features_of_another_length_are_of_another_version(database):
    put(database, score("case01", None, COLD, features=(1.0, 2.0)))
    line = queue(database)
    ask(line)
    put(database, *(score(case, None, COLD) for case in list(CASES)[2:]))
    assert "its image stands for many" in ask(line).text


def test_many_new_scores_are_read_at_once(database):
    cases = {f"case{n:04d}": "" for n in range(700)}
    put(database, *(score(case, 0.1) for case in cases), score("case0500", 0.9))
    assert ask(queue(database), cases=cases).serving.case_id == "case0500"


# Leases


def test_two_clients_never_hold_the_same_case(database):
    all_scored(database)
    line = queue(database)
    given = [ask(line, client=f"reader {n}").serving.case_id for n in range(30)]
    assert len(set(given)) == 30


def test_with_every_case_on_lease_the_answer_says_when_one_is_free(database):
    line = queue(database)
    two = {"case00": "a", "case01": "b"}
    for n in range(2):
        ask(line, client=f"reader {n}", now=1000.0 + 60 * n, cases=two)
    answer = line.ask(None, "third", two, (), 1100.0, np.random.default_rng(0))
    assert answer == Nothing(
        "the 2 cases without a label are all with readers; the next one is free in 29 min, "
        "or when a reader submits or skips"
    )
    assert line.next_case(None, "third", two, (), 1100.0, np.random.default_rng(0)) is None


def test_with_every_case_labelled_the_answer_says_so(database):
    line = queue(database)
    rng = np.random.default_rng(0)
    assert line.ask(None, "reader", {}, list(CASES), 0.0, rng) == Nothing("all 30 cases are labelled")
    assert line.ask(None, "reader", {}, [], 0.0, rng) == Nothing("there are no cases yet")


def test_next_case_is_the_case_that_ask_serves(database):
    served = queue(database).next_case("first", "reader", CASES, (), 0.0, np.random.default_rng(0))
    assert served is not None
    assert served.serving.case_id == "case00"


def test_a_lease_that_is_over_frees_its_case(database):
    line = queue(database)
    one = {"case00": "a"}
    ask(line, client="first", cases=one)
    assert ask(line, client="second", now=1000.0 + LEASE_S, cases=one).serving.case_id == "case00"
    with database.reading() as c:
        assert [serving.outcome for serving in servings(c)] == [EXPIRED, None]


def test_submitting_frees_the_client_not_the_case(database):
    line = queue(database)
    served = ask(line, strategy="first")
    with database.writing() as c:
        end(c, served.serving.id, SUBMITTED, 1010.0)
    assert ask(line, strategy="first", labelled=["case00"]).serving.case_id == "case01"


def serve_all(path: Path, client: str, given: Queue) -> None:
    database = Database.open(path)
    line = queue(database)
    for n in range(10):
        given.put(ask(line, client=f"{client} {n}", seed=n).serving.case_id)
    database.close()


def test_two_processes_never_serve_the_same_case(database, tmp_path):
    all_scored(database)
    given = CONTEXT.Queue()
    workers = [
        CONTEXT.Process(target=serve_all, args=(tmp_path / "overread.db", name, given)) for name in ("a", "b")
    ]
    for worker in workers:
        worker.start()
    cases = [given.get(timeout=120) for _ in range(20)]
    for worker in workers:
        worker.join()
    assert len(set(cases)) == 20


# Skipping


def test_asking_again_skips_the_case_and_serves_another(database):
    all_scored(database)
    line = queue(database)
    assert ask(line).serving.case_id == "case29"
    assert ask(line, now=1010.0).serving.case_id == "case28"
    with database.reading() as c:
        assert [serving.outcome for serving in servings(c)] == [SKIPPED, None]
        assert [row.action for row in rows(c)] == ["case served", "case skipped", "case served"]


def test_a_skipped_case_rests_until_others_were_served(database):
    all_scored(database)
    line = queue(database, skip_rest=3)
    given = [ask(line, now=1000.0 + n).serving.case_id for n in range(5)]
    # case29 is skipped by the second question; the second, third and fourth are the three others.
    assert given == ["case29", "case28", "case27", "case26", "case29"]


def test_a_skipped_case_does_not_rest_where_that_is_set_to_zero(database):
    all_scored(database)
    line = queue(database, skip_rest=0)
    assert {ask(line, now=1000.0 + n).serving.case_id for n in range(3)} == {"case29"}


def test_skipped_cases_come_back_when_nothing_else_is_left(database):
    line = queue(database)
    one = {"case00": "a"}
    ask(line, cases=one)
    served = ask(line, cases=one, now=1010.0)
    assert served.serving.case_id == "case00"
    assert served.serving.reason.endswith(", skipped before and nothing else left")


def test_anonymous_clients_do_not_skip_each_others_cases(database):
    line = queue(database)
    given = {ask(line, client="", strategy="first").serving.case_id for _ in range(3)}
    assert len(given) == 3
    with database.reading() as c:
        assert len(open_servings(c)) == 3
        assert {row.actor for row in rows(c)} == {"anonymous"}


# Control arm


@pytest.mark.parametrize("share", [0.0, 0.05, 0.1, 0.2, 1 / 3, 0.5, 0.7, 0.9, 1.0])
def test_the_control_share_is_kept_within_one_case_at_any_time(share):
    count = 0
    for served in range(2000):
        assert abs(count - share * served) < 1
        count += is_control(served, share, "phantom")


def test_a_client_that_comes_every_fifth_time_does_not_get_all_controls():
    turns = Counter(served % 5 for served in range(1000) if is_control(served, 0.2, "phantom"))
    assert set(turns) == set(range(5))
    assert max(turns.values()) < 80


def test_controls_are_drawn_at_random_and_marked(database):
    all_scored(database)
    line = queue(database, control_share=0.2)
    given = [ask(line, client=f"reader {n}", seed=n) for n in range(20)]
    controls = [served for served in given if served.arm == CONTROL]
    assert len(controls) == 4
    for served in controls:
        assert served.serving.arm == CONTROL
        assert served.serving.strategy == "foreground_random"
        assert served.serving.reason.startswith("control: drawn at random among cases with")
        assert served.pick.score is None
        assert f"| {served.serving.reason} | foreground_random |" in served.text
    assert all(served.serving.strategy == "most_uncertain" for served in given if served.arm == STRATEGY)


def test_the_share_counts_each_recipe_for_itself(database):
    with database.writing() as c:
        for n in range(7):
            serve(
                c,
                case_id=f"other{n}",
                patient="",
                client_id="x",
                recipe="liver",
                champion="",
                strategy="first",
                arm=STRATEGY,
                reason="",
                score=None,
                now=1.0,
                lease_s=1.0,
            )
    line = queue(database, control_share=0.2)
    arms = [ask(line, client=f"reader {n}").arm == CONTROL for n in range(10)]
    assert arms == [is_control(n, 0.2, RECIPE) for n in range(10)]


# What is asked for


def test_a_strategy_is_chosen_by_name(database):
    assert ask(queue(database), strategy="first").serving.strategy == "first"


def test_an_unknown_strategy_is_refused_before_anything_is_served(database):
    with pytest.raises(NotFoundError, match="no strategy is called 'best'"):
        ask(queue(database), strategy="best")
    with database.reading() as c:
        assert servings(c) == []


def test_a_free_case_is_served_by_name(database):
    all_scored(database)
    line = queue(database, control_share=1.0)
    served = ask(line, prefer="case11")
    assert (served.serving.case_id, served.serving.strategy, served.arm) == ("case11", "by_name", STRATEGY)
    # It is taken now; another client gets another one.
    assert ask(line, client="another", prefer="case11").serving.case_id != "case11"


@pytest.mark.parametrize("as_mapping", [True, False])
def test_patients_of_labelled_cases_count_towards_the_cap(database, as_mapping):
    patients = {case: "one" if n >= 20 else case for n, case in enumerate(CASES)}
    all_scored(database)
    labelled = ["case29", "case28"]
    if not as_mapping:
        with database.writing() as c:
            for case in labelled:
                add_label(c, label(case, patient="one"))
    # 21 patients and a third question: the cap is one case for each.
    waiting = {case: patient for case, patient in patients.items() if case not in labelled}
    known = dict.fromkeys(labelled, "one") if as_mapping else labelled
    assert ask(queue(database), cases=waiting, labelled=known).serving.case_id == "case19"


def test_a_near_duplicate_of_a_case_on_lease_is_not_served(database):
    all_scored(database)
    put(
        database,
        score("case29", 0.9, features=tuple(range(8))),
        score("case28", 0.8, features=tuple(range(8))),
    )
    line = queue(database)
    assert [ask(line, client=name).serving.case_id for name in ("a", "b")] == ["case29", "case27"]


def label(case: str, dice: float = 1.0, **changes: object) -> LabelRow:
    row = LabelRow(
        case_id=case,
        patient=case,
        rater="reader",
        client_id="reader",
        revision=1,
        file=f"{case}/{json.dumps(sorted(changes))}.nii.gz",
        sha256="",
        tag="final",
        recipe=RECIPE,
        champion=CHAMPION,
        dice_to_proposal=dice,
        partial=False,
        protected=False,
        submitted_at=1.0,
    )
    return replace(row, **changes)  # pyright: ignore


def test_the_reader_is_told_when_labels_change_little(database):
    all_scored(database)
    line = queue(database)
    labelled = list(CASES)[:20]
    assert ask(line, labelled=labelled).stop is None
    with database.writing() as c:
        for case in labelled:
            add_label(c, label(case))
    served = ask(line, labelled=labelled)
    assert served.stop is not None
    assert served.stop.stop
    assert served.text.endswith("further labels are expected to change little")


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_beyond_its_bounds_is_refused(share):
    with pytest.raises(BadInputError, match=r"the control arm's share is a number in \[0, 1\]"):
        QueueSettings(control_share=share)


@pytest.mark.parametrize("share", [0.5, float("inf"), float("nan")])
def test_a_share_below_an_equal_one_is_refused(share):
    with pytest.raises(BadInputError, match="a share is at least 1 times an equal one"):
        QueueSettings(share=share)


@pytest.mark.parametrize("change", [{"lease_s": 0}, {"skip_rest": -1}, {"batch": 0}, {"budget": 0}])
def test_settings_that_make_no_sense_are_refused(change):
    with pytest.raises(BadInputError, match="a lease lasts longer than 0 s"):
        QueueSettings(**change)
