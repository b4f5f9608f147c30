"""What the rows of the study add up to, and which goals were met, is what was put into them."""

from __future__ import annotations

from typing import Any

import pytest

from overread.domain import BadInputError
from overread.studies.uga.findings import POOLED, Contest, Findings
from overread.studies.uga.goals import MET, MISSED, OPEN, Judgement, judge_goals
from overread.studies.uga.rows import read_results
from support.uga_results import study_of


def findings_of(results: dict[str, Any]) -> Findings:
    return Findings(read_results(results))


def exact(**changes: Any) -> Findings:
    """Every case of a domain has the same Dice in every seed."""
    return findings_of(study_of(noise=0.0, patches=6, **changes))


def judged(findings: Findings, goal: str, arm: str, place: str) -> list[Judgement]:
    return [
        each
        for each in judge_goals(findings)
        if each.goal.startswith(goal) and (each.arm, each.place) == (arm, place)
    ]


def test_dice_by_arm_budget_and_place():
    findings = exact()
    assert findings.places == ("grey", "pink", POOLED)
    # 0.6 of the way from 0.3 to 0.7, and of the way from 0.5 to 0.7.
    assert findings.dice("clasp_pe", 5, "grey").estimate == pytest.approx(0.54)
    assert findings.dice("clasp_pe", 5, "pink").estimate == pytest.approx(0.62)
    # Seven cases have a Dice in grey, where one is negative, and eight in pink.
    assert findings.dice("clasp_pe", 5, POOLED).estimate == pytest.approx((7 * 0.54 + 8 * 0.62) / 15)
    # Nothing asked is the baseline; what asks for nothing is the same at every budget.
    assert findings.dice("clasp_pe", 0, "grey").estimate == pytest.approx(0.3)
    assert findings.dice("all", 5, "grey").estimate == pytest.approx(0.7)
    assert findings.dice("hed", 10, "grey").estimate == pytest.approx(0.34)
    assert findings.dice("adabn", 0, "violet") is None
    # Four patients of grey, two cases each.
    assert findings.dice("uga", 5, "grey").groups == 4


def test_by_class_of_case_and_of_label():
    findings = exact()
    assert findings.dice("uga", 5, "grey", "macro").estimate == pytest.approx(0.38)
    assert findings.dice("uga", 5, "grey", "negative") is None
    assert findings.class_dice("Nucleus", "uga", 5, "grey").estimate == pytest.approx(0.38)
    assert findings.false_mm2("uga", 5, "grey").estimate == 0.5
    assert findings.false_mm2("uga", 5, "pink") is None


def test_differences_are_paired_by_case_and_seed():
    findings = findings_of(study_of(noise=0.01, patches=6))
    lead = findings.difference("clasp_pe", "random", 5, "grey")
    assert lead.estimate == pytest.approx(0.12, abs=0.01)
    # Cases differ by 0.1 in all arms alike, which pairing takes out.
    assert lead.high - lead.low < 0.03
    dice = findings.dice("clasp_pe", 5, "grey")
    assert dice.high - dice.low > 0.08
    beside = findings.beside_baseline("clasp_pe", 5, "grey")
    assert beside.estimate == pytest.approx(dice.estimate)
    assert beside.high - beside.low < 0.03
    assert findings.beside_baseline("adabn", 5, "violet") is None


def test_area_gap_and_what_is_closed_of_it():
    findings = exact()
    # Trapezoids from 0.3 over 0.54 to 0.62.
    area = ((0.3 + 0.54) / 2 + (0.54 + 0.62) / 2) / 2
    assert findings.area("clasp_pe", "grey").estimate == pytest.approx(area)
    random = ((0.3 + 0.42) / 2 + (0.42 + 0.5) / 2) / 2
    assert findings.area_difference("clasp_pe", "random", "grey").estimate == pytest.approx(area - random)
    assert findings.gap("grey").estimate == pytest.approx(0.4)
    assert findings.closed("clasp_pe", 10, "grey").estimate == pytest.approx(0.8)
    assert findings.closed("adabn", 0, "grey").estimate == pytest.approx(-0.1)
    narrow = exact(levels={"violet": (0.9, 0.9), "grey": (0.5, 0.54)})
    assert narrow.places == ("grey",)
    assert narrow.closed("clasp_pe", 10, "grey") is None


def test_wins_ties_and_losses_by_seed_and_domain():
    contests = exact().contests
    assert contests["clasp_pe", "random"] == Contest(10, 0, 0)
    assert contests["random", "clasp_pe"] == Contest(0, 0, 10)
    twins = exact(shares={"uga": (0.4, 0.6), "random": (0.4, 0.6)})
    assert twins.contests["uga", "random"] == Contest(0, 10, 0)


def test_patches_that_were_asked_are_counted_once_however_they_were_written_down():
    results = study_of(patches=6)
    first = Findings(read_results(results)).cost("uga", 10, "grey")
    # Written down anew at the larger budget.
    again = [{**pick, "budget": 10} for pick in results["picks"] if pick["budget"] == 5]
    second = Findings(read_results({**results, "picks": results["picks"] + again})).cost("uga", 10, "grey")
    assert first == second
    assert (first.patches, first.mm2, first.tissue, first.foreground) == pytest.approx((10, 0.04, 0.1, 0.25))
    pooled = Findings(read_results(results)).cost("uga", 5, POOLED)
    assert (pooled.patches, pooled.mm2, pooled.tissue) == pytest.approx((10, 0.04, 0.05))
    bare = [
        {key: pick[key] for key in ("seed", "arm", "budget", "domain", "case")} for pick in results["picks"]
    ]
    unknown = Findings(read_results({**results, "picks": bare})).cost("uga", 5, "grey")
    assert (unknown.patches, unknown.mm2, unknown.foreground) == (5, None, None)


def test_doubt_that_goes_with_errors_and_doubt_that_does_not():
    findings = findings_of(study_of(patches=40))
    pairs, rho = findings.doubt_against_dice("pairwise_dice", POOLED)
    # One patch of each seed and domain has no Dice.
    assert pairs.shape == (2 * 5 * 39, 2)
    assert rho.high < -0.9
    _, none = findings.doubt_against_dice("uga", "grey")
    assert none.low < 0 < none.high
    constant = study_of(patches=6)
    for patch in constant["patches"]:
        patch["uncertainty"] = 1.0
    assert findings_of(constant).doubt_against_dice("uga", "grey")[1] is None


def test_goals_are_met_or_missed_by_the_numbers():
    findings = exact(forgetting={"uga": 0.02, "clasp_pe": 0.005})
    assert [each.verdict for each in judged(findings, "closes", "clasp_pe", "grey")] == [MET]
    assert [each.verdict for each in judged(findings, "closes", "uga", POOLED)] == [MISSED]
    assert [each.verdict for each in judged(findings, "0.02", "clasp_pe", "pink")] == [MET]
    assert [each.verdict for each in judged(findings, "0.02", "uga", "pink")] == [MISSED]
    assert [each.verdict for each in judged(findings, "not behind", "clasp_pe", "grey")] == [MET, MET]
    assert [each.verdict for each in judged(findings, "not behind", "uga", "grey")] == [MISSED, MISSED]
    assert [each.verdict for each in judged(findings, "central", "clasp_pe", "violet")] == [MET, MET]
    assert [each.verdict for each in judged(findings, "central", "uga", "violet")] == [MISSED, MISSED]
    assert {each.arm for each in judge_goals(findings)} == {"uga", "clasp_pe"}


def test_what_the_interval_does_not_tell_is_not_called_met():
    shares = {"uga": (0.5, 0.5), "foreground_random": (0.52, 0.52), "random": (0.42, 0.42)}
    noisy = findings_of(study_of(shares=shares, noise=0.05, patches=6, seeds=(0, 1), cases=4))
    (lead,) = judged(noisy, "0.02", "uga", "grey")
    assert lead.measured.low < 0 < 0.02 < lead.measured.estimate
    assert (lead.verdict, lead.why) == (MISSED, "not outside the interval")
    behind = judged(noisy, "not behind", "uga", "grey")[0]
    assert behind.measured.estimate < 0 < behind.measured.high
    assert (behind.verdict, behind.why) == (OPEN, "behind, within the interval")


def test_one_seed_shows_nothing_and_no_gap_is_no_failure():
    one = exact(seeds=(3,))
    assert one.seeds == (3,)
    (lead,) = judged(one, "0.02", "clasp_pe", "grey")
    assert (lead.verdict, lead.why) == (OPEN, "one seed shows nothing")
    narrow = exact(levels={"violet": (0.9, 0.9), "grey": (0.5, 0.54)})
    (closed,) = judged(narrow, "closes", "clasp_pe", "grey")
    assert (closed.verdict, closed.why) == (OPEN, "the gap is 0.040 Dice only")


def test_seeds_that_are_not_finished_are_left_out():
    results = study_of(patches=6)
    results["rows"] = [row for row in results["rows"] if (row["seed"], row["arm"]) != (4, "all")]
    results["rows"] = [
        row for row in results["rows"] if (row["seed"], row["arm"], row["budget"]) != (1, "uga", 10)
    ]
    findings = findings_of(results)
    assert findings.seeds == (0, 2, 3)
    pairs, rho = findings.doubt_against_dice("pairwise_dice", POOLED)
    # Two domains of five patches that have a Dice.
    assert len(pairs) == 2 * 3 * 5
    assert rho is not None
    told = {(patch.uncertainty, patch.dice) for patch in findings.results.patches if patch.seed in (0, 2, 3)}
    assert {tuple(pair) for pair in pairs} <= told


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rows": []}, "no `study` or no `rows`"),
        ({"rows": [{"seed": 0, "arm": "uga"}]}, "row 0 of `rows` cannot be used"),
        ({"study": {**study_of(patches=1)["study"], "arms": ["uga"]}}, "lack the arm `none`"),
        ({"study": {**study_of(patches=1)["study"], "seeds": [9]}}, "no seed of three stains was finished"),
    ],
)
def test_results_that_cannot_be_used_are_named(change: dict[str, Any], words: str):
    with pytest.raises(BadInputError, match=words):
        read_results(study_of(patches=1) | change)
