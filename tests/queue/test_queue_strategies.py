"""Every strategy takes a waiting case and says why; each of them asks as its description promises."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import fields

import numpy as np
import pytest

from overread.domain import BadInputError, NotFoundError
from overread.queue.cases import Cases, Pick, View
from overread.queue.reasons import LONGEST_NAME
from overread.queue.space import BLOCK
from overread.queue.strategies import STRATEGIES, worst_first
from support.cases import known_cases, some_cases, unknown

LONGEST_REASON = 100


def pick(name: str, waiting: Cases, asked: Cases | None = None, seed: int = 0, **more: float) -> Pick:
    view = View(waiting, some_cases(0) if asked is None else asked, **more)  # pyright: ignore
    return STRATEGIES[name].pick(view, np.random.default_rng(seed))


@pytest.fixture(params=list(STRATEGIES))
def name(request) -> str:
    return request.param


def situations() -> dict[str, View]:
    known = known_cases(30)
    mixed = known_cases(30)
    for array in (mixed.doubt, mixed.class_doubt, mixed.foreground_mm3, mixed.features):
        array[::2] = np.nan
    flat = some_cases(5, doubt=np.zeros(5), class_doubt=np.zeros((5, 2)), foreground_mm3=np.zeros((5, 2)))
    twins = some_cases(6, doubt=np.ones(6), features=np.ones((6, 4)))
    asked = known_cases(12, seed=1, prefix="asked")
    return {
        "everything is known": View(known, asked, 0.5, 10),
        "nothing is known": View(some_cases(7), some_cases(3, prefix="asked")),
        "one case is left": View(known_cases(1), asked, 1.0, 1),
        "one case of which nothing is known": View(some_cases(1), some_cases(0)),
        "half is scored": View(mixed, asked, 0.1, 5),
        "only images are known": View(some_cases(9, features=known_cases(9).features), some_cases(0)),
        "no doubt and no structure": View(flat, some_cases(0)),
        "all images are alike": View(twins, some_cases(3, prefix="asked", features=np.ones((3, 4)))),
        "asked cases have other features": View(
            known, some_cases(2, prefix="asked", features=np.ones((2, 3)))
        ),
        "one patient has everything": View(
            some_cases(4, doubt=np.arange(4), patients=["a"] * 4), some_cases(3, patients=["a"] * 3)
        ),
        "progress beyond its end": View(known, asked, 7.0, 0),
    }


@pytest.mark.parametrize("situation", situations())
def test_takes_a_waiting_case_with_a_short_reason(name, situation):
    view = situations()[situation]
    for seed in range(5):
        taken = STRATEGIES[name].pick(view, np.random.default_rng(seed))
        assert taken.case_id in view.waiting.ids
        assert 0 < len(taken.reason) <= LONGEST_REASON
        assert not re.search(r"\d\.?\d{4}", taken.reason)
        assert taken.score is None or np.isfinite(taken.score)


def test_takes_the_same_case_for_the_same_seed(name):
    view = View(known_cases(200), known_cases(20, seed=1, prefix="asked"), 0.2, 10)
    assert len({STRATEGIES[name].pick(view, np.random.default_rng(3)) for _ in range(3)}) == 1


def test_leaves_its_input_as_it_is(name):
    view = View(known_cases(40), known_cases(10, seed=1, prefix="asked"))
    for cases in (view.waiting, view.asked):
        for array in (getattr(cases, field.name) for field in fields(cases)):
            if isinstance(array, np.ndarray):
                array.setflags(write=False)
    STRATEGIES[name].pick(view, np.random.default_rng(0))


def test_chooses_among_ten_thousand_cases(name):
    view = View(known_cases(10_000), known_cases(500, seed=1, prefix="asked"), 0.05, 10)
    assert STRATEGIES[name].pick(view, np.random.default_rng(0)).case_id in view.waiting.ids


def test_no_case_to_choose_from_is_refused(name):
    with pytest.raises(BadInputError, match=f"{name} was asked to choose among no cases: all are labelled"):
        pick(name, some_cases(0))


def test_describes_itself_in_a_sentence(name):
    assert STRATEGIES[name].description.endswith(".")
    assert STRATEGIES[name].name == name


def test_an_unknown_strategy_is_refused_with_the_names_there_are():
    with pytest.raises(NotFoundError, match=r"no strategy is called 'best'; there are .*most_uncertain"):
        STRATEGIES["best"]


# most_uncertain


def test_the_highest_doubt_is_asked_and_the_reason_names_its_class():
    rng = np.random.default_rng(0)
    doubt = np.linspace(0.1, 1, 100)
    class_doubt = np.stack([rng.uniform(0, 1, 100), doubt / 2], axis=1)
    class_doubt[99, 0] = 0
    taken = pick("most_uncertain", some_cases(100, doubt=doubt, class_doubt=class_doubt))
    assert taken == Pick("case99", "members unsure about tumour, top 1 %", 1.0)


def test_few_cases_are_counted_instead_of_shared_out():
    taken = pick("most_uncertain", some_cases(3, doubt=[0.1, 0.3, 0.2]))
    assert taken.reason == "members unsure, no. 1 of 3"


def test_a_long_class_name_is_cut():
    cases = some_cases(2, doubt=[1, 2], class_doubt=np.ones((2, 2)))
    long = Cases(**{f.name: getattr(cases, f.name) for f in fields(cases)} | {"classes": ("a", "t" * 90)})
    reason = pick("most_uncertain", long).reason
    assert "t" * (LONGEST_NAME - 1) + "…" in reason
    assert "t" * LONGEST_NAME not in reason


@pytest.mark.parametrize(("name", "by"), [("most_uncertain", "doubt"), ("pairwise_dice", "quality")])
def test_a_near_duplicate_of_an_asked_case_is_not_asked(name, by):
    cases = known_cases(50)
    getattr(cases, by)[:] = np.linspace(0.5, 0.6, 50)
    # The first in line is the asked one again, but for noise.
    asked = some_cases(1, prefix="asked", features=cases.features[49:] + 0.1)
    assert pick(name, cases).case_id == "case49"
    assert pick(name, cases, asked).case_id == "case48"


def test_of_each_pair_of_duplicates_one_is_asked_before_any_other_comes_twice():
    once = known_cases(15)
    features = np.concatenate([once.features, once.features + 0.05])
    waiting = some_cases(30, doubt=np.concatenate([once.doubt, once.doubt]), features=features)
    taken: list[int] = []
    for _ in range(15):
        left = [row for row in range(30) if row not in taken]
        view = some_cases(len(left), doubt=waiting.doubt[left], features=features[left])
        asked = some_cases(len(taken), prefix="asked", features=features[taken].reshape(-1, 20))
        taken.append(left[int(pick("most_uncertain", view, asked).case_id.removeprefix("case"))])
    assert len({row % 15 for row in taken}) == 15


def test_looking_at_the_most_doubtful_first_finds_the_best_of_all():
    # The first blocks hold only copies of an asked case; the answer lies behind them.
    count = 3 * BLOCK
    features = np.random.default_rng(0).normal(0, 10, (count, 20))
    features[: 2 * BLOCK] = features[0]
    waiting = some_cases(count, doubt=np.linspace(1, 0.5, count), features=features)
    taken = pick("most_uncertain", waiting, some_cases(1, prefix="asked", features=features[:1]))
    assert taken.case_id == f"case{2 * BLOCK}"


def test_no_patient_gets_more_than_twice_an_equal_share():
    # Ten patients with ten cases each; the first one's are all the most doubtful.
    patients = [f"p{n // 10}" for n in range(100)]
    doubt = np.linspace(1, 0.1, 100)
    taken: list[int] = []
    for _ in range(20):
        left = [row for row in range(100) if row not in taken]
        view = some_cases(len(left), doubt=doubt[left], patients=[patients[row] for row in left])
        asked = some_cases(len(taken), prefix="asked", patients=[patients[row] for row in taken])
        taken.append(left[int(pick("most_uncertain", view, asked).case_id.removeprefix("case"))])
    counts = Counter(patients[row] for row in taken)
    # Twice an equal share of 20 questions among 10 patients is 4.
    assert max(counts.values()) == counts["p0"] == 4


def test_cases_that_are_not_scored_yet_wait():
    assert pick("most_uncertain", some_cases(4, doubt=[np.nan, 0.1, np.nan, 0.2])).case_id == "case3"


def test_quality_does_not_decide_who_is_asked():
    doubt = [0.1, 0.9, 0.5]
    for quality in ([1.0, 0.0, 0.0], [0.0, 0.0, 1.0]):
        assert pick("most_uncertain", some_cases(3, doubt=doubt, quality=quality)).case_id == "case1"


# pairwise_dice


def test_what_the_members_draw_most_differently_is_asked_whatever_their_entropy():
    quality = np.linspace(0.1, 0.9, 100)
    taken = pick("pairwise_dice", some_cases(100, doubt=np.linspace(1, 0.1, 100), quality=quality))
    assert taken == Pick("case99", "members draw it differently, top 1 %", 0.9)


def test_cases_that_members_draw_alike_come_last_and_unknown_ones_wait():
    assert pick("pairwise_dice", some_cases(3, quality=[np.nan, 0.0, 0.2])).case_id == "case2"
    assert pick("pairwise_dice", some_cases(2, quality=[np.nan, 0.0])).case_id == "case1"


def test_a_single_member_has_nobody_to_differ_from_and_is_asked_by_its_doubt():
    waiting = some_cases(3, doubt=[0.1, 0.3, 0.2])
    assert pick("pairwise_dice", waiting) == pick("most_uncertain", waiting)


def test_disagreement_too_passes_over_patients_who_had_their_share():
    full = some_cases(5, quality=[0.9, 0.1, 0.2, 0.3, 0.0], patients=list("abcde"))
    assert pick("pairwise_dice", full, some_cases(4, prefix="asked", patients=["a"] * 4)).case_id == "case3"


# for people who review


def test_the_worst_predictions_come_first_for_review_and_unknown_ones_last():
    cases = some_cases(4, quality=[0.1, np.nan, 0.9, 0.5], doubt=[9, 9, 0, 0])
    assert worst_first(cases).tolist() == [2, 3, 0, 1]


# clasp_pe


def asked_with_foreground(count: int, volume: float = 500.0) -> Cases:
    return some_cases(count, prefix="asked", foreground_mm3=np.full((count, 2), volume))


def kinds(volume: float, upto: int = 1000) -> Counter[str]:
    """How often each kind of question comes while `upto` cases are asked one after another."""
    doubt = np.full((30, 2), 0.5)
    waiting = some_cases(
        30, doubt=doubt[:, 0], class_doubt=np.array([1e-9, 1]) * doubt, foreground_mm3=np.full((30, 2), 500.0)
    )
    counted: Counter[str] = Counter()
    for count in range(upto):
        reason = pick("clasp_pe", waiting, asked_with_foreground(count, volume), seed=count).reason
        score = pick("clasp_pe", waiting, asked_with_foreground(count, volume), seed=count).score
        if "random" in reason:
            counted["random"] += 1
        elif score == pytest.approx(0.5e-9):
            counted["liver"] += 1
        else:
            counted["tumour or all"] += 1
    return counted


def test_quotas_hold_while_foreground_was_asked():
    counted = kinds(volume=500, upto=500)
    assert counted["random"] == pytest.approx(0.2 * 500, abs=3)
    # Half of 66 % of the rest: one of two classes.
    assert counted["liver"] == pytest.approx(0.8 * 0.66 / 2 * 500, abs=3)


def test_the_stratified_share_is_one_half_while_nothing_with_foreground_was_asked():
    counted = kinds(volume=0, upto=500)
    assert counted["random"] == pytest.approx(0.2 * 500, abs=3)
    assert counted["liver"] == pytest.approx(0.8 * 0.5 / 2 * 500, abs=3)


def test_the_noise_fades_as_labelling_goes_on():
    waiting = some_cases(
        100, doubt=np.linspace(0.5, 1, 100), class_doubt=np.linspace([0.5, 0.5], [1, 1], 100)
    )

    def mean_rank(progress: float) -> float:
        taken = [
            pick("clasp_pe", waiting, seed=seed, progress=progress, batch=40).case_id for seed in range(300)
        ]
        return float(np.mean([int(case.removeprefix("case")) for case in taken]))

    # beta 1 at the start: noise as large as the scores' range; beta 100 at the end: nearly the order of doubt.
    assert mean_rank(0.0) < 70 < 90 < mean_rank(1.0)


def test_small_batches_have_less_noise():
    waiting = some_cases(
        100, doubt=np.linspace(0.5, 1, 100), class_doubt=np.linspace([0.5, 0.5], [1, 1], 100)
    )
    ranks = {
        batch: np.mean(
            [
                int(pick("clasp_pe", waiting, seed=seed, batch=batch).case_id.removeprefix("case"))
                for seed in range(300)
            ]
        )
        for batch in (1, 40)
    }
    assert ranks[40] < 70 < 90 < ranks[1]


def test_clasp_passes_over_near_duplicates_and_full_patients():
    cases = known_cases(30)
    cases.doubt[:], cases.class_doubt[:] = 1e-6, 1e-6
    cases.doubt[:2], cases.class_doubt[:2] = 1, 1
    asked = some_cases(1, prefix="asked", features=cases.features[:1] + 0.05)
    taken = {pick("clasp_pe", cases, asked, seed=seed, progress=1.0).case_id for seed in range(20)}
    assert taken == {"case1"}


def test_a_class_that_is_nowhere_scored_leaves_the_question_to_doubt():
    waiting = some_cases(30, doubt=np.linspace(0.5, 1, 30))
    reasons = {
        pick("clasp_pe", waiting, asked_with_foreground(count), progress=1.0).reason for count in range(10)
    }
    assert "members unsure, top 4 %" in reasons


# foreground_random


def test_only_cases_with_a_predicted_structure_are_drawn_each_class_as_often():
    volumes = np.zeros((100, 2))
    volumes[:90, 0] = 500
    volumes[99, 1] = 500
    # A speck is no structure.
    volumes[90:99] = 5
    drawn = [
        pick("foreground_random", some_cases(100, foreground_mm3=volumes), seed=seed) for seed in range(400)
    ]
    counted = Counter(taken.reason for taken in drawn)
    assert {taken.case_id for taken in drawn} <= {f"case{n}" for n in (*range(90), 99)}
    assert set(counted) == {f"drawn at random among cases with {name}" for name in ("liver", "tumour")}
    assert counted["drawn at random among cases with tumour"] == pytest.approx(200, abs=40)


def test_cases_that_are_not_scored_may_be_drawn_too():
    # Else the control arm would consist of what is scored first: the most doubtful.
    volumes = unknown(10, 2)
    volumes[:5] = 0
    drawn = {
        pick("foreground_random", some_cases(10, foreground_mm3=volumes), seed=seed).case_id
        for seed in range(100)
    }
    assert drawn == {f"case{n}" for n in range(5, 10)}


# diverse, random, first


def test_at_a_cold_start_each_group_of_images_is_asked_before_any_comes_twice():
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 30, (4, 10))
    features = np.repeat(centres, 10, axis=0) + rng.normal(0, 1, (40, 10))
    taken: list[int] = []
    for _ in range(4):
        left = [row for row in range(40) if row not in taken]
        view = some_cases(len(left), features=features[left])
        asked = some_cases(len(taken), prefix="asked", features=features[taken].reshape(-1, 10))
        chosen = pick("most_uncertain", view, asked)
        assert chosen.reason.startswith("nothing scored yet: its image stands for many")
        taken.append(left[int(chosen.case_id.removeprefix("case"))])
    assert len({row // 10 for row in taken}) == 4


def test_random_takes_every_case_as_often():
    counted = Counter(pick("random", some_cases(4), seed=seed).case_id for seed in range(400))
    assert min(counted.values()) > 60
    assert len(counted) == 4


def test_first_goes_by_the_name():
    assert pick("first", some_cases(12)).case_id == "case0"
