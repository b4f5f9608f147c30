"""Clicks and the chosen mask reach the network where they lie, in the axis order of the image."""

import math

import pytest
import torch

from overread.domain import BadInputError
from overread.meduhip.prompts import (
    DENSE_EDGE,
    LARGEST_LOGIT,
    NO_CLICK,
    Click,
    PromptEncoder,
    Prompts,
    click_maps,
    to_dense,
)


def with_empty_slots(prompts: Prompts, count: int) -> Prompts:
    batch, _, axes = prompts.places.shape
    for slot in range(count):
        place = torch.full((batch, axes), float(slot))
        prompts = prompts.with_click(place, torch.full((batch,), float(NO_CLICK)))
    return prompts


# prompts


@pytest.mark.parametrize("axes", [2, 3])
def test_before_anything_was_said_there_is_nothing(axes):
    prompts = Prompts.none(3, axes)
    assert prompts.places.shape == (3, 0, axes)
    assert prompts.sides.shape == (3, 0)
    assert prompts.dense.shape == (3, 1, *[DENSE_EDGE[axes]] * axes)
    assert not prompts.dense.any()
    assert prompts.has_dense.tolist() == [0, 0, 0]


def test_clicks_of_one_image_keep_their_order_and_sides():
    prompts = Prompts.of_clicks([Click((3, 4), True), Click((5, 6), False)], 2)
    assert prompts.places.tolist() == [[[3, 4], [5, 6]]]
    assert prompts.sides.tolist() == [[1, 0]]
    assert prompts.has_dense.tolist() == [0]


def test_no_click_with_a_chosen_mask():
    prompts = Prompts.of_clicks([], 3, torch.ones(32, 32, 32))
    assert prompts.places.shape == (1, 0, 3)
    assert prompts.has_dense.tolist() == [1]
    assert bool((prompts.dense == 1).all())


def test_one_more_click_leaves_what_was_there():
    before = Prompts.of_clicks([Click((3, 4), True)], 2)
    after = before.with_click(torch.tensor([[7, 8]]), torch.tensor([0]))
    assert after.places.tolist() == [[[3, 4], [7, 8]]]
    assert after.sides.tolist() == [[1, 0]]
    assert before.places.shape == (1, 1, 2)


def test_the_prompts_of_one_image_serve_copies_of_it():
    prompts = Prompts.of_clicks([Click((3, 4), True)], 2).with_dense(torch.ones(1, 8, 8)).expanded(5)
    assert prompts.places.shape == (5, 1, 2)
    assert prompts.sides.tolist() == [[1]] * 5
    assert prompts.dense.shape == (5, 1, 64, 64)
    assert prompts.has_dense.tolist() == [1] * 5


def test_each_place_has_a_side():
    empty = Prompts.none(1, 2)
    with pytest.raises(BadInputError, match=r"places \(1, 2, 2\) are \(batch, click, axis\), sides \(1, 1\)"):
        Prompts(torch.zeros(1, 2, 2), torch.zeros(1, 1), empty.dense, empty.has_dense)


def test_a_dense_prompt_has_the_axes_of_the_places():
    empty = Prompts.none(1, 2)
    with pytest.raises(BadInputError, match=r"dense \(1, 32, 32\) \(batch, 1, \*space\)"):
        Prompts(empty.places, empty.sides, torch.zeros(1, 32, 32), empty.has_dense)


def test_clicks_and_masks_are_of_as_many_images():
    empty = Prompts.none(2, 2)
    with pytest.raises(BadInputError, match="different numbers of images: places 2, dense 3, has_dense 2"):
        Prompts(empty.places, empty.sides, torch.zeros(3, 1, 64, 64), empty.has_dense)
    with pytest.raises(BadInputError, match="different numbers of images: places 2, dense 2, has_dense 1"):
        Prompts(empty.places, empty.sides, empty.dense, torch.zeros(1))


# the chosen mask


def test_a_dense_prompt_is_the_mean_of_clipped_logits():
    logits = torch.zeros(1, 128, 128)
    logits[0, :2, 2:4] = torch.tensor([[100.0, 4.0], [0.0, -100.0]])
    dense = to_dense(logits)
    assert dense.shape == (1, 1, 64, 64)
    assert float(dense[0, 0, 0, 1]) == pytest.approx((LARGEST_LOGIT + 4 - LARGEST_LOGIT) / 4)
    assert int((dense != 0).sum()) == 1


@pytest.mark.parametrize("shape", [(40, 77), (20, 33, 50)])
def test_a_dense_prompt_of_any_size_is_of_one_size(shape):
    axes = len(shape)
    assert to_dense(torch.ones(2, *shape)).shape == (2, 1, *[DENSE_EDGE[axes]] * axes)


# click maps


def test_a_bump_peaks_at_its_click_in_the_axis_order_of_the_image():
    maps = click_maps(Prompts.of_clicks([Click((7, 2), True)], 2), (10, 12), [2.0])
    assert maps.shape == (1, 2, 10, 12)
    assert (maps[0, 0] == 1).nonzero().tolist() == [[7, 2]]
    # Two voxels on, one sigma.
    assert float(maps[0, 0, 5, 2]) == pytest.approx(math.exp(-0.5))
    assert float(maps[0, 0, 7, 6]) == pytest.approx(math.exp(-2))
    assert not maps[0, 1].any()


def test_foreground_comes_before_background_for_each_width():
    prompts = Prompts.of_clicks([Click((1, 2, 3), True), Click((4, 0, 5), False)], 3)
    maps = click_maps(prompts, (5, 4, 6), [1.0, 3.0])
    peaks = [(m == 1).nonzero().tolist() for m in maps[0]]
    assert peaks == [[[1, 2, 3]], [[4, 0, 5]], [[1, 2, 3]], [[4, 0, 5]]]


def test_clicks_that_lie_together_do_not_add_up():
    once = Prompts.of_clicks([Click((4, 4), True)], 2)
    twice = Prompts.of_clicks([Click((4, 4), True)] * 2, 2)
    assert torch.equal(click_maps(once, (9, 9), [2.0]), click_maps(twice, (9, 9), [2.0]))


@pytest.mark.parametrize("axes", [2, 3])
def test_a_voxels_nearest_click_of_each_side_counts(axes):
    places = torch.tensor([[3.0, 4.0, 1.0], [10.0, 2.0, 4.0], [6.0, 9.0, 3.0]])[None, :, :axes]
    sides = torch.tensor([[1.0, 0.0, 1.0]])
    nothing = Prompts.none(1, axes)
    maps = click_maps(
        Prompts(places, sides, nothing.dense, nothing.has_dense), (12, 11, 6)[:axes], [2.0, 8.0]
    )
    voxels = torch.stack(
        torch.meshgrid(*[torch.arange(n) for n in (12, 11, 6)[:axes]], indexing="ij"), dim=-1
    )
    squared = [((voxels - place) ** 2).sum(dim=-1) for place in places[0]]
    foreground, background = torch.minimum(squared[0], squared[2]), squared[1]
    expected = [torch.exp(-0.5 * d / s**2) for s in (2.0, 8.0) for d in (foreground, background)]
    torch.testing.assert_close(maps[0], torch.stack(expected))


def test_maps_without_clicks_are_empty():
    assert not click_maps(Prompts.none(2, 2), (6, 6), [2.0, 8.0]).any()


def test_empty_slots_leave_no_bump():
    prompts = Prompts.of_clicks([Click((4, 4), False)], 2)
    expected = click_maps(prompts, (9, 9), [2.0])
    assert torch.equal(click_maps(with_empty_slots(prompts, 3), (9, 9), [2.0]), expected)


# the vector of the clicks


def test_without_clicks_the_vector_is_that_of_nothing():
    encoder = PromptEncoder(2, 8)
    for prompts in (Prompts.none(2, 2), with_empty_slots(Prompts.none(2, 2), 2)):
        assert torch.equal(encoder(prompts, (16, 16)), encoder.nothing.expand(2, -1))


def test_empty_slots_do_not_change_the_vector():
    encoder = PromptEncoder(3, 8)
    prompts = Prompts.of_clicks([Click((1, 2, 3), True), Click((3, 2, 1), False)], 3)
    expected = encoder(prompts, (6, 6, 6))
    torch.testing.assert_close(encoder(with_empty_slots(prompts, 2), (6, 6, 6)), expected)


def test_the_vector_is_fourier_features_and_side_averaged_over_clicks():
    encoder = PromptEncoder(2, 6)
    clicks = [Click((3, 4), True), Click((0, 7), False)]
    expected = torch.zeros(6)
    for click in clicks:
        # Centres of voxels, the image from -1 to 1.
        where = [2 * (at + 0.5) / size - 1 for at, size in zip(click.place, (10, 8), strict=True)]
        angles = [
            2 * math.pi * sum(w * float(f) for w, f in zip(where, encoder.frequencies[:, k], strict=True))
            for k in range(3)
        ]
        there = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        expected += (torch.tensor(there) + encoder.sides[int(click.foreground)].detach()) / 2
    torch.testing.assert_close(encoder(Prompts.of_clicks(clicks, 2), (10, 8))[0].detach(), expected)


def test_order_of_clicks_does_not_matter_but_their_sides_do():
    encoder = PromptEncoder(2, 8)
    clicks = [Click((3, 4), True), Click((1, 7), False)]
    swapped = [Click((3, 4), False), Click((1, 7), True)]
    vector = encoder(Prompts.of_clicks(clicks, 2), (9, 9))
    torch.testing.assert_close(encoder(Prompts.of_clicks(clicks[::-1], 2), (9, 9)), vector)
    one = encoder(Prompts.of_clicks([clicks[0]], 2), (9, 9))
    assert not torch.allclose(encoder(Prompts.of_clicks([swapped[0]], 2), (9, 9)), one)
