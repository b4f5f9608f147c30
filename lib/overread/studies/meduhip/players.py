"""How a trained system and a clinician get along over one image: a trace of Dice, turn by turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from overread.meduhip.backend import Cache
from overread.meduhip.candidates import propose_from_logits
from overread.meduhip.episode import NOTHING, sampler_named
from overread.meduhip.honour import honour
from overread.meduhip.network import MedUHIP
from overread.meduhip.prompts import Click, Prompts
from overread.meduhip.session import (
    Session,
    StructureAnswer,
    StructureState,
    Vote,
    after_click,
    answer,
    begin,
    click,
    pick,
)
from overread.meduhip.vote import log_soft_vote, vote_log_odds
from overread.studies.meduhip.ablations import ABLATIONS
from overread.studies.meduhip.clinicians import Clinician


@dataclass(frozen=True)
class Trace:
    """One session.

    Attributes:
        dice: after 0, 1, … interactions.
        best_of_samples: Dice of the best single sample before any interaction; NaN where there are no samples.
        best_of_candidates: of the best candidate that was offered first; NaN where none was.
    """

    dice: tuple[float, ...]
    best_of_samples: float = float("nan")
    best_of_candidates: float = float("nan")


class Player(Protocol):
    """A system under test."""

    def samples(self, image: torch.Tensor) -> torch.Tensor | None:
        """Masks `(sample, *space)`, boolean, that it finds plausible before any interaction; None without any."""
        ...

    def play(
        self,
        image: torch.Tensor,
        wanted: torch.Tensor,
        clinician: Clinician,
        turns: int,
        rng: np.random.Generator,
    ) -> Trace:
        """A session about one image `(channel, *space)` with a clinician who wants a mask `(*space)`."""
        ...


@dataclass(frozen=True, eq=False)
class ModelImage:
    """An encoded image, for `overread.meduhip.session`."""

    model: MedUHIP
    cache: Cache

    def decode(self, samples: torch.Tensor, prompts: Prompts, structure: int) -> torch.Tensor:
        """See `session.Image`."""
        return self.model.decode(self.cache, samples, prompts, structure)


@dataclass(eq=False)
class MedUHIPPlayer:
    """MedUHIP as it is served: the session code of the server answers.

    Attributes:
        model: trained; it plays without the parts that are taken out.
        without: names of `ABLATIONS`, the parts that are taken out. Raises NotFoundError for an unknown one.
        moves_level: whether a single opinion is drawn wider and tighter after clicks, as several are.
        sampler: how samples are drawn, as in `EpisodeOptions`: a model plays with the one that it learnt with. With
            `nothing` it has one opinion, and no candidates.
        vote: how they become what is shown.
    """

    model: MedUHIP
    without: tuple[str, ...] = ()
    moves_level: bool = False
    sampler: str = "mixture"
    vote: Vote = vote_log_odds
    _last: tuple[torch.Tensor, ModelImage] | None = None

    def __post_init__(self) -> None:
        sampler_named(self.sampler)
        for part in self.without:
            self.model = ABLATIONS[part].model(self.model)

    @property
    def is_single(self) -> bool:
        """Whether it has one opinion."""
        return self.sampler == NOTHING

    @torch.no_grad()
    def opened(self, image: torch.Tensor) -> ModelImage:
        """Encoded once an image."""
        if self._last is None or self._last[0] is not image:
            self._last = (image, ModelImage(self.model, self.model.encode(image[None])))
        return self._last[1]

    def samples(self, image: torch.Tensor) -> torch.Tensor | None:
        """See `Player`."""
        if self.is_single:
            return None
        return self.answers(self.opened(image), begin(self.model, "", "")).turn.logits[0] > 0

    def answers(self, image: ModelImage, session: Session) -> StructureAnswer:
        """What is said of the first structure now."""
        samples = 1 if self.is_single else None
        sampler = sampler_named(self.sampler)
        return answer(self.model, image, session, samples=samples, sampler=sampler, vote=self.vote)

    def play(
        self,
        image: torch.Tensor,
        wanted: torch.Tensor,
        clinician: Clinician,
        turns: int,
        rng: np.random.Generator,
    ) -> Trace:
        """See `Player`."""
        opened = self.opened(image)
        session = begin(self.model, "", "", seed=int(rng.integers(2**31)))
        dices: list[float] = []
        best_sample = best_candidate = float("nan")
        for turn in range(turns + 1):
            given = self.answers(opened, session)
            shown = given.logits > 0
            dices.append(dice(shown, wanted))
            if "level" in self.without:
                given = replace(given, candidates=[one for one in given.candidates if not one.level])
            masks = torch.stack([given.mask_of(index) for index in range(len(given.candidates))])
            if turn == 0 and not self.is_single:
                best_sample = max(dice(sample > 0, wanted) for sample in given.turn.logits[0])
                best_candidate = max(dice(mask, wanted) for mask in masks)
            if turn == turns:
                break
            reaction = clinician.reacts(shown, masks[:0] if self.is_single else masks, wanted, rng)
            if reaction is None:
                dices += [dices[-1]] * (turns - turn)
                break
            if isinstance(reaction, Click):
                session = click(self.model, opened, session, given, reaction)
                if self.moves_level:
                    session = session.with_state(0, after_click(session.structures[0], given, reaction))
            else:
                session = pick(self.model, opened, session, given, reaction)
            if self.without:
                session = session.with_state(0, self.kept(session.structures[0]))
        return Trace(tuple(dices), best_sample, best_candidate)

    def kept(self, state: StructureState) -> StructureState:
        """Of what is known after an interaction, what the parts that are left keep."""
        for part in self.without:
            state = ABLATIONS[part].state(state)
        return state


@dataclass(frozen=True, eq=False)
class FixedPlayer:
    """A network without interactions; clicks change what is shown only where they were made (see `honour`).

    Attributes:
        logits: image `(channel, *space)` to log odds `(*space)`.
        honours: whether clicks are honoured; otherwise nothing ever changes.
    """

    logits: Callable[[torch.Tensor], torch.Tensor]
    honours: bool = False

    def samples(self, image: torch.Tensor) -> torch.Tensor | None:
        """See `Player`."""
        return None

    def play(
        self,
        image: torch.Tensor,
        wanted: torch.Tensor,
        clinician: Clinician,
        turns: int,
        rng: np.random.Generator,
    ) -> Trace:
        """See `Player`."""
        said = self.logits(image)
        clicks: list[Click] = []
        dices = []
        for _ in range(turns + 1):
            shown = honour(said, clicks) > 0
            dices.append(dice(shown, wanted))
            if self.honours:
                reaction = clinician.reacts(shown, shown[None][:0], wanted, rng)
                assert isinstance(reaction, Click)
                clicks.append(reaction)
        return Trace(tuple(dices))


@dataclass(frozen=True, eq=False)
class PickingPlayer:
    """A system that offers samples and does not learn: what is picked is shown, until something better is offered.

    Attributes:
        draw: image `(channel, *space)` and a seed to logits `(sample, *space)`.
        candidates: K.
        honours: whether clicks are honoured, in what is shown and in all that is offered later (see `honour`);
            otherwise they change nothing.
    """

    draw: Callable[[torch.Tensor, int], torch.Tensor]
    candidates: int = 4
    honours: bool = False

    def samples(self, image: torch.Tensor) -> torch.Tensor | None:
        """See `Player`."""
        return self.draw(image, 0) > 0

    def play(
        self,
        image: torch.Tensor,
        wanted: torch.Tensor,
        clinician: Clinician,
        turns: int,
        rng: np.random.Generator,
    ) -> Trace:
        """See `Player`."""
        logits = self.draw(image, int(rng.integers(2**31)))
        inside, outside = log_soft_vote(logits[None])
        said = (inside - outside)[0]
        shown = said > 0
        clicks: list[Click] = []
        dices = [dice(shown, wanted)]
        best_sample = max(dice(sample > 0, wanted) for sample in logits)
        best_candidate = float("nan")
        for turn in range(turns):
            offered = _offered(logits, self.candidates)
            masks = torch.stack([honour(one, clicks) > 0 for one in offered])
            if turn == 0:
                best_candidate = max(dice(mask, wanted) for mask in masks)
            reaction = clinician.reacts(shown, masks, wanted, rng)
            if isinstance(reaction, int):
                said = offered[reaction]
            elif isinstance(reaction, Click) and self.honours:
                clicks.append(reaction)
            shown = honour(said, clicks) > 0
            dices.append(dice(shown, wanted))
            logits = self.draw(image, int(rng.integers(2**31)))
        return Trace(tuple(dices), best_sample, best_candidate)


def _offered(logits: torch.Tensor, most: int) -> torch.Tensor:
    """Logits `(candidate, *space)` of what samples `(sample, *space)` are offered as, by the rules of the server."""
    vote = vote_log_odds(logits)
    found = propose_from_logits(logits, most, levels=True)
    return torch.stack([vote - one.level if one.level else logits[one.medoid] for one in found])


def dice(mask: torch.Tensor, wanted: torch.Tensor) -> float:
    """Dice of two boolean masks; two empty ones have 1."""
    total = int(mask.sum()) + int(wanted.sum())
    return 2 * int((mask & wanted).sum()) / total if total else 1.0
