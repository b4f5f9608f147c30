"""Whatever the network thinks, a clicked voxel has the side that the clinician said."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from overread.meduhip.honour import LEAST_LOGIT, honour
from overread.meduhip.prompts import Click

SHAPES = {2: (9, 7), 3: (5, 6, 4)}


@st.composite
def clicked_logits(draw):
    axes = draw(st.sampled_from([2, 3]))
    shape = SHAPES[axes]
    place = st.tuples(*[st.integers(0, size - 1) for size in shape])
    clicks = draw(st.lists(st.builds(Click, place, st.booleans()), max_size=8))
    scale = draw(st.sampled_from([0.1, 1.0, 30.0, 1e6, 1e9]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 100)))
    return scale * torch.randn(shape, generator=generator), clicks


@given(clicked_logits())
def test_every_click_has_its_side(case):
    logits, clicks = case
    before = logits.clone()
    corrected = honour(logits, clicks)
    # Where two clicks name the same voxel, the later one holds.
    said = {click.place: click.foreground for click in clicks}
    assert all((float(corrected[place]) > 0) == side for place, side in said.items())
    assert torch.equal(logits, before)
    assert bool(corrected.isfinite().all())


def test_without_clicks_nothing_changes():
    logits = torch.randn(4, 4)
    corrected = honour(logits, [])
    assert torch.equal(corrected, logits)
    assert corrected is not logits


def test_a_click_that_agrees_changes_nothing():
    logits = torch.full((5, 5), 3.0)
    assert torch.equal(honour(logits, [Click((2, 2), True)]), logits)


@pytest.mark.parametrize("foreground", [True, False])
def test_the_correction_is_as_small_as_needed_and_fades(foreground):
    sign = 1.0 if foreground else -1.0
    corrected = sign * honour(torch.full((41, 41), -2.0 * sign), [Click((20, 20), foreground)])
    assert float(corrected[20, 20]) == pytest.approx(LEAST_LOGIT)
    # Three voxels on it is 2.5 exp(-1/2).
    assert float(corrected[23, 20]) == pytest.approx(-2 + 2.5 * 0.60653, rel=1e-4)
    assert float(corrected[20, 17]) == pytest.approx(-2 + 2.5 * 0.60653, rel=1e-4)
    assert float(corrected[0, 20]) == -2
    assert float(corrected[20, 40]) == -2


@pytest.mark.parametrize("place", [(0, 0, 0), (4, 0, 3), (4, 5, 3)])
def test_clicks_at_the_border_are_honoured_as_inside(place):
    corrected = honour(torch.full((5, 6, 4), -8.0), [Click(place, True)])
    assert float(corrected[place]) == pytest.approx(LEAST_LOGIT)
    # The same part of a larger volume.
    inside = tuple(at + 12 for at in place)
    larger = honour(torch.full((29, 30, 28), -8.0), [Click(inside, True)])
    torch.testing.assert_close(corrected, larger[12:17, 12:18, 12:16])


def test_neighbours_that_contradict_each_other_are_both_right():
    corrected = honour(torch.zeros(6, 6), [Click((2, 2), True), Click((2, 3), False)])
    assert float(corrected[2, 2]) > 0
    assert float(corrected[2, 3]) < 0


def test_the_later_click_in_one_voxel_holds():
    clicks = [Click((2, 2), True), Click((2, 2), False)]
    assert float(honour(torch.full((5, 5), 4.0), clicks)[2, 2]) < 0
    assert float(honour(torch.full((5, 5), 4.0), clicks[::-1])[2, 2]) > 0
