"""A MONAI bundle or a TorchScript file as an ensemble: its members are test-time augmentations.

Each member sees the window flipped along some axes and flips its logits back; the first sees it as it is. The
members then disagree where the network is not sure enough to say the same of a mirror image. That is less than
what independently trained members know, and flips mislead a network that tells left from right.

A bundle's configuration may run Python code. Import only bundles that you trust.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from overread.domain import BadInputError, NotFoundError
from overread.ensemble.bundle_config import (
    SPACING,
    Step,
    build_network,
    facts_from_metadata,
    read_bundle,
    read_torchscript,
    step_from_mapping,
)
from overread.ensemble.ensemble import Ensemble, Prepared
from overread.ensemble.importing import axes_towards, whole_folder
from overread.ensemble.storage import KINDS, calibration_from_json, write_description
from overread.imaging.volumes import Volume
from overread.imaging.windows import AxisInterpolation

DEFAULT_DRAWS = 4
DEFAULT_ORIENTATION = "RAS"
WEIGHTS = "network.pt"
SCRIPT = "network.ts"


def import_bundle(
    path: Path,
    name: str,
    target_folder: Path,
    *,
    classes: Sequence[str] | None = None,
    channels: Sequence[str] | None = None,
    patch: Sequence[int] | None = None,
    spacing_mm: Sequence[float] | None = None,
    intensity: Sequence[Mapping[str, Any]] | None = None,
    orientation: str | None = None,
    draws: int = DEFAULT_DRAWS,
) -> Path:
    """Make an ensemble folder of one network. What a bundle says about itself need not be given.

    Args:
        path: a bundle's folder (`configs/`, `models/`) or a TorchScript file (`.ts`, `.pt`).
        name: the recipe's name.
        target_folder: a new or empty folder.
        classes: names of the output channels, background first; two names for a network with one output.
        channels: names of the input channels.
        patch: window size in the network's voxels.
        spacing_mm: the network's voxel size.
        intensity: what is done to the intensities, in order: MONAI's transforms as in a bundle's configuration,
            such as `[{"_target_": "ScaleIntensityRange", "a_min": -175, "a_max": 250, "b_min": 0, "b_max": 1,
            "clip": True}]`; an empty list for images as stored.
        orientation: where the axes run to, such as `RAS`. A TorchScript file that does not say gets `RAS`.
        draws: number of members: the image itself, then flips along one axis, two axes, ...

    Returns:
        `target_folder`.

    Raises:
        NotFoundError: nothing there. BadInputError: something the bundle does not say has to be given, or what it
            says cannot be used; the message names the argument.
    """
    path = Path(path)
    config: dict[str, Any] | None = None
    if path.is_dir():
        facts, config, model_file = read_bundle(path)
        if model_file.suffix == ".ts":
            network, config = read_torchscript(model_file)[0], None
        else:
            network = build_network(config, model_file)
    elif path.is_file():
        model_file = path
        network, metadata = read_torchscript(path)
        facts = facts_from_metadata(metadata, DEFAULT_ORIENTATION)
    else:
        raise NotFoundError(f"{path} is neither a bundle's folder nor a TorchScript file")
    if orientation is not None:
        axes_towards(np.eye(4), orientation)
    window = _given("patch", patch, facts.patch, "the window size in voxels")
    spacing_mm = facts.spacing_mm if spacing_mm is None else tuple(spacing_mm)
    if intensity is not None:
        steps = tuple(step_from_mapping(mapping) for mapping in intensity)
    elif facts.unknown_transform is not None:
        raise BadInputError(
            f"{path} prepares images with {facts.unknown_transform}, which is not known here: give intensity "
            "(and spacing_mm, orientation) to say what is done to an image"
        )
    else:
        steps = _given("intensity", None, facts.steps, "what is done to the intensities ([] for nothing)")
    if facts.steps is None:
        spacing_mm = _given("spacing_mm", spacing_mm, None, "the network's voxel size in mm")
    if spacing_mm is not None and not any(step.name == SPACING for step in steps):
        steps = (Step(SPACING), *steps)
    plan = _Plan(
        classes=_given("classes", classes, facts.classes, "names of the output channels, background first"),
        channels=_given("channels", channels, facts.channels, "names of the input channels"),
        patch=tuple(int(n) for n in window),
        spacing_mm=None if spacing_mm is None else tuple(float(n) for n in spacing_mm),
        steps=steps,
        orientation=orientation or facts.orientation,
        flips=_flips(draws, len(window)),
        step=1 - facts.overlap,
        gives="logits",
    )
    plan = plan.checked(network)
    with whole_folder(Path(target_folder)) as staging:
        if config is None:
            shutil.copyfile(model_file, staging / SCRIPT)
        else:
            torch.save(network.state_dict(), staging / WEIGHTS)
        description = {
            "kind": "bundle",
            "name": name,
            "classes": list(plan.classes),
            "channels": list(plan.channels),
            "plan": {**plan.to_json(), "config": config, "source": facts.source or path.stem},
            "members": [SCRIPT if config is None else WEIGHTS],
            "calibration": None,
        }
        write_description(staging, description)
    return Path(target_folder)


@KINDS.register("bundle")
def load(folder: Path, description: dict[str, Any], device: torch.device) -> Ensemble:
    """Load what `import_bundle` wrote."""
    content = description["plan"]
    plan = _Plan.from_json(content, description["classes"], description["channels"])
    file = folder / description["members"][0]
    if content["config"] is None:
        network: nn.Module = torch.jit.load(str(file), map_location=device)
    else:
        network = build_network(content["config"], file)
    network.eval().to(device)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return Ensemble(
        name=description["name"],
        classes=plan.classes,
        channels=plan.channels,
        members=[_Flipped(network, flips, plan.gives) for flips in plan.flips],
        patch=plan.patch,
        prepare=plan.prepare,
        step=plan.step,
        calibration=calibration_from_json(description.get("calibration")),
        identity=description["identity"],
        folder=folder,
        metadata={"source": content["source"], "members": "test-time augmentation", "draws": len(plan.flips)},
    )


@dataclass(frozen=True)
class _Plan:
    """How the network wants to see a volume, and which flips make the members.

    Attributes:
        spacing_mm: the network's voxel size; None where it sees images as stored.
        steps: transforms in order, resampling among them.
        orientation: where the axes run to; None leaves them as stored.
        flips: axes that each member flips, counted from the first spatial axis.
        step: distance of windows as a share of the patch.
        gives: whether the network gives `logits`, `probabilities`, or one `logit` or `probability` of the
            foreground.
    """

    classes: tuple[str, ...]
    channels: tuple[str, ...]
    patch: tuple[int, ...]
    spacing_mm: tuple[float, ...] | None
    steps: tuple[Step, ...]
    orientation: str | None
    flips: tuple[tuple[int, ...], ...]
    step: float
    gives: str

    def checked(self, network: nn.Module) -> _Plan:
        """The plan with what one window of noise shows about the network's output.

        Raises:
            BadInputError: the network takes other channels or windows, or gives another number of classes.
        """
        if len(self.patch) not in (2, 3) or len(self.spacing_mm or self.patch) != len(self.patch):
            raise BadInputError(
                f"patch {self.patch} and spacing_mm {self.spacing_mm} need 2 or 3 axes, the same for both"
            )
        noise = torch.rand(1, len(self.channels), *self.patch, generator=torch.Generator().manual_seed(0))
        try:
            with torch.inference_mode():
                output = _first(network.eval()(noise)).float()
        except Exception as error:  # whatever a stranger's network raises
            raise BadInputError(
                f"the network does not take {len(self.channels)} channels in windows of {self.patch}: {error}"
            ) from error
        expected = (
            1,
            1 if len(self.classes) == 2 and output.shape[1] == 1 else len(self.classes),
            *self.patch,
        )
        if tuple(output.shape) != expected:
            raise BadInputError(
                f"the network gives {tuple(output.shape)} for a window of {self.patch}, expected {expected} "
                f"with the classes {', '.join(self.classes)}"
            )
        looks_like_shares = bool((output >= 0).all() and (output <= 1).all())
        if output.shape[1] == 1:
            gives = "probability" if looks_like_shares else "logit"
        elif looks_like_shares and bool(((output.sum(dim=1) - 1).abs() < 1e-3).all()):
            gives = "probabilities"
        else:
            gives = "logits"
        return _Plan(**{**self.__dict__, "gives": gives})

    def prepare(self, volume: Volume) -> Prepared:
        """Turn, scale and resample as the bundle does.

        Resampling keeps the volume's extent: corners of the field of view stay where they are.
        """
        dimensions = len(self.patch)
        if len(volume.grid.shape) != dimensions:
            raise BadInputError(
                f"this model reads {dimensions}D images, the image has {len(volume.grid.shape)} axes"
            )
        if self.orientation is not None and dimensions == 3:
            axes, flips = axes_towards(volume.grid.affine, self.orientation)
        else:
            axes, flips = tuple(range(dimensions)), (False,) * dimensions
        voxels = np.transpose(volume.voxels, (0, *(1 + axis for axis in axes)))
        voxels = np.flip(voxels, [1 + axis for axis, flipped in enumerate(flips) if flipped])
        shape = voxels.shape[1:]
        seen = torch.from_numpy(np.ascontiguousarray(voxels, dtype=np.float32))
        for step in self.steps:
            if step.name != SPACING or self.spacing_mm is None:
                seen = step(seen)
                continue
            for axis in range(dimensions):
                extent_mm = shape[axis] * volume.grid.spacing_mm[axes[axis]]
                wanted = max(1, round(extent_mm / self.spacing_mm[axis]))
                seen = AxisInterpolation(shape[axis], wanted, "linear")(seen, 1 + axis)
        return Prepared(
            voxels=seen,
            input_grid=volume.grid,
            axes=axes,
            flips=flips,
            crop=tuple((0, n) for n in shape),
            interpolation=("linear",) * dimensions,
        )

    def to_json(self) -> dict[str, Any]:
        content = asdict(self)
        del content["classes"], content["channels"]
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any], classes: Sequence[str], channels: Sequence[str]) -> _Plan:
        return cls(
            classes=tuple(classes),
            channels=tuple(channels),
            patch=tuple(content["patch"]),
            spacing_mm=None if content["spacing_mm"] is None else tuple(content["spacing_mm"]),
            steps=tuple(Step(**step) for step in content["steps"]),
            orientation=content["orientation"],
            flips=tuple(tuple(axes) for axes in content["flips"]),
            step=content["step"],
            gives=content["gives"],
        )


class _Flipped(nn.Module):
    """A network that sees the window flipped and gives logits for the window as it was."""

    def __init__(self, network: nn.Module, axes: tuple[int, ...], gives: str) -> None:
        super().__init__()
        self.network, self.gives = network, gives
        self.axes = tuple(2 + axis for axis in axes)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        output = _first(self.network(windows.flip(self.axes) if self.axes else windows))
        output = output.flip(self.axes) if self.axes else output
        if self.gives == "logits":
            return output
        if self.gives == "probabilities":
            return output.float().clamp_min(torch.finfo(torch.float32).tiny).log()
        # One output for the foreground: with 0 for the background, softmax is the sigmoid.
        foreground = torch.logit(output.float(), eps=1e-7) if self.gives == "probability" else output
        return torch.cat([torch.zeros_like(foreground), foreground], dim=1)


def _first(output: Any) -> torch.Tensor:
    """The segmentation, where a network with deep supervision gives a list."""
    return output[0] if isinstance(output, (list, tuple)) else output


def _flips(draws: int, dimensions: int) -> tuple[tuple[int, ...], ...]:
    every = [
        axes for count in range(dimensions + 1) for axes in itertools.combinations(range(dimensions), count)
    ]
    if not 1 <= draws <= len(every):
        raise BadInputError(f"draws is {draws}; {dimensions} axes can be flipped in 1 to {len(every)} ways")
    return tuple(every[:draws])


def _given(argument: str, value: Any, own: Any, meaning: str) -> Any:
    chosen = own if value is None else value
    if chosen is None:
        raise BadInputError(f"the file does not say {meaning}: give {argument}")
    return tuple(chosen)
