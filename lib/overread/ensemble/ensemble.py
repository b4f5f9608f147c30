"""An ensemble ready to speak: members, how to prepare a volume for them, and how to go back to its grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from overread.domain import Grid
from overread.imaging.volumes import Volume
from overread.imaging.windows import Interpolation
from overread.uncertainty.calibration import Calibration, DoubtBands

__all__ = ["Calibration", "DoubtBands", "Ensemble", "Interpolation", "KindsOfDoubt", "Member", "Prepared"]


class Member(Protocol):
    """One network, fold or augmentation: windows in, logits out."""

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        """`(batch, channel, *patch)` to logits `(batch, class, *patch)`; no activation applied."""
        ...


@dataclass(frozen=True, eq=False)
class Prepared:
    """A volume as the members want to see it, with the way back.

    The way: permute the input's axes (`axes`), flip some (`flips`), cut out the box `crop`, normalise, resample
    to the model's spacing. Going back runs it in reverse; outside `crop` there is background only.

    Attributes:
        voxels: `(channel, *model_space)` float32, resampled and normalised.
        input_grid: the grid of the input, in its own axis order.
        axes: model axis `a` runs along input axis `axes[a]`.
        flips: whether model axis `a` runs against that input axis.
        crop: box in the permuted, flipped input (before resampling), one `(start, stop)` an axis.
        interpolation: per model axis, how logits return to the box's voxels; `nearest` across thick slices.
    """

    voxels: torch.Tensor
    input_grid: Grid
    axes: tuple[int, ...]
    flips: tuple[bool, ...]
    crop: tuple[tuple[int, int], ...]
    interpolation: tuple[Interpolation, ...]


@dataclass(frozen=True)
class KindsOfDoubt:
    """How an ensemble tells kinds of doubt apart wherever its members speak.

    Attributes:
        names: of the kinds.
        split: from the logits `(member, class, *space)` of all members, or of the first few, divided by the
            temperature, to how much of the doubt is of each kind, `(kind, *space)`, at least 0.
    """

    names: tuple[str, ...]
    split: Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Members that share one way of seeing a volume.

    Attributes:
        name: the recipe's name.
        classes: names in channel order; the first is the background.
        channels: names of the image channels.
        members: the networks, evaluated one after the other on each window.
        patch: window size in model voxels, as many axes as the model has.
        prepare: from a volume to what the members see.
        step: distance of neighbouring windows as a share of the patch (nnU-Net uses 0.5).
        calibration: temperature and bands.
        identity: sha256 (hexadecimal) over weights and plan; the champion's hash.
        folder: where it was loaded from.
        metadata: anything else the kind wants to tell `/info/`; plain JSON.
        um_per_px: edge of the members' pixels on slides, in micrometres; None where they know no slides.
        colours: RGB 0..255 `(batch, 3, *patch)` to what the members see of a slide's window; None where they know none.
        reference: moments `(3, 3)` of the colours in which slides are shown to the members (see
            `imaging.slides.colours`); None: as they are.
        asked_by: the measure by whose doubt the queue asks for labels. Of all, predictive entropy asked best in
            comparisons of strategies (nnActive, arXiv:2511.19183).
        differ_by_style: the members are draws of one network, and where they differ it is a matter of style, which a
            label does not settle.
        doubt_parts: of a volume, how much doubt is of what kind, by name; it may be given a function that is told the
            share done, and raises to cancel. None where nobody can tell them apart.
        kinds: the same pixel by pixel, from what the members say; None where nobody can tell them apart.
    """

    name: str
    classes: tuple[str, ...]
    channels: tuple[str, ...]
    members: Sequence[Member]
    patch: tuple[int, ...]
    prepare: Callable[[Volume], Prepared]
    step: float = 0.5
    calibration: Calibration = field(default_factory=Calibration)
    identity: str = ""
    folder: Path | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    um_per_px: float | None = None
    colours: Callable[[torch.Tensor], torch.Tensor] | None = None
    reference: np.ndarray | None = None
    asked_by: str = "predictive_entropy"
    differ_by_style: bool = False
    doubt_parts: Callable[[Volume, Callable[[float], None] | None], dict[str, float]] | None = None
    kinds: KindsOfDoubt | None = None
