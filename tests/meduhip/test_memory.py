"""What somebody accepts again and again is where the next case starts; what was clicked on the way is forgotten."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from overread.domain import BadInputError
from overread.meduhip.memory import (
    DECAY,
    LEVELS_TRIED,
    Impression,
    Preference,
    impression,
    learned,
    mean_weights,
    overlap_by_level,
    prior_state,
    replayed,
)
from overread.meduhip.prompts import Click
from overread.meduhip.session import answer, begin, click, space_now
from overread.meduhip.vote import sample_dice
from support.known_meduhip import RADII, disc_of, known_model, known_reader, picture

READER = known_reader()
MODEL = READER.model
OPENED = READER.open(picture())


def mask(radius: float, x: float = 0.0) -> torch.Tensor:
    return torch.from_numpy(disc_of(radius, x))


def taught(*radii: float) -> Preference:
    return replayed(MODEL, [(OPENED, mask(radius)) for radius in radii])


def test_the_component_that_draws_so_explains_the_mask():
    for index, radius in enumerate(RADII):
        seen = impression(MODEL, OPENED, mask(radius))
        assert int(np.argmax(seen.components)) == index
        assert sum(seen.components) == pytest.approx(1)
        # The component's mean is the mask already; nothing is missing from it.
        assert np.abs(seen.residual).max() < 0.2


def test_an_impression_says_how_large_somebody_draws():
    usual = np.mean([float(disc_of(radius).sum()) for radius in RADII])
    for radius in (4, 10):
        size = impression(MODEL, OPENED, mask(radius)).size
        assert size == pytest.approx(disc_of(radius).sum() / usual, rel=0.1)


def test_what_the_components_do_not_say_becomes_the_shift():
    between = impression(MODEL, OPENED, mask(8.5)).residual
    assert between[0] > 0.1
    # Four draws a component are few: only the two sides can be told apart.
    right, left = (impression(MODEL, OPENED, mask(8, x=x)).residual for x in (2.0, -2.0))
    assert right[1] > left[1] + 0.02


def test_counts_are_shrunk_towards_everybody():
    seen = Impression((1.0, 0.0, 0.0, 0.0), (1.0, 0.0), 1.0)
    preference = Preference.none(MODEL)
    for _ in range(5):
        preference = preference.after(seen)
    state = prior_state(preference, MODEL)
    # (5 + 5/4) / 10, and 1.25 / 10 for the others.
    assert state.weights == pytest.approx((0.625, 0.125, 0.125, 0.125))
    # 5 / (5 + 5) of the shift, the same for all components.
    assert state.shift == pytest.approx((0.5, 0.0) * 4)
    assert prior_state(preference, MODEL, kappa=20).weights == pytest.approx((0.4, 0.2, 0.2, 0.2))


def test_a_newcomer_begins_with_the_mean_of_the_others_however_many_cases_they_accepted():
    often = Preference((15.0, 0.0, 0.0, 0.0), (3.0, 0.0), cases=15)
    once = Preference((0.0, 0.0, 5.0, 0.0), (0.0, 0.0), cases=5)
    # (15 + 5/4) / 20 and (5/4) / 20; (5 + 5/4) / 10 and (5/4) / 10.
    mean = mean_weights([often, once])
    assert mean == pytest.approx(((0.8125 + 0.125) / 2, 0.09375, (0.0625 + 0.625) / 2, 0.09375))
    assert sum(mean) == pytest.approx(1)
    newcomer = prior_state(Preference.none(MODEL), MODEL, everybody=mean)
    assert newcomer.weights == mean
    assert newcomer.shift == (), "how another hand draws is not taken over"


def test_own_cases_outweigh_the_others_mean_in_time():
    def own(cases: int) -> Preference:
        return Preference((0.0, float(cases), 0.0, 0.0), (0.0, 0.0), cases=cases)

    everybody = (0.5, 0.0, 0.5, 0.0)
    # (0 + 5 * 0.5) / 10, and 5 / 10.
    assert prior_state(own(5), MODEL, everybody=everybody).weights == pytest.approx((0.25, 0.5, 0.25, 0.0))
    assert prior_state(own(45), MODEL, everybody=everybody).weights == pytest.approx((0.05, 0.9, 0.05, 0.0))


def test_each_samples_overlap_at_each_level_is_that_of_its_mask_there():
    logits = torch.randn(3, 9, 8, 5, generator=torch.Generator().manual_seed(0)) * 3
    logits[0, 0, 0, 0] = LEVELS_TRIED[2]
    mask = torch.randn(9, 8, 5, generator=torch.Generator().manual_seed(1)) > 0.3
    expected = torch.stack(
        [sample_dice((logits > level).float()[None], mask[None])[0] for level in LEVELS_TRIED], dim=1
    )
    torch.testing.assert_close(overlap_by_level(logits, mask), expected)


def test_who_draws_beyond_what_the_components_say_starts_wider_the_next_time():
    widest = max(RADII)
    seen = [impression(MODEL, OPENED, mask(radius)).level for radius in (widest + 2, widest, min(RADII) - 2)]
    assert seen[0] < seen[1] < seen[2]
    assert abs(seen[1]) <= 0.5
    preference = taught(*[widest + 2] * 5)
    assert preference.level == pytest.approx(seen[0])
    # Five cases weigh as much as everybody's.
    assert prior_state(preference, MODEL).level == pytest.approx(seen[0] / 2)


def test_shift_and_level_are_means_that_forget():
    preference = Preference.none(MODEL)
    for value in (1.0, 3.0):
        preference = preference.after(Impression((1.0, 0.0, 0.0, 0.0), (value, 0.0), 2.0, -value))
    assert preference.level == pytest.approx(-preference.shift[0])
    # Weights gamma and 1, divided by their sum.
    assert preference.shift[0] == pytest.approx((DECAY * 1 + 3) / (DECAY + 1))
    assert preference.size == pytest.approx(2)


def test_the_next_case_starts_near_what_was_accepted_before():
    before = answer(MODEL, OPENED, begin(MODEL, "next", "c"))
    state = prior_state(taught(*[10] * 8), MODEL)
    after = answer(MODEL, OPENED, begin(MODEL, "next", "c", priors=(state,)))
    wanted = disc_of(10).sum()
    assert abs(int((after.logits > 0).sum()) - wanted) < abs(int((before.logits > 0).sum()) - wanted) / 2


def test_who_taught_nothing_starts_where_everybody_does():
    state = prior_state(Preference.none(MODEL), MODEL)
    known = space_now(MODEL, OPENED, begin(MODEL, "next", "c", priors=(state,)))
    new = space_now(MODEL, OPENED, begin(MODEL, "next", "c"))
    assert torch.equal(known.weights, new.weights)
    assert torch.equal(known.means, new.means)


def test_clicks_that_were_taken_back_teach_nothing():
    session = begin(MODEL, "case", "c")
    for place in ((16, 16), (0, 0), (3, 16)):
        given = answer(MODEL, OPENED, session)
        session = click(MODEL, OPENED, session, given, Click(place, False))
    # What is accepted in the end does not depend on the clicks, so neither does the lesson.
    preference = Preference.none(MODEL)
    assert learned(preference, MODEL, OPENED, mask(8)) == taught(8)


def test_one_wrong_mask_among_ten_does_not_turn_a_preference():
    state = prior_state(taught(*[10] * 5, 4, *[10] * 4), MODEL)
    assert int(np.argmax(state.weights)) == 3
    assert state.weights[0] < state.weights[3] / 2


def test_a_replay_with_permuted_components_gives_the_permuted_preference():
    order = (2, 0, 3, 1)
    other = known_model([RADII[index] for index in order])
    opened = replace(known_reader(), model=other).open(picture())
    radii = (10, 8, 10, 10, 6)
    old = taught(*radii)
    new = replayed(other, [(opened, mask(radius)) for radius in radii])
    assert new.cases == old.cases
    assert new.counts == pytest.approx([old.counts[index] for index in order], abs=0.25)
    assert int(np.argmax(new.counts)) == order.index(int(np.argmax(old.counts)))
    assert new.size == pytest.approx(old.size, rel=0.02)


def test_a_preference_of_a_model_of_other_sizes_is_refused():
    small = known_model(RADII[:3])
    with pytest.raises(BadInputError, match="4 components in 2 dimensions does not fit a model with 3 in 2"):
        prior_state(taught(8), small)


def test_masks_that_say_nothing_are_refused():
    with pytest.raises(BadInputError, match="an empty mask says nothing"):
        impression(MODEL, OPENED, torch.zeros(32, 32, dtype=torch.bool))
    with pytest.raises(BadInputError, match=r"the mask has \(3, 3\) voxels, its image \(32, 32\)"):
        impression(MODEL, OPENED, torch.ones(3, 3, dtype=torch.bool))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"counts": (-1.0, 0.0)}, "finite counts of at least 0"),
        ({"shift": (float("nan"),)}, "finite counts of at least 0"),
        ({"size": 0.0}, "a size above 0"),
        ({"cases": -1}, "learnt from -1 cases"),
    ],
)
def test_an_impossible_preference_is_refused(change: dict, message: str):
    with pytest.raises(BadInputError, match=message):
        replace(Preference((1.0, 0.0), (0.0,), 1), **change)
