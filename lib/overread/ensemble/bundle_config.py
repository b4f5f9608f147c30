"""What a MONAI bundle says about itself: network, classes, window, and what is done to an image before.

Understood are the transforms that most bundles use. One that changes intensities or geometry and is not known
here is refused by name: guessing would give a network something it was not trained on.
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from overread.domain import BadInputError, NotFoundError

CONFIG_FILES = tuple(
    f"{stem}.{suffix}" for stem in ("inference", "train") for suffix in ("json", "yaml", "yml")
)
SPACING = "Spacing"
# What MONAI's SlidingWindowInferer takes where the configuration says nothing.
MONAI_OVERLAP = 0.25
INTENSITY_TRANSFORMS = (
    "ScaleIntensityRange",
    "ScaleIntensityRangePercentiles",
    "ScaleIntensity",
    "NormalizeIntensity",
    "ClipIntensityPercentiles",
)
# What these do is done by reading a volume, by the windows, or not at all to the voxels.
HARMLESS_TRANSFORMS = (
    "LoadImage",
    "EnsureChannelFirst",
    "AddChannel",
    "AsChannelFirst",
    "EnsureType",
    "CastToType",
    "ToTensor",
    "ToDevice",
    "DivisiblePad",
    "SpatialPad",
    "SelectItems",
    "Identity",
)
# Arguments that say where in a dictionary the image is, and nothing about what is done to it.
KEY_ARGUMENTS = ("_target_", "_disabled_", "_requires_", "_desc_", "keys", "allow_missing_keys", "prob")


@dataclass(frozen=True)
class Step:
    """One transform of the image: `Spacing`, or an intensity transform of MONAI with its arguments."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def __call__(self, voxels: torch.Tensor) -> torch.Tensor:
        """Apply an intensity transform to `(channel, *space)`."""
        import monai.transforms

        changed = getattr(monai.transforms, self.name)(**self.arguments)(voxels)
        return torch.as_tensor(changed).float()


@dataclass(frozen=True)
class BundleFacts:
    """What is known; None where the bundle does not say.

    Attributes:
        steps: what is done to an image, in order.
        unknown_transform: a transform of the bundle that is not known here; `steps` is then incomplete.
        overlap: of neighbouring windows, as a share of the window.
    """

    classes: tuple[str, ...] | None = None
    channels: tuple[str, ...] | None = None
    patch: tuple[int, ...] | None = None
    spacing_mm: tuple[float, ...] | None = None
    steps: tuple[Step, ...] | None = None
    unknown_transform: str | None = None
    orientation: str | None = None
    overlap: float = 0.5
    source: str = ""


def read_bundle(folder: Path) -> tuple[BundleFacts, dict[str, Any], Path]:
    """Facts, the configuration as plain JSON, and the file of weights.

    Raises:
        NotFoundError: no configuration or weights. BadInputError: it cannot be read or uses unknown transforms.
    """
    from monai.bundle import ConfigParser

    configs = [folder / "configs" / name for name in CONFIG_FILES]
    config_file = next((file for file in configs if file.exists()), None)
    if config_file is None:
        raise NotFoundError(
            f"{folder} is not a MONAI bundle: configs/ holds none of {', '.join(CONFIG_FILES)}"
        )
    models = [folder / "models" / name for name in ("model.pt", "model.ts")]
    model_file = next((file for file in models if file.exists()), None)
    if model_file is None:
        raise NotFoundError(f"{folder} has no models/model.pt; download the bundle with its weights")
    metadata_file = folder / "configs" / "metadata.json"
    parser = ConfigParser()
    try:
        parser.read_config(str(config_file))
        metadata = ConfigParser.load_config_file(str(metadata_file)) if metadata_file.exists() else {}
    except Exception as error:  # the parsers of JSON and YAML raise their own
        raise BadInputError(f"{config_file} cannot be read: {error}") from error
    facts = facts_from_metadata(metadata, None)
    prepared = _preprocessing(parser)
    if model_file.suffix == ".pt" and "network_def" not in parser and "network" not in parser:
        raise BadInputError(f"{config_file} defines no network_def")
    facts = replace(
        prepared,
        classes=facts.classes,
        channels=facts.channels,
        patch=_integers(_value(parser, "inferer#roi_size")) or facts.patch,
        overlap=float(_value(parser, "inferer#overlap") or MONAI_OVERLAP),
        source=facts.source or folder.name,
    )
    return facts, dict(parser.get()), model_file


def build_network(config: Mapping[str, Any], model_file: Path) -> nn.Module:
    """The network of `network_def` with its weights.

    Raises:
        BadInputError: it needs code that is not here, or the weights are of another network.
    """
    from monai.bundle import ConfigParser

    parser = ConfigParser(dict(config))
    name = "network_def" if "network_def" in config else "network"
    try:
        network = parser.get_parsed_content(name)
    except Exception as error:  # whatever the configuration's expressions raise
        raise BadInputError(f"{name} of the bundle cannot be built: {_innermost(error)}") from error
    if not isinstance(network, nn.Module):
        raise BadInputError(f"{name} of the bundle is a {type(network).__name__}, expected a network")
    try:
        weights = torch.load(model_file, map_location="cpu", weights_only=True)
        for key in ("model", "state_dict"):
            weights = weights.get(key, weights)
        network.load_state_dict(weights)
    except (RuntimeError, pickle.UnpicklingError, AttributeError, EOFError) as error:
        raise BadInputError(f"{model_file} does not hold the weights of {name}: {error}") from error
    return network


def read_torchscript(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The network and the metadata that MONAI puts beside it (empty where there are none)."""
    extra = {"metadata.json": ""}
    try:
        network = torch.jit.load(io.BytesIO(path.read_bytes()), map_location="cpu", _extra_files=extra)
        metadata = json.loads(extra["metadata.json"] or "{}")
    except (RuntimeError, ValueError) as error:
        raise BadInputError(
            f"{path} is not a TorchScript file: {str(error).splitlines()[0]}; "
            "plain weights need the bundle's folder around them"
        ) from error
    return network, metadata


def facts_from_metadata(metadata: Mapping[str, Any], orientation: str | None) -> BundleFacts:
    """Classes, channels and window from `network_data_format`.

    Raises:
        BadInputError: several outputs without a background, which are regions that may overlap.
    """
    form = metadata.get("network_data_format", {})
    outputs = next(iter(form.get("outputs", {}).values()), {})
    inputs = next(iter(form.get("inputs", {}).values()), {})
    names = _names(outputs.get("channel_def"))
    if names is not None and len(names) == 1:
        names = ("background", names[0])
    elif names is not None and names[0].lower() not in ("background", "bg", "other", "everything else"):
        raise BadInputError(
            f"the bundle's outputs are {', '.join(names)}: no background comes first, so they may overlap; "
            "members need classes that exclude each other"
        )
    shape = inputs.get("spatial_shape")
    is_plain = isinstance(shape, (list, tuple)) and all(isinstance(n, int) for n in shape)
    return BundleFacts(
        classes=names,
        channels=_names(inputs.get("channel_def")),
        patch=tuple(shape) if is_plain and shape is not None else None,
        orientation=orientation,
        source=str(metadata.get("name", "")),
    )


def step_from_mapping(mapping: Mapping[str, Any]) -> Step:
    """An intensity transform from its configuration. Raises BadInputError for any other."""
    target = str(mapping.get("_target_", ""))
    name = _plain_name(target)
    if name not in INTENSITY_TRANSFORMS:
        raise BadInputError(
            f"{target!r} is not one of the known transforms {', '.join(INTENSITY_TRANSFORMS)}"
        )
    return Step(name, {key: value for key, value in mapping.items() if key not in KEY_ARGUMENTS})


def _preprocessing(parser: Any) -> BundleFacts:
    """Steps, voxel size and orientation of the inference (or validation) transforms."""
    names = ("preprocessing", "validate#preprocessing")
    name = next((name for name in names if f"{name}#transforms" in parser), None)
    if name is None:
        return BundleFacts()
    steps: list[Step] = []
    spacing_mm, orientation, unknown = None, None, None
    for index, written in enumerate(parser[f"{name}#transforms"]):
        target = str(written.get("_target_", ""))
        plain = _plain_name(target)
        if plain in HARMLESS_TRANSFORMS or written.get("_disabled_") is True:
            continue
        if plain not in (SPACING, "Orientation", *INTENSITY_TRANSFORMS):
            unknown = unknown or target
            continue
        transform = {key: _value(parser, f"{name}#transforms#{index}#{key}") for key in written}
        if plain == SPACING:
            spacing_mm = tuple(float(n) for n in transform["pixdim"])
            steps.append(Step(SPACING))
        elif plain == "Orientation":
            orientation = str(transform["axcodes"])
        else:
            steps.append(step_from_mapping(transform))
    return BundleFacts(
        spacing_mm=spacing_mm, steps=tuple(steps), orientation=orientation, unknown_transform=unknown
    )


def _value(parser: Any, name: str) -> Any:
    """The value with its references followed, None where there is none."""
    return parser.get_parsed_content(name) if name in parser else None


def _names(channel_def: Any) -> tuple[str, ...] | None:
    if not isinstance(channel_def, Mapping) or not channel_def:
        return None
    return tuple(str(channel_def[key]) for key in sorted(channel_def, key=int))


def _integers(values: Any) -> tuple[int, ...] | None:
    return tuple(int(n) for n in values) if isinstance(values, (list, tuple)) else None


def _plain_name(target: str) -> str:
    """`monai.transforms.ScaleIntensityRanged` and its aliases `D`, `Dict` are `ScaleIntensityRange`."""
    name = target.rpartition(".")[2]
    known = (*INTENSITY_TRANSFORMS, *HARMLESS_TRANSFORMS, "Spacing", "Orientation")
    return next((plain for plain in known if name in (plain, f"{plain}d", f"{plain}D", f"{plain}Dict")), name)


def _innermost(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"
