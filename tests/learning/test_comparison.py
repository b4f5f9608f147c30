"""Dice before and after, the interval of their difference, and what the gate makes of the two tables."""

from __future__ import annotations

import numpy as np
import pytest

from overread.domain import BadInputError
from overread.domain.labels import IGNORE
from overread.learning.comparison import CaseComparison, Comparison, Overlap, compare, compare_case, signed
from overread.learning.gate import CROSS_VALIDATION, PROTECTED, GateOptions, decide


def test_voxels_that_nobody_labelled_do_not_count():
    label = np.array([[0, 1, 1, IGNORE], [2, 2, IGNORE, IGNORE]], np.uint8)
    said = np.array([[0, 1, 0, 1], [2, 1, 2, 2]], np.uint8)
    overlap = Overlap.of(said, label, 3)
    assert overlap == Overlap(both=(1, 1), predicted=(2, 1), labelled=(2, 2))
    assert overlap.dice() == [0.5, pytest.approx(2 / 3)]


def test_a_class_that_nobody_sees_is_left_out_and_a_false_alarm_costs_all():
    silent, alarm = Overlap((5, 0), (5, 0), (5, 0)), Overlap((5, 0), (5, 3), (5, 0))
    both_silent = compare_case("a", "p", [0], ["organ", "tumour"], silent, silent)
    assert both_silent is not None
    assert both_silent.before == {"organ": 1.0}
    raised = compare_case("a", "p", [0], ["organ", "tumour"], silent, alarm)
    assert raised is not None
    assert (raised.before["tumour"], raised.after["tumour"], raised.difference) == (1.0, 0.0, -0.5)
    nothing = Overlap((0,), (0,), (0,))
    assert compare_case("a", "p", [0], ["organ"], nothing, nothing) is None


def test_shapes_and_classes_that_do_not_fit_are_refused():
    with pytest.raises(BadInputError, match="the prediction is"):
        Overlap.of(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), 2)
    with pytest.raises(BadInputError, match=r"the label holds class 7, expected 0\.\.1 or 255"):
        Overlap.of(np.zeros(2, np.uint8), np.array([0, 7], np.uint8), 2)


def rows(
    differences: list[float], patients: list[str] | None = None, before: float = 0.5
) -> list[CaseComparison]:
    owners = patients or [f"p{i}" for i in range(len(differences))]
    return [
        CaseComparison(f"c{i}", owner, (0,), {"organ": before}, {"organ": before + difference})
        for i, (owner, difference) in enumerate(zip(owners, differences, strict=True))
    ]


def table(differences: list[float], patients: list[str] | None = None, before: float = 0.5) -> Comparison:
    found = rows(differences, patients, before)
    return compare(found, confidence=0.9, draws=2000, generator=np.random.default_rng(0))


def test_a_difference_that_all_patients_share_has_no_width():
    found = table([0.1] * 6)
    assert (found.mean_before, found.patients) == (0.5, 6)
    assert found.mean_after == pytest.approx(0.6)
    assert (found.difference, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert found.per_class["organ"].cases == 6


def test_images_of_one_patient_are_drawn_together():
    apart = table([0.3, -0.1] * 4)
    together = table([0.3, -0.1] * 4, ["a", "b"] * 4)
    assert together.patients == 2
    # Two patients: a quarter of the draws hold only the worse one.
    assert (together.low, together.high) == pytest.approx((-0.1, 0.3))
    assert apart.low > together.low
    assert apart.high < together.high


def test_the_order_of_cases_does_not_matter():
    found = rows([0.3, -0.1, 0.2])
    forward = compare(found, confidence=0.9, draws=50, generator=np.random.default_rng(1))
    back = compare(found[::-1], confidence=0.9, draws=50, generator=np.random.default_rng(1))
    assert forward == back


@pytest.mark.parametrize(
    ("local", "central", "promoted", "because"),
    [
        ([0.1, 0.2, 0.15], [0.0, 0.01], True, ""),
        ([0.0, 0.0, 0.0], [0.0, 0.01], False, "local Dice does not rise"),
        ([-0.1, -0.2, -0.1], [0.0], False, "local Dice does not rise"),
        ([0.2, -0.1, 0.0], [0.0], False, "local Dice may fall by more than 0.005"),
        ([0.1, 0.2, 0.15], [-0.03, -0.05], False, "central Dice may fall by more than the margin of 0.02"),
        ([0.1, 0.2, 0.15], [0.05, -0.05], False, "central Dice may fall by more than the margin of 0.02"),
        ([-0.1, -0.1], [-0.1, -0.1], False, "does not rise and central Dice may fall by more"),
    ],
)
def test_promotion_follows_from_the_two_tables(
    local: list[float], central: list[float], promoted: bool, because: str
):
    found, reason = decide(table(local), table(central), PROTECTED, 5, GateOptions())
    assert found == promoted
    assert because in reason
    assert reason.startswith("promoted: " if promoted else "not promoted because ")


def test_the_reason_reads_as_a_sentence_with_all_numbers():
    _, reason = decide(
        table([0.052] * 12), table([-0.003] * 4, before=0.871), CROSS_VALIDATION, 2, GateOptions()
    )
    assert reason == (
        "promoted: local Dice 0.500 → 0.552 (+0.052, 90 % interval +0.052 to +0.052; 12 patients, cross-validation "
        "because only 2 of 5 protected control cases exist yet); central 0.871 → 0.868 (−0.003, interval −0.003 to "
        "−0.003; 4 patients), margin 0.02"
    )
    _, alone = decide(table([0.1]), None, PROTECTED, 5, GateOptions(central="unjudged"))
    assert "; 1 patient, protected control cases); central Dice not judged" in alone
    _, nothing = decide(None, None, PROTECTED, 5, GateOptions())
    assert "no accepted case holds a class to judge by and no central case holds" in nothing


def test_differences_are_written_with_a_true_sign():
    assert [signed(0.0521), signed(-0.0034), signed(0.0), signed(-0.0001)] == [
        "+0.052",
        "−0.003",
        "0.000",
        "0.000",
    ]
