"""A champion without networks: members cut the image's intensities at slightly different values.

For phantoms, for trying the server and for teaching: what it answers can be checked by hand, it needs no
training and it speaks at once. `ensemble.json` holds the whole of it in `plan`:

    {"cuts": [50, 100], "offsets": [0, 5, -5], "sharpness": 1.0, "patch": [64, 64, 64]}

`cuts` are the intensities where class 1, 2, … begin; member m moves all of them up by `offsets[m]`. For slides and
coloured pictures there are two more keys, `"um_per_px": 1.0` and `"weights": [0.5, 0.5, 0]`: the intensity is the sum
of weight times channel, red, green and blue being 0 to 255.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from overread.domain import BadInputError, PixelSize
from overread.ensemble.ensemble import Calibration, Ensemble, Prepared
from overread.ensemble.storage import (
    KINDS,
    calibration_from_json,
    calibration_to_json,
    write_description,
)
from overread.imaging.volumes import Volume

KIND = "threshold"
DEFAULT_PATCH = (64, 64, 64)


@dataclass(frozen=True)
class ThresholdMember:
    """Logits that grow with the distance from the nearest cut.

    Class c begins at `cuts[c - 1]` and ends before `cuts[c]`; its logit is `sharpness` times the distance to the
    nearer of its ends, negative outside. On a cut itself the two neighbours tie, and the lower class is taken.
    """

    cuts: tuple[float, ...]
    sharpness: float
    weights: tuple[float, ...] = (1.0,)

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        """`(batch, channel, *patch)`, as many channels as weights, to logits `(batch, class, *patch)`."""
        parts = [weight * windows[:, channel].float() for channel, weight in enumerate(self.weights)]
        intensity = torch.stack(parts).sum(dim=0)
        logits = []
        for index in range(len(self.cuts) + 1):
            margins = []
            if index > 0:
                margins.append(intensity - self.cuts[index - 1])
            if index < len(self.cuts):
                margins.append(self.cuts[index] - intensity)
            logits.append(torch.stack(margins).amin(dim=0))
        return self.sharpness * torch.stack(logits, dim=1)


def write_threshold_ensemble(
    folder: Path,
    name: str,
    classes: Sequence[str],
    cuts: Sequence[float],
    offsets: Sequence[float] = (0.0,),
    *,
    sharpness: float = 1.0,
    patch: Sequence[int] = DEFAULT_PATCH,
    calibration: Calibration | None = None,
    um_per_px: float | None = None,
    weights: Sequence[float] | None = None,
) -> str:
    """Write an ensemble folder of this kind.

    Args:
        classes: names, the background first; one more than `cuts`.
        cuts: rising intensities.
        offsets: one per member.
        um_per_px: makes it an ensemble for slides, with `weights` of red, green and blue.

    Returns:
        The ensemble's identity.

    Raises:
        BadInputError: the cuts do not fit the classes or do not rise, there is no member, or the weights do not fit.
    """
    plan: dict[str, Any] = {
        "cuts": [float(c) for c in cuts],
        "offsets": [float(o) for o in offsets],
        "sharpness": float(sharpness),
        "patch": [int(n) for n in patch],
    }
    if um_per_px is not None:
        plan["um_per_px"] = float(um_per_px)
    if weights is not None:
        plan["weights"] = [float(weight) for weight in weights]
    channels = ["image"] if weights is None else ["R", "G", "B"]
    _check_plan(name, plan, len(classes))
    folder.mkdir(parents=True, exist_ok=True)
    return write_description(
        folder,
        {
            "kind": KIND,
            "name": name,
            "classes": list(classes),
            "channels": channels,
            "plan": plan,
            "members": [],
            "calibration": calibration_to_json(calibration or Calibration()),
        },
    )


def prepare_unchanged(volume: Volume) -> Prepared:
    """The volume as it is, on its own grid."""
    axes = len(volume.grid.shape)
    return Prepared(
        voxels=torch.from_numpy(volume.voxels),
        input_grid=volume.grid,
        axes=tuple(range(axes)),
        flips=(False,) * axes,
        crop=tuple((0, n) for n in volume.grid.shape),
        interpolation=("nearest",) * axes,
    )


def _prepare_for(name: str, patch: tuple[int, ...]) -> Callable[[Volume], Prepared]:
    def prepare(volume: Volume) -> Prepared:
        if len(volume.grid.shape) != len(patch):
            raise BadInputError(
                f"{name} looks at {len(patch)}-D windows, the image is {len(volume.grid.shape)}-D {volume.grid.shape}"
            )
        return prepare_unchanged(volume)

    return prepare


def _check_plan(name: str, plan: dict[str, Any], classes: int) -> None:
    if len(plan["cuts"]) != classes - 1 or sorted(set(plan["cuts"])) != plan["cuts"]:
        raise BadInputError(
            f"threshold ensemble {name}: {classes} classes need {classes - 1} rising cuts, got {plan['cuts']}"
        )
    if not plan["offsets"]:
        raise BadInputError(f"threshold ensemble {name} has no offsets: it needs one per member")
    weights = plan.get("weights")
    if weights is not None and (len(weights) != 3 or len(plan["patch"]) != 2):
        raise BadInputError(
            f"threshold ensemble {name}: colours need three weights (R, G, B) and a 2-D patch, "
            f"got {weights} and {plan['patch']}"
        )
    if plan.get("um_per_px") is not None:
        PixelSize(plan["um_per_px"])
        if weights is None:
            raise BadInputError(
                f"threshold ensemble {name}: slides need weights of R, G and B beside um_per_px"
            )


@KINDS.register(KIND)
def load_threshold(folder: Path, description: dict[str, Any], device: torch.device) -> Ensemble:
    """The loader of this kind; the members work on any device, so `device` does not matter."""
    plan = description["plan"]
    _check_plan(description["name"], plan, len(description["classes"]))
    return Ensemble(
        name=description["name"],
        classes=tuple(description["classes"]),
        channels=tuple(description["channels"]),
        members=[
            ThresholdMember(
                tuple(cut + offset for cut in plan["cuts"]),
                plan["sharpness"],
                tuple(plan.get("weights", (1.0,))),
            )
            for offset in plan["offsets"]
        ],
        patch=tuple(plan["patch"]),
        prepare=_prepare_for(description["name"], tuple(plan["patch"])),
        calibration=calibration_from_json(description["calibration"]),
        identity=description["identity"],
        folder=folder,
        um_per_px=plan.get("um_per_px"),
        colours=torch.Tensor.float if plan.get("weights") else None,
    )
