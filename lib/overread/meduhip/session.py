"""A clinician's turns at one image: a frozen value that each interaction replaces."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from overread.domain import BadInputError
from overread.meduhip.backend import Cache
from overread.meduhip.candidates import Candidate, propose_from_logits, telling_voxels
from overread.meduhip.honour import REACH_VOXEL, Choice, bump_at, honour, honour_choice
from overread.meduhip.interaction import Evidence, Round, Standing, click_evidence, taught
from overread.meduhip.network import MedUHIP
from overread.meduhip.prompts import LARGEST_LOGIT, Click, Prompts
from overread.meduhip.sampling_space import Sampler, SamplingSpace, draw, draw_nothing
from overread.meduhip.vote import vote_log_odds

# The dense prompt is kept in steps of a 16th of a logit.
DENSE_STEPS = 127 / LARGEST_LOGIT
# Wider or tighter than this nobody draws: a voxel is foreground where one vote in 400 says so, or all but one do.
LARGEST_LEVEL = 6.0
# How far a click on what was surely of the other side moves the level, in log odds, and by how much more around it,
# falling off as a Gaussian whose standard deviation is so many radii of the structure (chosen on validation cases).
LEVEL_STEP = 0.15
NUDGE_STEP = 0.35
NUDGE_REACH = 0.7


# Kind of the turns that keep a session, and the one that it began as, under `session` and `begun`.
SITTING = "meduhip"

# From logits `(sample, *space)` to the log odds `(*space)` of their vote.
Vote = Callable[[torch.Tensor], torch.Tensor]


class Image(Protocol):
    """An image that was encoded: what a turn decodes from."""

    @property
    def cache(self) -> Cache:
        """Its features, or of a large image at least context and shape."""
        ...

    def decode(self, samples: torch.Tensor, prompts: Prompts, structure: int) -> torch.Tensor:
        """Logits `(1, sample, *space)` of samples `(1, sample, dimension)`."""
        ...


@dataclass(frozen=True)
class Nudge:
    """How a click moved the border around it, falling off as a Gaussian.

    Attributes:
        place: of the click.
        level: log odds that are added there to the level, below 0 wider and above 0 tighter.
        reach: standard deviation of the Gaussian, in voxels.
    """

    place: tuple[int, ...]
    level: float
    reach: float


@dataclass(frozen=True)
class StructureState:
    """What has been said about one structure.

    Attributes:
        weights: pi, one a component; empty where they are even.
        shift: how far the means were moved, flat, `component * dimension` values; empty where they were not.
        clicks: every click that was accepted, in order. They are honoured.
        told: the places with a side that the networks were prompted with: the clicks, and where picked candidates
            differ from the others.
        dense: the chosen mask's logits at the size of a dense prompt, compressed; empty where none was chosen.
        explored: how often none of the candidates was right since something was chosen.
        chosen: where picked candidates changed what was shown, and to which side, compressed; empty where none was
            picked. It is shown so until a click contradicts it.
        level: log odds that a voxel needs in the soft vote to be shown, where 0 is an even vote: what picking wider
            (below 0) and tighter candidates and clicking on errors adds up to.
        nudges: where clicks on errors moved it further.
    """

    weights: tuple[float, ...] = ()
    shift: tuple[float, ...] = ()
    clicks: tuple[Click, ...] = ()
    told: tuple[Click, ...] = ()
    dense: str = ""
    explored: int = 0
    chosen: str = ""
    level: float = 0.0
    nudges: tuple[Nudge, ...] = ()


@dataclass(frozen=True)
class Session:
    """All that is needed to answer the next turn; plain values, so that it outlives the server.

    Attributes:
        image: the key of the image.
        champion: identity of the model.
        structures: one state a foreground class.
        turn: answers given so far.
        seed: of the draws.
    """

    image: str
    champion: str
    structures: tuple[StructureState, ...]
    turn: int = 0
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Session:
        """The inverse of `to_json`. Raises BadInputError where the JSON is not a session's."""
        try:
            states = tuple(
                StructureState(
                    weights=tuple(state["weights"]),
                    shift=tuple(state["shift"]),
                    clicks=_clicks(state["clicks"]),
                    told=_clicks(state["told"]),
                    dense=state["dense"],
                    explored=state["explored"],
                    # Sessions of earlier versions kept none of these.
                    chosen=state.get("chosen", ""),
                    level=state.get("level", 0.0),
                    nudges=tuple(
                        Nudge(tuple(nudge["place"]), nudge["level"], nudge["reach"])
                        for nudge in state.get("nudges", ())
                    ),
                )
                for state in values["structures"]
            )
            return cls(values["image"], values["champion"], states, values["turn"], values["seed"])
        except (KeyError, TypeError) as error:
            raise BadInputError(f"this is not a session of a clinician: {error}") from error

    def with_state(self, structure: int, state: StructureState) -> Session:
        """The session after something was said about one structure."""
        states = list(self.structures)
        states[structure] = state
        return replace(self, structures=tuple(states), turn=self.turn + 1)


@dataclass(frozen=True, eq=False)
class StructureAnswer:
    """What the model says about one structure.

    Attributes:
        turn: samples with their lineage and masks.
        logits: log odds of the soft vote against the clinician's level, `(*space)`; every pick and every click is
            honoured.
        candidates: what is offered, the best supported first.
        state: what it answers to.
        choice: of the state, unpacked.
        vote: how the samples became one.
    """

    turn: Round
    logits: torch.Tensor
    candidates: list[Candidate]
    state: StructureState
    choice: Choice | None
    vote: Vote = vote_log_odds

    @property
    def probabilities(self) -> torch.Tensor:
        """The samples' masks `(sample, *space)` in [0, 1]."""
        return self.turn.logits[0].sigmoid()

    def logits_of(self, candidate: int) -> torch.Tensor:
        """What is shown as a candidate, `(*space)`: its medoid, or all samples' vote at its level."""
        found = self.candidates[candidate]
        if not found.level:
            return _against_level(self.turn.logits[0, found.medoid], self.state)
        # A mask that was picked entire leaves no room for a wider one; what it changed is kept.
        kept = None if self.choice is None else replace(self.choice, is_latest=False)
        against = _against_level(self.vote(self.turn.logits[0]), self.state)
        return _honoured(against - found.level, kept, self.state.clicks)

    def mask_of(self, candidate: int) -> torch.Tensor:
        """The same as a mask, boolean `(*space)`."""
        return self.logits_of(candidate) > 0


def begin(
    model: MedUHIP,
    image: str,
    champion: str,
    seed: int = 0,
    priors: tuple[StructureState, ...] | None = None,
) -> Session:
    """A new session.

    Args:
        priors: what is known of the clinician from other cases, one state a structure.
    """
    count = len(model.structures)
    return Session(image, champion, priors or (StructureState(),) * count, seed=seed)


@torch.no_grad()
def answer(
    model: MedUHIP,
    image: Image,
    session: Session,
    structure: int = 0,
    samples: int | None = None,
    sampler: Sampler = draw,
    vote: Vote = vote_log_odds,
) -> StructureAnswer:
    """What the model says now. The same session gives the same answer, also after a restart.

    Args:
        samples: N; None takes the model's. With 1 the network's own opinion is given, moved by no sample.
        sampler: how several samples are drawn.
        vote: how they become one: by their mean probability, which training follows too, or counted as in eq. 2.
    """
    state = session.structures[structure]
    standing = _standing(model, state, image.cache)
    space = model.space(image.cache, standing.prompts, standing.weights, standing.shift, structure)
    for _ in range(state.explored):
        space = space.explored()
    generator = torch.Generator().manual_seed(_seed(session, structure))
    # One opinion is the one that no sample moves.
    drawn = draw_nothing if samples == 1 else sampler
    draws = drawn(space, samples or model.configuration.samples, generator)
    logits = image.decode(draws.samples, standing.prompts, structure)
    choice = _choice(state, image.cache)
    shown = _honoured(_against_level(vote(logits[0]), state), choice, state.clicks)
    sizes = model.configuration
    candidates = propose_from_logits(logits[0], sizes.candidates, sizes.clustering, levels=True)
    return StructureAnswer(Round(space, draws, logits), shown, candidates, state, choice, vote)


def _honoured(logits: torch.Tensor, choice: Choice | None, clicks: Sequence[Click]) -> torch.Tensor:
    return honour(logits if choice is None else honour_choice(logits, choice), clicks)


@torch.no_grad()
def pick(
    model: MedUHIP,
    image: Image,
    session: Session,
    given: StructureAnswer,
    candidate: int,
    structure: int = 0,
    at: Click | None = None,
    others: torch.Tensor | None = None,
) -> Session:
    """The clinician wants one of the candidates.

    Args:
        given: what was shown.
        candidate: which of its candidates.
        at: the click by which it was picked, where it was by one; it is honoured like any other.
        others: where other structures are shown, boolean `(*space)`; what the candidate has there it takes from them.

    Returns:
        A session whose next answer is the candidate, until something else is said.

    Raises:
        BadInputError: there is no such candidate.
    """
    if not 0 <= candidate < len(given.candidates):
        raise BadInputError(f"candidate {candidate + 1} was not offered; there were {len(given.candidates)}")
    state, found = session.structures[structure], given.candidates[candidate]
    members = found.members
    if at is None:
        place = tuple(int(n) for n in telling_voxels(given.probabilities, members, 1)[0])
        at_side = bool(given.probabilities[members].mean(dim=0)[place] > 0.5)
        told, clicks = Click(place, at_side), state.clicks
    else:
        told, clicks = at, (*state.clicks, at)
    evidence = Evidence(members.float()[None], _places([told]), _sides([told]))
    mask, earlier = given.mask_of(candidate), given.choice
    changed = mask ^ (given.logits > 0)
    if others is not None:
        changed |= mask & others
    if found.level:
        # What a level changed is not kept voxel by voxel: the level is.
        changed = torch.zeros_like(changed)
        state = replace(state, level=_within(state.level + found.level))
    chosen = Choice(changed if earlier is None else changed | earlier.region, mask)
    return _after(model, image, session, given, evidence, structure, state, clicks, told, chosen)


@torch.no_grad()
def click(
    model: MedUHIP,
    image: Image,
    session: Session,
    given: StructureAnswer,
    at: Click,
    structure: int = 0,
) -> Session:
    """The clinician says on which side a voxel is. Raises BadInputError where it lies outside the image."""
    check_inside(at, image.cache.shape)
    places, sides = _places([at]), _sides([at])
    belief = click_evidence(given.turn.logits, places, sides)
    evidence = Evidence(belief, places, sides)
    state, chosen = session.structures[structure], given.choice
    # One opinion is no vote.
    if given.turn.logits.shape[1] > 1:
        state = after_click(state, given, at)
    if chosen is not None:
        chosen = chosen.contradicted(at)
    return _after(model, image, session, given, evidence, structure, state, (*state.clicks, at), at, chosen)


def after_click(state: StructureState, given: StructureAnswer, at: Click) -> StructureState:
    """The state with the border moved as a click speaks for, all round a little and more around the click.

    Whoever has to add voxels usually draws wider than what is shown, to the sides of the click most. One step up the
    likelihood of the side that was said, for which the odds of the voxel are those shown: a click that surprises nobody
    moves nothing.
    """
    surprise = float(given.logits[at.place].sigmoid()) - float(at.foreground)
    axes, voxels = given.logits.ndim, float((given.logits > 0).sum())
    # Of a disc or ball with as many voxels.
    radius = math.sqrt(voxels / math.pi) if axes == 2 else (0.75 * voxels / math.pi) ** (1 / 3)
    nudge = Nudge(at.place, NUDGE_STEP * surprise, max(REACH_VOXEL, NUDGE_REACH * radius))
    level = _within(state.level + LEVEL_STEP * surprise)
    return replace(state, level=level, nudges=(*state.nudges, nudge))


def _against_level(logits: torch.Tensor, state: StructureState) -> torch.Tensor:
    """New log odds `(*space)`: those given, less what the clinician's level asks for."""
    against = logits - state.level
    for nudge in state.nudges:
        box, bump = bump_at(nudge.place, nudge.reach, logits)
        against[box] -= nudge.level * bump
    return against


def _within(level: float) -> float:
    return min(LARGEST_LEVEL, max(-LARGEST_LEVEL, level))


def none_of_these(session: Session, structure: int = 0) -> Session:
    """The clinician wants none of the candidates: the next ones come from a wider space."""
    state = session.structures[structure]
    return session.with_state(structure, replace(state, explored=state.explored + 1))


def check_inside(at: Click, shape: tuple[int, ...]) -> None:
    """Raise BadInputError unless a click lies in an image of that many voxels."""
    if len(at.place) != len(shape) or any(
        not 0 <= n < size for n, size in zip(at.place, shape, strict=False)
    ):
        raise BadInputError(f"a click at {list(at.place)} lies outside the image of {list(shape)} voxels")


def _after(
    model: MedUHIP,
    image: Image,
    session: Session,
    given: StructureAnswer,
    evidence: Evidence,
    structure: int,
    state: StructureState,
    clicks: tuple[Click, ...],
    told: Click,
    chosen: Choice | None,
) -> Session:
    standing = _standing(model, state, image.cache)
    following, _ = taught(model, standing, given.turn, evidence, structure)
    assert following.weights is not None
    assert following.shift is not None
    return session.with_state(
        structure,
        StructureState(
            weights=tuple(following.weights[0].tolist()),
            shift=tuple(following.shift[0].flatten().tolist()),
            clicks=clicks,
            told=(*state.told, told),
            dense=_packed(following.prompts.dense[0, 0]),
            chosen="" if chosen is None else chosen.packed(),
            level=state.level,
            nudges=state.nudges,
        ),
    )


def _choice(state: StructureState, cache: Cache) -> Choice | None:
    return Choice.unpacked(state.chosen, cache.shape, cache.context.device) if state.chosen else None


def _standing(model: MedUHIP, state: StructureState, cache: Cache) -> Standing:
    axes, device = model.configuration.axes, cache.context.device
    edge = Prompts.none(1, axes).dense.shape[2:]
    dense = _unpacked(state.dense, tuple(edge)) if state.dense else None
    prompts = Prompts.of_clicks(state.told, axes, dense).to(device)
    weights = torch.tensor([state.weights], device=device) if state.weights else None
    shift = None
    if state.shift:
        shape = (1, model.configuration.components, model.configuration.dimension)
        shift = torch.tensor(state.shift, device=device).reshape(shape)
    return Standing(prompts, weights, shift)


def _clicks(values: list[dict[str, Any]]) -> tuple[Click, ...]:
    return tuple(Click(tuple(value["place"]), bool(value["foreground"])) for value in values)


def _places(clicks: list[Click]) -> torch.Tensor:
    return torch.tensor([click.place for click in clicks], dtype=torch.float32)


def _sides(clicks: list[Click]) -> torch.Tensor:
    return torch.tensor([float(click.foreground) for click in clicks])


def _packed(logits: torch.Tensor) -> str:
    steps = (logits.clamp(-LARGEST_LOGIT, LARGEST_LOGIT) * DENSE_STEPS).round().to(torch.int8).cpu().numpy()
    return base64.b85encode(zlib.compress(steps.tobytes(), 6)).decode()


def _unpacked(text: str, shape: tuple[int, ...]) -> torch.Tensor:
    steps = np.frombuffer(zlib.decompress(base64.b85decode(text)), dtype=np.int8).reshape(shape)
    return torch.from_numpy(steps.astype(np.float32)) / DENSE_STEPS


def _seed(session: Session, structure: int) -> int:
    text = f"{session.image} {session.champion} {session.seed} {session.turn} {structure}"
    return zlib.crc32(text.encode())


def space_now(model: MedUHIP, image: Image, session: Session, structure: int = 0) -> SamplingSpace:
    """The sampling space that the next answer draws from."""
    standing = _standing(model, session.structures[structure], image.cache)
    return model.space(image.cache, standing.prompts, standing.weights, standing.shift, structure)
