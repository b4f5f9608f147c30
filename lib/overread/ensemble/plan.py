"""From a fingerprint to a network: spacing, patch, strides, features, normalisation.

Isensee et al. 2021 (nnU-Net, Nature Methods 18:203), "rule-based parameters", with the size of the network
chosen by what it will be trained on: a processor gets a small one that learns within minutes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Literal

import numpy as np

from overread.domain import BadInputError
from overread.domain.slides import PixelSize
from overread.ensemble.fingerprint import Fingerprint

# nnU-Net: an axis counts as coarse when its spacing is three times the others' and it has a third of their voxels.
COARSE = 3.0
# The coarse axis gets this percentile of its spacings instead of the median, to keep thin-slice cases thin.
COARSE_PERCENTILE = 10
# Feature maps are halved until their edge would fall below this.
SMALLEST_EDGE = 4
# Below this share of the volume kept by the crop, statistics are taken from non-zero voxels only.
MOSTLY_BACKGROUND = 0.75
# A batch may hold at most this share of all training voxels.
BATCH_SHARE = 0.05
# DynUNet needs input block, one stage and bottleneck.
FEWEST_STAGES = 3
# Tellez et al. 2019 (arXiv:1902.06543), HED-light: what pictures of slides get where nothing else is asked for.
LIGHT_STAIN = 0.05


@dataclass(frozen=True)
class Hardware:
    """What a training step may cost.

    Attributes:
        patch: most voxels of a patch, by number of axes.
        batch: voxels a batch aims at, by number of axes.
        first_features, most_features: channels of the first stage, and the most of any, by number of axes.
        most_stages: resolutions.
    """

    patch: Mapping[int, int]
    batch: Mapping[int, int]
    first_features: int
    most_features: Mapping[int, int]
    most_stages: int


# Measured on one core with bfloat16: 0.2 s a step at 2 x 40x56x40 voxels and features 16 to 128.
CPU = Hardware({2: 256**2, 3: 112_000}, {2: 4 * 256**2, 3: 180_000}, 16, {2: 128, 3: 128}, 6)
# nnU-Net's own sizes for 8 to 12 GB.
GPU = Hardware({2: 512**2, 3: 128**3}, {2: 12 * 512**2, 3: 2 * 128**3}, 32, {2: 512, 3: 320}, 7)


@dataclass(frozen=True)
class Normalisation:
    """How one channel's values become network input.

    Attributes:
        kind: `ct` clips to [lower, upper] and uses the data set's mean and std; `zscore` uses the case's own;
            `rgb` divides by 255.
        nonzero_only: for `zscore`: statistics over, and change of, voxels that are not 0.
    """

    kind: Literal["ct", "zscore", "rgb"]
    lower: float = 0.0
    upper: float = 0.0
    mean: float = 0.0
    std: float = 1.0
    nonzero_only: bool = False


@dataclass(frozen=True)
class Plan:
    """Everything that shapes network and preparation; the same for all members.

    Attributes:
        spacing_mm: model voxel edges in canonical axis order (R, A, S; pictures: x, y in pixels).
        patch: window in model voxels, divisible by the product of the strides.
        batch: patches in a training step.
        kernels, strides: per stage and axis; the first stride is 1.
        features: channels per stage.
        normalisation: per image channel.
        mirror_axes: axes along which a training patch may be mirrored.
        classes: number of classes, background included.
        um_per_px: edge of a pixel in micrometres where the training pictures were cut from slides; None elsewhere. A
            network with it can be asked about slides.
        norm: what normalises between the layers: `instance`, or `batch`, with statistics that belong to a place and
            can be estimated anew at another (see `adabn`).
        stain: strength of the variation of stains in training (see `stain.vary_stain`); 0 leaves them as they are.
    """

    spacing_mm: tuple[float, ...]
    patch: tuple[int, ...]
    batch: int
    kernels: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    features: tuple[int, ...]
    normalisation: tuple[Normalisation, ...]
    mirror_axes: tuple[int, ...]
    classes: int
    um_per_px: float | None = None
    norm: Literal["instance", "batch"] = "instance"
    stain: float = 0.0

    def __post_init__(self) -> None:
        stages = {len(self.kernels), len(self.strides), len(self.features)}
        if len(stages) != 1 or min(stages) < FEWEST_STAGES:
            raise BadInputError(
                f"a plan has kernels, strides and features for the same {FEWEST_STAGES} stages or more, got "
                f"{len(self.kernels)}, {len(self.strides)} and {len(self.features)}"
            )
        if len(self.spacing_mm) != len(self.patch) or any(
            len(row) != len(self.patch) for row in (*self.kernels, *self.strides)
        ):
            raise BadInputError(
                f"a plan's spacing, kernels and strides have {len(self.patch)} axes as its patch"
            )
        divisor = np.prod(np.array(self.strides), axis=0)
        if (np.array(self.patch) % divisor).any() or min(self.patch) < 1:
            raise BadInputError(
                f"patch {self.patch} is not divisible by {tuple(divisor.tolist())}, the product of the strides"
            )
        if self.batch < 1:
            raise BadInputError(f"a plan's batch is {self.batch}, expected at least 1")
        if self.um_per_px is not None:
            PixelSize(self.um_per_px)
        if self.norm not in ("instance", "batch"):
            raise BadInputError(f"a plan's norm is {self.norm!r}, expected instance or batch")
        if not 0 <= self.stain <= 1:
            raise BadInputError(
                f"a plan's stain is {self.stain}, expected 0 (off), 0.05 (light) to 0.2 (strong)"
            )
        if self.stain > 0 and not self.is_rgb:
            kinds = ", ".join(rule.kind for rule in self.normalisation)
            raise BadInputError(
                f"stains vary in RGB pictures only: stain is {self.stain}, and the channels are normalised as {kinds}; "
                "name them R, G and B, or leave stain at 0"
            )

    @property
    def axes(self) -> int:
        """2 for pictures, 3 for volumes."""
        return len(self.patch)

    @property
    def is_rgb(self) -> bool:
        """Whether the network sees red, green and blue, each from 0 to 1."""
        return [rule.kind for rule in self.normalisation] == ["rgb"] * 3

    @property
    def supervised(self) -> int:
        """Resolutions that get a loss: all but the bottleneck's."""
        return len(self.strides) - 1

    def to_json(self) -> dict[str, Any]:
        """Plain JSON for `ensemble.json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Plan:
        """The inverse of `to_json`; keys that are not the plan's own are left alone, younger ones may be absent."""
        own = {
            field.name: _frozen(values[field.name])
            for field in fields(cls)
            if field.name in values or field.default is MISSING
        }
        own["normalisation"] = tuple(Normalisation(**rule) for rule in values["normalisation"])
        return cls(**own)


def make_plan(
    fingerprint: Fingerprint, hardware: Hardware = CPU, overrides: Mapping[str, Any] | None = None
) -> Plan:
    """Plan the network.

    Args:
        fingerprint: facts about the training cases.
        hardware: `CPU` or `GPU`.
        overrides: fields of `Plan` that are already decided. A new `patch` or `spacing_mm` is planned with.

    Raises:
        BadInputError: an override names no field, or does not fit the rest.
    """
    decided: dict[str, Any] = {name: _frozen(value) for name, value in (overrides or {}).items()}
    known = [field.name for field in fields(Plan)]
    if unknown := sorted(decided.keys() - set(known)):
        raise BadInputError(f"a plan has no {unknown[0]!r}; it has {', '.join(known)}")
    if "normalisation" in decided:
        decided["normalisation"] = tuple(
            rule if isinstance(rule, Normalisation) else Normalisation(**rule)
            for rule in decided["normalisation"]
        )
    spacing = decided.get("spacing_mm") or target_spacing(fingerprint)
    median = _median_shape(fingerprint, spacing)
    if "patch" in decided:
        patch, kernels, strides = topology(decided["patch"], spacing, hardware.most_stages)
        if patch != decided["patch"] and "strides" not in decided:
            raise BadInputError(f"patch {decided['patch']} does not suit the strides; the nearest is {patch}")
    else:
        patch, kernels, strides = _largest_patch(median, spacing, hardware)
    planned: dict[str, Any] = {
        "spacing_mm": spacing,
        "patch": patch,
        "batch": _batch(fingerprint, patch, median, hardware),
        "kernels": kernels,
        "strides": strides,
        "normalisation": normalisation_for(fingerprint),
        "mirror_axes": _mirror_axes(fingerprint),
        "classes": len(fingerprint.classes),
        "um_per_px": fingerprint.um_per_px,
    } | decided
    rules = [rule.kind for rule in planned["normalisation"]]
    if planned["um_per_px"] is not None and rules == ["rgb"] * 3:
        planned.setdefault("stain", LIGHT_STAIN)
    stages = len(planned["strides"])
    features = tuple(
        min(hardware.first_features * 2**i, hardware.most_features[fingerprint.axes]) for i in range(stages)
    )
    planned.setdefault("features", features)
    return Plan(**planned)


def target_spacing(fingerprint: Fingerprint) -> tuple[float, ...]:
    """Median spacing; a coarse axis gets its 10th percentile, never finer than the others."""
    spacings = np.array(fingerprint.spacings_mm)
    shapes = np.array(fingerprint.shapes)
    target = np.median(spacings, axis=0)
    if fingerprint.axes == 3:
        coarse = int(target.argmax())
        others = [axis for axis in range(3) if axis != coarse]
        size = np.median(shapes, axis=0)
        if target[coarse] > COARSE * target[others].max() and size[coarse] * COARSE < size[others].min():
            target[coarse] = max(np.percentile(spacings[:, coarse], COARSE_PERCENTILE), target[others].max())
    return tuple(round(float(value), 6) for value in target)


def topology(
    patch: tuple[int, ...], spacing: tuple[float, ...], most_stages: int
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
    """Strides and kernels for a patch, and the patch grown until every stride divides it.

    An axis is halved while its edge stays at `SMALLEST_EDGE` or more, and only together with axes of about its
    spacing: one that is twice as coarse as the finest waits. Kernels span 3 voxels along an axis once its
    spacing is within a factor 2 of the finest, 1 before.
    """
    edge = np.array(patch, dtype=float)
    here = np.array(spacing, dtype=float)
    kernels: list[tuple[int, ...]] = []
    strides: list[tuple[int, ...]] = [(1,) * len(patch)]
    wide = np.zeros(len(patch), dtype=bool)
    while True:
        wide |= (here / here.min() < 2) & (np.array(patch) > 1)
        kernels.append(tuple(3 if w else 1 for w in wide))
        can = edge >= 2 * SMALLEST_EDGE
        if not can.any() or len(strides) == most_stages:
            break
        halve = can & (here / here[can].min() < 2)
        strides.append(tuple(2 if h else 1 for h in halve))
        edge = np.where(halve, np.ceil(edge / 2), edge)
        here = np.where(halve, here * 2, here)
    while len(strides) < FEWEST_STAGES:
        strides.append((1,) * len(patch))
        kernels.append(kernels[-1])
    divisor = np.prod(np.array(strides), axis=0)
    grown = tuple(int(-(-n // d) * d) for n, d in zip(patch, divisor, strict=True))
    return grown, tuple(kernels), tuple(strides)


def normalisation_for(fingerprint: Fingerprint) -> tuple[Normalisation, ...]:
    """By the channel's name: `CT`; `R`, `G`, `B`; anything else is scaled case by case."""
    masked = fingerprint.nonzero_share < MOSTLY_BACKGROUND
    rules = []
    for name, seen in zip(fingerprint.channels, fingerprint.intensities, strict=True):
        if name.strip().upper() == "CT":
            rules.append(Normalisation("ct", seen.percentile_00_5, seen.percentile_99_5, seen.mean, seen.std))
        elif name.strip().upper() in ("R", "G", "B", "RED", "GREEN", "BLUE", "RGB_TO_0_1"):
            rules.append(Normalisation("rgb"))
        else:
            rules.append(Normalisation("zscore", nonzero_only=masked))
    return tuple(rules)


def _largest_patch(
    median: tuple[int, ...], spacing: tuple[float, ...], hardware: Hardware
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
    """The median case where it fits; else cut down, always along the axis that sees the largest share of it."""
    wanted = list(median)
    limit = hardware.patch[len(median)]
    while True:
        patch, kernels, strides = topology(tuple(wanted), spacing, hardware.most_stages)
        if np.prod(patch) <= limit:
            return patch, kernels, strides
        axis = int(np.argmax([n / m * (n > SMALLEST_EDGE) for n, m in zip(wanted, median, strict=True)]))
        divisor = int(np.prod([row[axis] for row in strides]))
        wanted[axis] = max(SMALLEST_EDGE, patch[axis] - max(divisor, 1))


def _median_shape(fingerprint: Fingerprint, spacing: tuple[float, ...]) -> tuple[int, ...]:
    sizes_mm = np.array(fingerprint.shapes) * np.array(fingerprint.spacings_mm)
    return tuple(max(1, round(float(n))) for n in np.median(sizes_mm / np.array(spacing), axis=0))


def _batch(
    fingerprint: Fingerprint, patch: tuple[int, ...], median: tuple[int, ...], hardware: Hardware
) -> int:
    by_cost = hardware.batch[len(patch)] // int(np.prod(patch))
    by_data = int(BATCH_SHARE * np.prod(median) * len(fingerprint.shapes) / np.prod(patch))
    return max(2, min(by_cost, by_data))


def _mirror_axes(fingerprint: Fingerprint) -> tuple[int, ...]:
    """Pictures have no up; a body may be mirrored left to right unless a class says which side it is."""
    if fingerprint.axes == 2:
        return (0, 1)
    sided = any(word in name.lower() for name in fingerprint.classes for word in ("left", "right"))
    return () if sided else (0,)


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, (list, tuple)) else value
