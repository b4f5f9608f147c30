"""What a clinician said is honoured, whatever the networks make of it.

A voxel that was clicked has the side that was said. A candidate that was picked is what is shown next; after that, what
it changed stays until a click contradicts it.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import ndimage

from overread.domain import BadInputError
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


@dataclass(frozen=True, eq=False)
class Choice:
    """What picked candidates decided.

    Attributes:
        region: where they changed what was shown, boolean `(*space)`.
        mask: the candidate that was picked last, boolean `(*space)`.
        is_latest: nothing was clicked since, so that all of the mask is shown; else only the region.
    """

    region: torch.Tensor
    mask: torch.Tensor
    is_latest: bool = True

    @property
    def given(self) -> torch.Tensor:
        """The voxels that the picks gave the structure, boolean `(*space)`."""
        return self.mask if self.is_latest else self.region & self.mask

    def contradicted(self, at: Click) -> Choice:
        """The choice after a click: the connected part of the region that has the other side there is given up."""
        region = self.region
        if bool(region[at.place]) and bool(self.mask[at.place]) != at.foreground:
            parts = np.zeros(region.shape, np.int32)
            ndimage.label(region.cpu().numpy(), output=parts)
            region = region & torch.from_numpy(parts != parts[at.place]).to(region.device)
        return replace(self, region=region, is_latest=False)

    def packed(self) -> str:
        """As text, a bit a voxel, compressed."""
        bits = [np.packbits(part.cpu().numpy()) for part in (self.region, self.mask)]
        flag = np.array([self.is_latest], np.uint8)
        return base64.b85encode(zlib.compress(np.concatenate([flag, *bits]).tobytes(), 6)).decode()

    @classmethod
    def unpacked(cls, text: str, shape: tuple[int, ...], device: torch.device | str = "cpu") -> Choice:
        """The inverse of `packed`. Raises BadInputError where the text is not of an image of that many voxels."""
        voxels = int(np.prod(shape))
        try:
            values = np.frombuffer(zlib.decompress(base64.b85decode(text)), np.uint8)
            region, mask = values[1:].reshape(2, (voxels + 7) // 8)
        except (ValueError, zlib.error) as error:
            raise BadInputError(
                f"what was picked in this session is not of an image of {list(shape)} voxels"
            ) from error
        parts = (np.unpackbits(part, count=voxels).reshape(shape).astype(bool) for part in (region, mask))
        first, second = (torch.from_numpy(part).to(device) for part in parts)
        return cls(first, second, bool(values[0]))


def honour_choice(logits: torch.Tensor, choice: Choice) -> torch.Tensor:
    """Give voxels the side of what was picked: all right after it, later those that it changed.

    A logit of the other side becomes the smallest of the right one, so that the map of what is sure stays.
    """
    sign = torch.where(choice.mask, 1.0, -1.0).to(logits)
    sided = sign * (sign * logits).clamp_min(LEAST_LOGIT)
    return sided if choice.is_latest else torch.where(choice.region, sided, logits)


def _correct(logits: torch.Tensor, click: Click) -> None:
    sign = 1.0 if click.foreground else -1.0
    missing = LEAST_LOGIT - sign * float(logits[click.place])
    if missing <= 0:
        return
    box, bump = bump_at(click.place, REACH_VOXEL, logits)
    logits[box] += sign * missing * bump


def bump_at(
    place: tuple[int, ...], reach: float, like: torch.Tensor
) -> tuple[tuple[slice, ...], torch.Tensor]:
    """A Gaussian with 1 at a voxel and a standard deviation of `reach` voxels, cut off at three of those.

    Args:
        like: `(*space)`, the image.

    Returns:
        The box of the image that it fills, and its values there.
    """
    edge = int(3 * reach)
    box = tuple(
        slice(max(0, at - edge), min(size, at + edge + 1)) for at, size in zip(place, like.shape, strict=True)
    )
    bump = torch.ones([], device=like.device)
    for part, at in zip(box, place, strict=True):
        offset = torch.arange(part.start, part.stop, device=like.device, dtype=torch.float32) - at
        bump = bump[..., None] * torch.exp(-0.5 * (offset / reach) ** 2)
    return box, bump
