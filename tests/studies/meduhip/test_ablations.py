"""Each ablation takes out what its name says, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from overread.domain import BadInputError, NotFoundError
from overread.ensemble.member_training import write_json
from overread.meduhip.episode import EpisodeOptions
from overread.meduhip.network import Configuration, MedUHIP
from overread.meduhip.posterior import lineage_posterior
from overread.meduhip.prompts import Click
from overread.meduhip.session import StructureAnswer, begin, click
from overread.meduhip.vote import counted_log_odds, majority_vote, vote_log_odds
from overread.studies.meduhip.ablations import ABLATIONS
from overread.studies.meduhip.arms import ABLATED, ARMS, Bench
from overread.studies.meduhip.clinicians import CLICKS
from overread.studies.meduhip.players import MedUHIPPlayer
from overread.studies.meduhip.report import OURS, read_sessions

SHAPE = (32, 32)
AT = Click((10, 12), True)


@pytest.fixture(scope="module")
def model() -> MedUHIP:
    """As after some training: samples differ, and every network hears what it is told."""
    torch.manual_seed(0)
    model = MedUHIP(Configuration(width=4, components=4, dimension=3, samples=8, prompt_width=4)).eval()
    for decoder in model.backend.decoders:  # type: ignore[attr-defined]
        torch.nn.init.normal_(decoder.last.weight, std=2.0)
    torch.nn.init.normal_(model.sampling().weights.layers[-1].weight)  # type: ignore[arg-type]
    return model


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0))


def answers(player: MedUHIPPlayer, image: torch.Tensor) -> list[StructureAnswer]:
    """Before and after a click, with what the player keeps of it."""
    opened = player.opened(image)
    session = begin(player.model, "", "")
    first = player.answers(opened, session)
    following = click(player.model, opened, session, first, AT)
    following = following.with_state(0, player.kept(following.structures[0]))
    return [first, player.answers(opened, following)]


def same(first: torch.Tensor, second: torch.Tensor) -> bool:
    return torch.allclose(first, second, atol=1e-6, rtol=0)


def test_with_everything_a_click_moves_means_variances_and_weights(
    model: MedUHIP, image: torch.Tensor
) -> None:
    before, after = (given.turn.space for given in answers(MedUHIPPlayer(model), image))
    assert not same(before.means, after.means)
    assert not same(before.log_variances, after.log_variances)
    assert not same(before.weights, after.weights)


def test_without_the_mean_variance_network_a_click_leaves_means_and_variances_as_they_were(
    model: MedUHIP, image: torch.Tensor
) -> None:
    full, (before, after) = (
        answers(MedUHIPPlayer(model, without=parts), image) for parts in ((), ("Mean-Variance Network",))
    )
    assert torch.equal(before.turn.space.means, after.turn.space.means)
    assert torch.equal(before.turn.space.log_variances, after.turn.space.log_variances)
    # The rest goes on: weights move, and the click is heard by the masks.
    assert not same(before.turn.space.weights, after.turn.space.weights)
    assert torch.equal(before.logits, full[0].logits)
    assert not same(before.turn.logits, after.turn.logits)
    assert float(after.logits[AT.place]) > 0


def test_means_that_are_not_moved_are_still_those_of_the_mean_variance_network(
    model: MedUHIP, image: torch.Tensor
) -> None:
    full, ours = (answers(MedUHIPPlayer(model, without=parts), image) for parts in ((), ("moved means",)))
    assert ours[1].state.shift == ()
    assert not same(ours[0].turn.space.means, ours[1].turn.space.means)
    assert torch.equal(ours[1].turn.space.log_variances, full[1].turn.space.log_variances)
    assert torch.equal(ours[1].turn.space.weights, full[1].turn.space.weights)
    moved = torch.tensor(full[1].state.shift).reshape(1, 4, 3)
    assert same(ours[1].turn.space.means + moved, full[1].turn.space.means)


def test_without_weights_they_stay_even(model: MedUHIP, image: torch.Tensor) -> None:
    full, (before, after) = (
        answers(MedUHIPPlayer(model, without=parts), image) for parts in ((), ("weights",))
    )
    for given in (before, after):
        assert same(given.turn.space.weights, torch.full((1, 4), 0.25))
    assert torch.equal(after.turn.space.means, full[1].turn.space.means)


def test_without_the_weight_network_the_next_weights_are_the_posterior(
    model: MedUHIP, image: torch.Tensor
) -> None:
    player = MedUHIPPlayer(model, without=("Weight Network",))
    before, after = answers(player, image)
    at = before.turn.logits[(slice(None), slice(None), *AT.place)]
    posterior = lineage_posterior(before.turn.space, before.turn.draws, at.sigmoid().clamp_min(0.02))
    assert same(after.turn.space.weights, posterior)
    full = answers(MedUHIPPlayer(model), image)
    assert not same(full[1].turn.space.weights, posterior)
    assert same(full[1].turn.space.means, after.turn.space.means)


def test_sampling_alone_never_changes_its_space(model: MedUHIP, image: torch.Tensor) -> None:
    player = MedUHIPPlayer(model, without=ABLATED["sampling alone"])
    before, after = (given.turn.space for given in answers(player, image))
    for part in ("means", "log_variances", "log_weights"):
        assert torch.equal(getattr(before, part), getattr(after, part))


def test_where_votes_are_counted_what_is_shown_is_the_majority_of_the_same_masks(
    model: MedUHIP, image: torch.Tensor
) -> None:
    (counted, clicked), (soft, _) = (
        answers(player, image)
        for player in (MedUHIPPlayer(model, vote=counted_log_odds), MedUHIPPlayer(model))
    )
    assert torch.equal(counted.turn.logits, soft.turn.logits)
    assert torch.equal(counted.logits > 0, majority_vote(counted.turn.logits)[0])
    assert bool(((counted.logits > 0) != (soft.logits > 0)).any())
    assert bool(clicked.logits[AT.place] > 0)


def test_without_a_level_nothing_is_drawn_wider_or_tighter(model: MedUHIP, image: torch.Tensor) -> None:
    state = answers(MedUHIPPlayer(model, without=("level",)), image)[1].state
    assert (state.level, state.nudges) == (0.0, ())
    assert answers(MedUHIPPlayer(model), image)[1].state.nudges


def test_the_trained_model_stays_as_it_is(model: MedUHIP, image: torch.Tensor) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for name in ABLATIONS:
        player = MedUHIPPlayer(model, without=(name,))
        wanted = torch.zeros(SHAPE, dtype=torch.bool)
        wanted[8:20, 8:20] = True
        assert len(player.play(image, wanted, CLICKS, 2, np.random.default_rng(0)).dice) == 3
        assert not player.model.training
    assert dict.fromkeys(before, True) == {
        name: torch.equal(value, before[name]) for name, value in model.state_dict().items()
    }


def test_one_averaged_gaussian_is_drawn_from_in_play_and_in_what_is_compared_with_raters(
    image: torch.Tensor,
) -> None:
    model = far_apart()
    mixture, collapsed = MedUHIPPlayer(model), MedUHIPPlayer(model, sampler="collapsed")
    for player, lone in ((mixture, False), (collapsed, True)):
        for given in answers(player, image):
            space, samples = given.turn.space, given.turn.draws.samples[0]
            to_mean = (samples - (space.weights[..., None] * space.means).sum(dim=1)).norm(dim=1)
            to_nearest = torch.cdist(samples, space.means[0]).amin(dim=1)
            # Components lie 10 from their mean: a sample is near one of them, or near the mean of all.
            assert bool((to_mean < 5).all()) is lone
            assert bool((to_nearest < 5).all()) is not lone
    masks = [player.samples(image) for player in (mixture, collapsed)]
    assert masks[0] is not None
    assert masks[1] is not None
    expected = answers(collapsed, image)[0].turn.logits[0] > 0
    assert torch.equal(masks[1], expected)
    assert not torch.equal(masks[0], masks[1])


def far_apart() -> MedUHIP:
    """Four components, each 10 from the mean of all."""
    torch.manual_seed(0)
    model = MedUHIP(Configuration(width=4, components=4, dimension=3, samples=8, prompt_width=4)).eval()
    net = model.sampling().mean_variance
    with torch.no_grad():
        net.bank.copy_(10 * torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]]))
        last = cast(torch.nn.Linear, net.layers[-1])
        last.weight.mul_(0.1)
        # Deviations of about 0.3.
        last.bias[len(last.bias) // 2 :] = -2.3
        for decoder in model.backend.decoders:  # type: ignore[attr-defined]
            torch.nn.init.normal_(decoder.last.weight, std=2.0)
    return model


class Untrained(Bench):
    """Hands out a model that learnt nothing, and remembers for which episode it was asked."""

    asked: list[EpisodeOptions] = []  # noqa: RUF012

    def train(self, name: str, episode: EpisodeOptions, *_: object, **__: object) -> MedUHIP:
        self.asked.append(episode)
        return far_apart()


def played_by(arm: str) -> dict[str, MedUHIPPlayer]:
    bench = Untrained(Path(), (), Path(), None, Configuration(), 1.0, 0)  # type: ignore[arg-type]
    contests: Sequence = ARMS[arm](bench)
    return {one.name: one.player for one in contests if isinstance(one.player, MedUHIPPlayer)}


def test_what_learnt_with_one_gaussian_plays_with_it() -> None:
    players = played_by("collapsed")
    assert [player.sampler for player in players.values()] == [Untrained.asked[-1].sampler] == ["collapsed"]


def test_the_arm_of_ablations_plays_every_one() -> None:
    players = played_by("ablations")
    assert {f"MedUHIP, {name}": parts for name, parts in ABLATED.items()} == {
        name: player.without for name, player in players.items() if player.without
    }
    assert {part for parts in ABLATED.values() for part in parts} == set(ABLATIONS)
    # What the parts are taken out of, under the name that tables compare with.
    assert players[OURS].without == ()
    assert players[OURS].vote is vote_log_odds


def test_sessions_of_earlier_studies_are_told_under_true_names(tmp_path: Path) -> None:
    session = {"case": "a", "patient": "a", "raters": 1, "dice": [0.5, 0.6]}
    names = ("no Mean-Variance Network", "no weights", "collapsed mixture", "no level")
    contests = {f"MedUHIP, {name}": {"sets": [], "sessions": [dict(session)]} for name in names}
    folder = tmp_path / "seed_0" / "fold_0"
    folder.mkdir(parents=True)
    write_json({"arm": "meduhip", "seed": 0, "fold": 0, "contests": contests}, folder / "meduhip.json")
    assert list(read_sessions(tmp_path)) == [
        "MedUHIP, means not moved",
        "MedUHIP, even weights",
        "MedUHIP, learnt with one averaged Gaussian, played as a mixture",
        "MedUHIP, no level",
    ]


def test_an_unknown_part_or_sampler_is_refused(model: MedUHIP) -> None:
    with pytest.raises(NotFoundError, match="no ablation is called 'brain'; there are Mean-Variance Network"):
        MedUHIPPlayer(model, without=("brain",))
    with pytest.raises(BadInputError, match="no sampler is called 'flow'"):
        MedUHIPPlayer(model, sampler="flow")


def test_an_ablation_that_an_earlier_version_played_among_others_counts_once(tmp_path: Path) -> None:
    def played(arm: str, dice: float) -> None:
        session = {"case": "a", "patient": "a", "raters": 1, "dice": [dice]}
        contests = {"MedUHIP, even weights": {"sets": [], "sessions": [session]}}
        write_json(
            {"arm": arm, "seed": 0, "fold": 0, "contests": contests}, tmp_path / f"seed_0/fold_0/{arm}.json"
        )

    (tmp_path / "seed_0" / "fold_0").mkdir(parents=True)
    played("meduhip", 0.5)
    played("ablations", 0.6)
    assert [session["dice"] for session in read_sessions(tmp_path)["MedUHIP, even weights"]] == [[0.6]]
