"""Every click is honoured: the voxel that was clicked has the side that the clinician said."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from overread.meduhip.prompts import Click

# How far round a click its correction reaches, in voxels, and the logit that the clicked voxel has at least.
REACH_VOXEL = 3.0
LEAST_LOGIT = 0.5


def honour(logits: torch.Tensor, clicks: Sequence[Click]) -> torch.Tensor:
    """Move logits `(*space)` round clicks that they contradict, as little as is needed.

    The correction is a Gaussian bump, largest at the click and shared with its neighbourhood; later clicks come last,
    and what an earlier click said at its own voxel is restored after them, the latest winning where two clicks name the
    same voxel.

    Returns:
        New logits; the argument stays as it is.
    """
    corrected = logits.clone()
    for click in clicks:
        _correct(corrected, click)
    said = {click.place: click.foreground for click in clicks}
    for place, foreground in said.items():
        if (float(corrected[place]) > 0) != foreground:
            corrected[place] = LEAST_LOGIT if foreground else -LEAST_LOGIT
    return corrected


def _correct(logits: torch.Tensor, click: Click) -> None:
    sign = 1.0 if click.foreground else -1.0
    missing = LEAST_LOGIT - sign * float(logits[click.place])
    if missing <= 0:
        return
    reach = int(3 * REACH_VOXEL)
    box = tuple(
        slice(max(0, at - reach), min(size, at + reach + 1))
        for at, size in zip(click.place, logits.shape, strict=True)
    )
    squared = torch.zeros([], device=logits.device)
    for axis, (part, at) in enumerate(zip(box, click.place, strict=True)):
        offset = torch.arange(part.start, part.stop, device=logits.device, dtype=torch.float32) - at
        squared = squared + (offset**2).reshape([-1 if a == axis else 1 for a in range(logits.ndim)])
    logits[box] += sign * missing * torch.exp(-0.5 * squared / REACH_VOXEL**2)
