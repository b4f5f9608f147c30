"""MedUHIP champions on disk: an ensemble folder of the kind `meduhip`, which any part that knows ensembles can read.

As an ensemble its members are draws from the sampling space before any interaction, so that scoring, maps, the gate and
`overread predict` work with it as with any other; the clinician's turns use `load_reader`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from overread.domain import BadInputError
from overread.ensemble.ensemble import Ensemble, KindsOfDoubt
from overread.ensemble.plan import Plan
from overread.ensemble.preparation import normalise_colours, prepare
from overread.ensemble.storage import (
    KINDS,
    calibration_from_json,
    calibration_to_json,
    check_files,
    read_description,
    write_description,
)
from overread.imaging.volumes import Volume
from overread.meduhip.backend import Cache
from overread.meduhip.doubt import OF_ONE_NETWORK, case_scores, split_draws, splits_of
from overread.meduhip.mirrors import mirrors_along
from overread.meduhip.network import Configuration, MedUHIP
from overread.meduhip.prompts import Prompts
from overread.meduhip.reader import Reader
from overread.meduhip.sampling_space import Draws, SamplingSpace, draw
from overread.uncertainty.calibration import Calibration

logger = logging.getLogger(__name__)

KIND = "meduhip"
WEIGHTS = "member_0.pt"
# Draws that stand for the model where an ensemble is wanted; the same ones always.
MEMBERS = 8
MEMBER_SEED = 20240803


class Draw:
    """One draw from the untouched sampling space, as a member: windows to logits of all classes.

    All draws of a model share the encoding of the window that was shown last.
    """

    def __init__(self, shared: _SharedEncoding, index: int) -> None:
        self._shared, self._index = shared, index

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        """`(batch, channel, *patch)` to `(batch, class, *patch)`; the background's logit is 0."""
        return self._shared.logits(windows)[:, self._index]


class _SharedEncoding:
    """Logits of all draws for the windows that were shown last."""

    def __init__(self, model: MedUHIP, members: int) -> None:
        self.model, self.members = model, members
        self._windows: torch.Tensor | None = None
        self._logits = torch.empty(0)

    @torch.no_grad()
    def logits(self, windows: torch.Tensor) -> torch.Tensor:
        """`(batch, member, class, *patch)`."""
        if self._windows is not windows:
            cache = self.model.encode(windows)
            parts = [
                self._structure(cache, len(windows), windows, structure)
                for structure in range(len(self.model.structures))
            ]
            background = torch.zeros_like(parts[0])
            self._logits = torch.stack([background, *parts], dim=2)
            self._windows = windows
        return self._logits

    def _structure(self, cache: Cache, batch: int, windows: torch.Tensor, structure: int) -> torch.Tensor:
        prompts = Prompts.none(1, windows.ndim - 2, windows.device).expanded(batch)
        space = self.model.space(cache, prompts, structure=structure)
        # Drawn for one image and used for all, so that a member is the same opinion in every window.
        one = SamplingSpace(space.log_weights[:1], space.means[:1], space.log_variances[:1])
        draws = self._drawn(one, structure)
        noise = draws.samples - one.means.gather(1, draws.components[..., None].expand_as(draws.samples))
        index = draws.components.expand(batch, -1)[..., None].expand(-1, -1, space.means.shape[2])
        samples = space.means.gather(1, index) + noise
        return self.model.decode(cache, samples, prompts, structure).float()

    def _drawn(self, one: SamplingSpace, structure: int) -> Draws:
        return draw(one, self.members, torch.Generator().manual_seed(MEMBER_SEED + structure))

    @cached_property
    def lineage(self) -> tuple[tuple[int, ...], ...]:
        """Of each structure the component that each draw comes from.

        The same in all windows, whatever they show: before anybody says anything, components weigh alike.
        """
        c = self.model.configuration
        device = next(self.model.parameters()).device
        context = torch.zeros(1, self.model.backend.context_width, device=device)
        nothing = Cache(torch.zeros(1, 0, *[1] * c.axes, device=device), context, (1,) * c.axes)
        prompts = Prompts.none(1, c.axes, device)
        found = []
        for structure in range(c.structures):
            space = self.model.space(nothing, prompts, structure=structure).detached()
            found.append(tuple(self._drawn(space, structure).components[0].tolist()))
        return tuple(found)


def save_model(
    folder: Path,
    model: MedUHIP,
    plan: Plan,
    *,
    name: str,
    classes: Sequence[str],
    channels: Sequence[str],
    training: dict[str, Any],
) -> str:
    """Write a finished model into an empty folder. Returns its identity."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({key: value.cpu() for key, value in model.state_dict().items()}, folder / WEIGHTS)
    return write_description(
        folder,
        {
            "kind": KIND,
            "name": name,
            "classes": list(classes),
            "channels": list(channels),
            "plan": {
                **plan.to_json(),
                "meduhip": asdict(model.configuration),
                "training": training,
                # One list a member, and each draw is one.
                "held_out": [training.get("held_out", [])] * MEMBERS,
            },
            "members": [WEIGHTS],
            "calibration": calibration_to_json(Calibration()),
        },
    )


def load_reader(folder: Path, device: torch.device | str = "cpu") -> Reader:
    """Load a MedUHIP model for a clinician's turns.

    Raises:
        NotFoundError: no model there. BadInputError: it is of another kind, or its file was changed.
    """
    description = read_description(folder)
    if description["kind"] != KIND:
        raise BadInputError(f"{folder} holds a model of the kind {description['kind']}, which takes no turns")
    check_files(folder, description)
    return _reader(folder, description, torch.device(device))


@KINDS.register(KIND)
def load(folder: Path, description: dict[str, Any], device: torch.device) -> Ensemble:
    """The model as an ensemble of draws; see `overread.ensemble.storage`."""
    reader = _reader(folder, description, device)
    plan = reader.plan
    shared = _SharedEncoding(reader.model, MEMBERS)

    def doubt_parts(volume: Volume, progress: Callable[[float], None] | None) -> dict[str, float]:
        return case_scores(splits_of(reader.open(volume, device), reader.calibration.temperature, progress))

    return Ensemble(
        name=reader.name,
        classes=reader.classes,
        channels=reader.channels,
        members=[Draw(shared, index) for index in range(MEMBERS)],
        patch=plan.patch,
        prepare=lambda volume: prepare(plan, volume),
        calibration=reader.calibration,
        identity=reader.identity,
        folder=folder,
        metadata={"training": description["plan"]["training"]},
        um_per_px=plan.um_per_px,
        colours=(lambda windows: normalise_colours(plan.normalisation, windows)) if plan.is_rgb else None,
        # What is no matter of style (see `doubt`).
        asked_by="expected_entropy",
        differ_by_style=True,
        doubt_parts=doubt_parts,
        kinds=KindsOfDoubt(OF_ONE_NETWORK, lambda logits: split_draws(logits, shared.lineage)),
    )


def _reader(folder: Path, description: dict[str, Any], device: torch.device) -> Reader:
    return Reader(
        name=description["name"],
        classes=tuple(description["classes"]),
        channels=tuple(description["channels"]),
        model=_load_model(folder, description, device),
        plan=Plan.from_json(description["plan"]),
        identity=description["identity"],
        calibration=calibration_from_json(description.get("calibration")),
        folder=folder,
    )


def _load_model(folder: Path, description: dict[str, Any], device: torch.device) -> MedUHIP:
    plan, configuration = Plan.from_json(description["plan"]), Configuration(**description["plan"]["meduhip"])
    model = MedUHIP(configuration)
    model.load_state_dict(torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True))
    for index in range(configuration.structures):
        if (weights := model.sampling(index).weights).is_deaf():
            # Trained so by earlier versions, wherever one opinion learnt what clicks mean.
            logger.warning("%s: a Weight Network hears nothing; Bayes says the weights in its place", folder)
            weights.forget()
    model.mirrors = mirrors_along(plan.mirror_axes, configuration.axes)
    return model.to(device).eval()
