"""MedUHIP with a part taken out, as in the paper's table 4: what is left plays, and shares the trained networks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import nn

from overread.domain import Registry
from overread.meduhip.backend import Cache
from overread.meduhip.network import MedUHIP, SamplingNet
from overread.meduhip.prompts import Prompts
from overread.meduhip.sampling_space import SamplingSpace
from overread.meduhip.session import StructureState


@dataclass(frozen=True)
class Ablation:
    """A part that is taken out.

    Attributes:
        description: one sentence for people.
        model: from the trained model to the one that plays.
        state: what is known after an interaction, to what is kept of it.
    """

    description: str
    model: Callable[[MedUHIP], MedUHIP] = lambda model: model
    state: Callable[[StructureState], StructureState] = lambda state: state


class _Ablated(MedUHIP):
    """Another model with the networks of a trained one."""

    def __init__(self, model: MedUHIP) -> None:
        nn.Module.__init__(self)
        self.configuration, self.mirrors = model.configuration, model.mirrors
        self._backend, self.structures = cast(nn.Module, model.backend), model.structures
        self.train(model.training)


class Unmoved(_Ablated):
    """Means and variances stay those of the image before anybody said anything; clicks reach the masks alone."""

    def space(
        self,
        cache: Cache,
        prompts: Prompts,
        weights: torch.Tensor | None = None,
        shift: torch.Tensor | None = None,
        structure: int = 0,
    ) -> SamplingSpace:
        """See `MedUHIP.space`; the prompts and what choices moved are not heard."""
        batch = len(cache.context)
        nobody = Prompts.none(1, self.configuration.axes, cache.context.device).expanded(batch)
        return super().space(cache, nobody, weights, None, structure)


class Bayesian(_Ablated):
    """The next weights are the posterior itself, as before the Weight Network has learnt anything."""

    def __init__(self, model: MedUHIP) -> None:
        super().__init__(model)
        self.structures = copy.deepcopy(model.structures)
        for structure in self.structures:
            cast(SamplingNet, structure).weights = nn.Identity()  # type: ignore[assignment]


ABLATIONS: Registry[Ablation] = Registry("ablation")
ABLATIONS.add(
    "Mean-Variance Network",
    Ablation("Means and variances never hear of an interaction, nor are they moved.", model=Unmoved),
)
ABLATIONS.add(
    "moved means",
    Ablation(
        "Means are not moved towards samples that agree; the Mean-Variance Network hears every interaction.",
        state=lambda state: replace(state, shift=()),
    ),
)
ABLATIONS.add(
    "weights",
    Ablation(
        "Weights stay even: neither posterior nor Weight Network.",
        state=lambda state: replace(state, weights=()),
    ),
)
ABLATIONS.add(
    "Weight Network", Ablation("The posterior alone says the next weights, by Bayes.", model=Bayesian)
)
ABLATIONS.add(
    "level",
    Ablation("Neither wider nor tighter is drawn.", state=lambda state: replace(state, level=0.0, nudges=())),
)
