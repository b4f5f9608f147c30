"""Where samples agree there is room for what is shown, drawn wider and drawn tighter; whoever picks that goes on so."""

import json
import math
from dataclasses import dataclass

import pytest
import torch

from overread.meduhip.backend import Cache
from overread.meduhip.candidates import LEVELS, Candidate, propose_from_logits
from overread.meduhip.network import Configuration, MedUHIP
from overread.meduhip.prompts import Click, Prompts
from overread.meduhip.session import (
    LARGEST_LEVEL,
    LEVEL_STEP,
    NUDGE_REACH,
    NUDGE_STEP,
    Nudge,
    Session,
    StructureState,
    answer,
    begin,
    click,
    pick,
)

SHAPE = (40, 36)
MIDDLE = (20, 18)
RADIUS = 9.0
GROUP, WIDER, TIGHTER = 0, 1, 2


def disc(slope: float, *radii: float) -> torch.Tensor:
    """Logits `(sample, *SHAPE)` of discs whose border falls by so much a voxel."""
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in SHAPE), indexing="ij")
    distance = sum((axis - at) ** 2 for axis, at in zip(axes, MIDDLE, strict=True)) ** 0.5
    return torch.stack([slope * (radius - distance) for radius in radii])


@dataclass(frozen=True, eq=False)
class Discs:
    """An image of which every sample says a disc of nearly the same size."""

    cache: Cache
    slope: float = 0.8

    def decode(self, samples: torch.Tensor, prompts: Prompts, structure: int) -> torch.Tensor:
        return disc(self.slope, *(RADIUS + 0.01 * torch.tanh(samples[0, :, 0])).tolist())[None]


@pytest.fixture(scope="module")
def model() -> MedUHIP:
    return MedUHIP(Configuration(width=6, components=4, dimension=5, samples=12)).eval()


@pytest.fixture(scope="module")
def image(model: MedUHIP) -> Discs:
    with torch.no_grad():
        return Discs(model.encode(torch.randn(1, 1, *SHAPE)))


def test_what_is_shown_is_offered_wider_and_tighter(model: MedUHIP, image: Discs) -> None:
    given = answer(model, image, begin(model, "case", "champion"))
    assert [candidate.level for candidate in given.candidates] == [0.0, *LEVELS]
    shown, wider, tighter = given.logits > 0, given.mask_of(WIDER), given.mask_of(TIGHTER)
    # 1.5 of log odds at 0.8 a voxel are nearly two voxels all round.
    assert int(wider.sum()) > 1.3 * int(shown.sum())
    assert int(tighter.sum()) < 0.7 * int(shown.sum())
    assert bool((wider | ~shown).all())
    assert bool((shown | ~tighter).all())
    assert [candidate.support for candidate in given.candidates] == pytest.approx([1.0, 0.0, 0.0])


def levels_of(logits: torch.Tensor, groups: int) -> list[Candidate]:
    return [one for one in propose_from_logits(logits, groups, levels=True) if one.level]


def test_the_samples_that_a_level_speaks_for_are_those_most_like_it() -> None:
    logits = disc(0.8, *(RADIUS + 0.02 * index for index in range(-6, 6)))
    wider, tighter = levels_of(logits, 4)
    assert (int(wider.members.sum()), int(tighter.members.sum())) == (3, 3)
    assert int(wider.members.nonzero().min()) > int(tighter.members.nonzero().max())


def test_groups_of_samples_come_first() -> None:
    logits = disc(0.8, *(radius for radius in (4.0, 14.0) for _ in range(6)))
    assert len(propose_from_logits(logits, 4)) == 2
    assert [len(levels_of(logits, groups)) for groups in (4, 3, 2)] == [2, 0, 0]


def test_a_border_that_is_sure_is_offered_once(model: MedUHIP, image: Discs) -> None:
    sure = Discs(image.cache, slope=200.0)
    assert len(answer(model, sure, begin(model, "case", "champion")).candidates) == 1


@pytest.mark.parametrize(("which", "sign"), [(WIDER, 1), (TIGHTER, -1)])
def test_whoever_picks_it_sees_it_and_goes_on_so(model: MedUHIP, image: Discs, which: int, sign: int) -> None:
    session = begin(model, "case", "champion")
    given = answer(model, image, session)
    before = int((given.logits > 0).sum())
    picked = pick(model, image, session, given, which)
    after = answer(model, image, picked)
    assert torch.equal(after.logits > 0, given.mask_of(which))
    following = click(model, image, picked, after, Click((0, 0), False))
    later = answer(model, image, following)
    assert sign * (int((later.logits > 0).sum()) - before) > 0.25 * before
    # And back by the other one.
    other = TIGHTER if which == WIDER else WIDER
    back = answer(model, image, pick(model, image, following, later, other))
    assert abs(int((back.logits > 0).sum()) - before) < 0.05 * before


def test_right_after_a_pick_there_is_room_for_a_wider_one_still(model: MedUHIP, image: Discs) -> None:
    session = begin(model, "case", "champion")
    sizes = []
    for _ in range(3):
        given = answer(model, image, session)
        sizes.append(int((given.logits > 0).sum()))
        session = pick(model, image, session, given, WIDER)
    assert sizes[0] < sizes[1] < sizes[2]
    for _ in range(6):
        session = pick(model, image, session, answer(model, image, session), WIDER)
    assert session.structures[0].level == -LARGEST_LEVEL


@pytest.mark.parametrize(("inside", "foreground", "sign"), [(False, True, -1), (True, False, 1)])
def test_a_click_on_an_error_moves_the_border_so_too_and_more_around_it(
    model: MedUHIP, image: Discs, inside: bool, foreground: bool, sign: int
) -> None:
    session = begin(model, "case", "champion")
    given = answer(model, image, session)
    rim = (MIDDLE[0] + int(RADIUS) + (-2 if inside else 2), MIDDLE[1])
    assert bool(given.logits[rim] > 0) == inside
    state = click(model, image, session, given, Click(rim, foreground)).structures[0]
    assert 0 < sign * state.level <= LEVEL_STEP
    (nudge,) = state.nudges
    assert nudge.place == rim
    assert 0 < sign * nudge.level <= NUDGE_STEP
    drawn_radius = math.sqrt(float((given.logits > 0).sum()) / math.pi)
    assert nudge.reach == pytest.approx(NUDGE_REACH * drawn_radius)
    # What everybody knew moves nothing.
    known = click(model, image, session, given, Click(MIDDLE, True)).structures[0]
    assert abs(known.level) < 0.01 * LEVEL_STEP
    assert abs(known.nudges[0].level) < 0.01 * NUDGE_STEP


def test_the_border_moves_near_a_click_and_less_far_from_it(model: MedUHIP, image: Discs) -> None:
    session = begin(model, "case", "champion")
    plain = answer(model, image, session)
    far, near = (MIDDLE[0] - int(RADIUS), MIDDLE[1]), (MIDDLE[0] + int(RADIUS), MIDDLE[1] + 2)
    nudged = StructureState(nudges=(Nudge((MIDDLE[0] + int(RADIUS), MIDDLE[1]), -2.0, RADIUS / 2),))
    moved = answer(model, image, session.with_state(0, nudged)).logits
    # The turn has other samples, but these discs do not depend on it.
    expected = 2.0 * math.exp(-0.5 * (2 / (RADIUS / 2)) ** 2)
    assert float((moved - plain.logits)[near]) == pytest.approx(expected, abs=0.05)
    assert float((moved - plain.logits)[far]) == pytest.approx(0.0, abs=0.05)


def test_one_opinion_has_no_vote_to_draw_otherwise(model: MedUHIP, image: Discs) -> None:
    session = begin(model, "case", "champion")
    given = answer(model, image, session, samples=1)
    outside = Click((MIDDLE[0] + int(RADIUS) + 2, MIDDLE[1]), True)
    state = click(model, image, session, given, outside).structures[0]
    assert (state.level, state.nudges) == (0.0, ())


def test_clicks_are_honoured_in_what_is_drawn_tighter(model: MedUHIP, image: Discs) -> None:
    session = begin(model, "case", "champion")
    rim = (MIDDLE[0] + int(RADIUS) - 1, MIDDLE[1])
    session = click(model, image, session, answer(model, image, session), Click(rim, True))
    given = answer(model, image, session)
    (tighter,) = (n for n, candidate in enumerate(given.candidates) if candidate.level > 0)
    assert bool(given.mask_of(tighter)[rim])
    assert bool(answer(model, image, pick(model, image, session, given, tighter)).logits[rim] > 0)


def test_levels_go_through_json_and_sessions_of_before_have_none(model: MedUHIP, image: Discs) -> None:
    session = begin(model, "case", "champion")
    session = pick(model, image, session, answer(model, image, session), WIDER)
    session = click(model, image, session, answer(model, image, session), Click((0, 0), True))
    written = json.loads(json.dumps(session.to_json()))
    assert Session.from_json(written) == session
    assert session.structures[0].level < LEVELS[0]
    assert len(session.structures[0].nudges) == 1
    for state in written["structures"]:
        del state["level"], state["nudges"]
    before = Session.from_json(written).structures[0]
    assert (before.level, before.nudges) == (0.0, ())
