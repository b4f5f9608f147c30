"""A session of a clinician: the same answer for the same session, picks move it, clicks are honoured, JSON keeps it."""

import json
from dataclasses import dataclass, replace

import pytest
import torch
from scipy import ndimage

from overread.domain import BadInputError
from overread.meduhip.backend import Cache
from overread.meduhip.honour import Choice
from overread.meduhip.network import Configuration, MedUHIP
from overread.meduhip.prompts import Click, Prompts
from overread.meduhip.session import Session, answer, begin, click, none_of_these, pick, space_now

SHAPE = (40, 36)


@dataclass(frozen=True, eq=False)
class Encoded:
    """An encoded image."""

    model: MedUHIP
    cache: Cache

    def decode(self, samples: torch.Tensor, prompts: Prompts, structure: int) -> torch.Tensor:
        return self.model.decode(self.cache, samples, prompts, structure)


@pytest.fixture
def model() -> MedUHIP:
    """Untrained, with samples that differ."""
    model = MedUHIP(Configuration(width=6, components=4, dimension=5, samples=12, structures=2)).eval()
    with torch.no_grad():
        for decoder in model.backend.decoders:  # type: ignore[attr-defined]
            torch.nn.init.normal_(decoder.last.weight, std=2.0)
    return model


@pytest.fixture
def image(model: MedUHIP) -> Encoded:
    with torch.no_grad():
        return Encoded(model, model.encode(torch.randn(1, 1, *SHAPE)))


def test_the_same_session_gives_the_same_answer(model: MedUHIP, image: Encoded) -> None:
    session = begin(model, "case", "champion")
    first, second = answer(model, image, session), answer(model, image, session)
    assert torch.equal(first.logits, second.logits)
    assert [c.medoid for c in first.candidates] == [c.medoid for c in second.candidates]


@dataclass(frozen=True, eq=False)
class Said:
    """An image of which samples say what is given, whatever they are."""

    cache: Cache
    logits: torch.Tensor

    def decode(self, samples: torch.Tensor, prompts: Prompts, structure: int) -> torch.Tensor:
        return self.logits


@pytest.mark.parametrize(
    ("clustering", "groups"),
    # Two large masks differ in more voxels than two small ones, which have none in common.
    [("kmeans", {(0,), (1,), (2, 3)}), ("kmedoids", {(0, 1), (2,), (3,)})],
)
def test_candidates_are_grouped_as_the_model_says(
    model: MedUHIP, image: Encoded, clustering: str, groups: set[tuple[int, ...]]
) -> None:
    model.configuration = replace(model.configuration, clustering=clustering, candidates=3)
    logits = torch.full((1, 4, *SHAPE), -9.0)
    for sample, box in enumerate(((5, 25, 5, 25), (5, 25, 5, 27), (0, 3, 33, 36), (37, 40, 0, 3))):
        logits[0, sample, box[0] : box[1], box[2] : box[3]] = 9
    given = answer(model, Said(image.cache, logits), begin(model, "case", "champion"), samples=4)
    assert {tuple(c.members.nonzero().flatten().tolist()) for c in given.candidates} == groups


def test_another_image_or_seed_draws_others(model: MedUHIP, image: Encoded) -> None:
    ours = answer(model, image, begin(model, "case", "champion"))
    assert not torch.equal(ours.logits, answer(model, image, begin(model, "other", "champion")).logits)
    assert not torch.equal(ours.logits, answer(model, image, begin(model, "case", "champion", seed=1)).logits)


def test_the_soft_prediction_is_the_mean_of_the_samples(model: MedUHIP, image: Encoded) -> None:
    given = answer(model, image, begin(model, "case", "champion"))
    expected = given.probabilities.double().mean(dim=0)
    assert torch.allclose(given.logits.double().sigmoid(), expected, atol=1e-5)


def test_a_session_goes_through_json_unchanged(model: MedUHIP, image: Encoded) -> None:
    session = begin(model, "case", "champion")
    given = answer(model, image, session)
    session = click(model, image, session, given, Click((3, 4), True), structure=0)
    session = none_of_these(session, structure=1)
    again = Session.from_json(json.loads(json.dumps(session.to_json())))
    assert again == session
    assert torch.equal(answer(model, image, again).logits, answer(model, image, session).logits)


def test_a_session_that_was_kept_before_picks_were_honoured_goes_on(model: MedUHIP) -> None:
    session = begin(model, "case", "champion")
    kept = session.to_json()
    for state in kept["structures"]:
        del state["chosen"]
    assert Session.from_json(kept) == session


def test_what_is_no_session_is_refused() -> None:
    with pytest.raises(BadInputError, match="not a session of a clinician"):
        Session.from_json({"image": "x"})


def test_a_pick_moves_weights_to_the_components_of_the_picked_samples(model: MedUHIP, image: Encoded) -> None:
    session = begin(model, "case", "champion")
    given = answer(model, image, session)
    assert len(given.candidates) > 1
    members = given.candidates[1].members
    after = pick(model, image, session, given, 1)
    before_space = space_now(model, image, session)
    lineage = given.turn.draws.one_hot(4)[0]
    share = lineage[members].sum(dim=0) / lineage.sum(dim=0).clamp_min(1)
    favoured = int(share.argmax())
    weights = torch.tensor(after.structures[0].weights)
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    assert weights[favoured] > before_space.weights[0, favoured]
    assert after.turn == session.turn + 1
    assert after.structures[0].clicks == ()
    assert len(after.structures[0].told) == 1
    assert after.structures[1] == session.structures[1], "another structure is left alone"


def test_what_was_picked_is_shown_and_what_it_changed_stays_until_a_click_contradicts_it(
    model: MedUHIP, image: Encoded
) -> None:
    session = begin(model, "case", "champion")
    given = answer(model, image, session)
    before, mask = given.logits > 0, given.mask_of(1)
    changed = mask ^ before
    assert changed.any()
    picked = pick(model, image, session, given, 1)
    shown = answer(model, image, picked)
    assert torch.equal(shown.logits > 0, mask)
    assert torch.equal(answer(model, image, none_of_these(picked)).logits > 0, mask)

    def said_at(place: torch.Tensor, *, foreground: bool) -> torch.Tensor:
        at = Click((int(place[0]), int(place[1])), foreground)
        return answer(model, image, click(model, image, picked, shown, at)).logits > 0

    # A click that says what is there already.
    still = changed.nonzero()[-1]
    after = said_at(still, foreground=bool(mask[tuple(still)]))
    assert torch.equal(after[changed], mask[changed])
    parts, _ = ndimage.label(changed.numpy())
    here = changed.nonzero()[0]
    part = torch.from_numpy(parts == parts[tuple(here)])
    after = said_at(here, foreground=not bool(mask[tuple(here)]))
    others = changed & ~part
    assert torch.equal(after[others], mask[others])
    assert bool(after[tuple(here)]) != bool(mask[tuple(here)])


def test_a_second_pick_takes_the_place_of_the_first(model: MedUHIP, image: Encoded) -> None:
    session = begin(model, "case", "champion")
    first = answer(model, image, session)
    session = pick(model, image, session, first, 1)
    second = answer(model, image, session)
    wanted = second.mask_of(len(second.candidates) - 1)
    session = pick(model, image, session, second, len(second.candidates) - 1)
    third = answer(model, image, session)
    assert torch.equal(third.logits > 0, wanted)
    # Both regions stay, as the second candidate has them.
    region = (first.mask_of(1) ^ (first.logits > 0)) | (wanted ^ (second.logits > 0))
    at = region.nonzero()[0]
    clicked = Click((int(at[0]), int(at[1])), bool(wanted[tuple(at)]))
    last = answer(model, image, click(model, image, session, third, clicked)).logits > 0
    assert torch.equal(last[region], wanted[region])
    with pytest.raises(BadInputError, match=r"picked in this session is not of an image of \[90, 90\]"):
        Choice.unpacked(session.structures[0].chosen, (90, 90))


def test_a_candidate_that_was_not_offered_is_refused(model: MedUHIP, image: Encoded) -> None:
    session = begin(model, "case", "champion")
    given = answer(model, image, session)
    with pytest.raises(BadInputError, match="was not offered"):
        pick(model, image, session, given, 9)


def test_every_click_is_honoured_in_all_later_answers(model: MedUHIP, image: Encoded) -> None:
    session = begin(model, "case", "champion")
    clicks = [Click((3, 4), True), Click((30, 30), False), Click((20, 10), True), Click((20, 12), False)]
    for at in clicks:
        session = click(model, image, session, answer(model, image, session), at)
        shown = answer(model, image, session).logits
        for said in clicks[: clicks.index(at) + 1]:
            assert (float(shown[said.place]) > 0) == said.foreground
    picked = pick(model, image, session, answer(model, image, session), 0, at=Click((5, 5), True))
    shown = answer(model, image, picked).logits
    assert all((float(shown[said.place]) > 0) == said.foreground for said in [*clicks, Click((5, 5), True)])


@pytest.mark.parametrize("place", [(-1, 3), (40, 0), (3,), (1, 2, 3)])
def test_a_click_outside_the_image_is_named(model: MedUHIP, image: Encoded, place: tuple[int, ...]) -> None:
    session = begin(model, "case", "champion")
    with pytest.raises(BadInputError, match="lies outside the image"):
        click(model, image, session, answer(model, image, session), Click(place, True))


def test_none_of_these_draws_from_a_wider_space(model: MedUHIP, image: Encoded) -> None:
    session = begin(model, "case", "champion")
    narrow = answer(model, image, session).turn.space
    wide = answer(model, image, none_of_these(session)).turn.space
    assert torch.all(wide.log_variances > narrow.log_variances)
    once = click(model, image, none_of_these(session), answer(model, image, session), Click((1, 1), True))
    assert once.structures[0].explored == 0, "what is said next is taken at its word"
