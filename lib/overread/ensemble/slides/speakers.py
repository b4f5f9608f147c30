"""The members in front of a slide's windows: what they may be asked, what they see, what they say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F
from torch.special import entr

from overread.domain import BadInputError, PixelSize
from overread.ensemble.compute import Precision, autocast_for
from overread.ensemble.ensemble import Ensemble
from overread.ensemble.slides.lattice import Lattice
from overread.imaging.slides.normalised import normalised
from overread.imaging.slides.slide import Slide

# The first member's entropy is averaged over squares of so many pixels, so that one pixel alone calls nobody.
SMOOTH_PX = 8


def pixel_size_of(ensemble: Ensemble) -> PixelSize:
    """The members' pixel on slides.

    Raises:
        BadInputError: they were not trained on slides, or do not look at coloured pictures.
    """
    if ensemble.um_per_px is None or ensemble.colours is None:
        raise BadInputError(
            f"{ensemble.name} cannot be asked about slides: it does not say how many micrometres its pixels have; "
            "was it trained on pictures cut from slides (dataset.json: um_per_px)?"
        )
    if len(ensemble.patch) != 2 or len(ensemble.channels) != 3:
        raise BadInputError(
            f"{ensemble.name} looks at {len(ensemble.patch)}-D windows of {len(ensemble.channels)} channels, a slide "
            "is a picture of three: R, G and B"
        )
    return PixelSize(ensemble.um_per_px)


def as_seen(slide: Slide, ensemble: Ensemble) -> Slide:
    """The slide in the colours that the ensemble's members know, where they were trained on one laboratory's."""
    return normalised(slide, ensemble.reference, pixel_size_of(ensemble))


def lattice_of(slide: Slide, ensemble: Ensemble, cell: PixelSize, step: float | None = None) -> Lattice:
    """Where the ensemble's windows lie on a slide; `step` replaces the ensemble's own."""
    patch = (ensemble.patch[0], ensemble.patch[1])
    pixel = pixel_size_of(ensemble)
    return Lattice.over(slide.size_px, slide.pixel_size, pixel, patch, step or ensemble.step, cell)


class Speakers:
    """Some members of an ensemble on one device.

    Attributes:
        evaluations: windows times members that looked at them, so far.
    """

    def __init__(
        self, ensemble: Ensemble, members: int | None, precision: Precision, device: torch.device | str
    ) -> None:
        pixel_size_of(ensemble)
        if members is not None and not 1 <= members <= len(ensemble.members):
            raise BadInputError(
                f"{ensemble.name} has {len(ensemble.members)} members, {members} were asked for"
            )
        self._ensemble = ensemble
        self._members = list(ensemble.members[:members])
        self._precision: Precision = precision
        self.device = torch.device(device)
        self.evaluations = 0
        assert ensemble.colours is not None
        self._colours = ensemble.colours

    def __len__(self) -> int:
        return len(self._members)

    def see(self, windows: np.ndarray) -> torch.Tensor:
        """Windows `(window, row, column, 3)` uint8 as the members want them: `(window, 3, x, y)`."""
        pictures = torch.from_numpy(windows).to(self.device, non_blocking=True)
        return self._colours(pictures.permute(0, 3, 2, 1)).contiguous(memory_format=torch.channels_last)

    def say(self, seen: torch.Tensor, members: slice) -> torch.Tensor:
        """Logits `(member, window, class, row, column)` float32."""
        asked = self._members[members]
        self.evaluations += len(asked) * len(seen)
        with autocast_for(self.device, self._precision):
            logits = torch.stack([member(seen) for member in asked])
        return logits.float().transpose(-1, -2)

    def doubt(self, logits: torch.Tensor, cores: Sequence[tuple[slice, slice]]) -> torch.Tensor:
        """How unsure one member is of each window: the largest smoothed entropy in its core, in nat.

        Args:
            logits: `(window, class, row, column)`.
            cores: rows and columns of each window's core.
        """
        opinion = torch.softmax(logits / self._ensemble.calibration.temperature, dim=1)
        entropy = entr(opinion).sum(dim=1)
        largest = []
        for window, core in zip(entropy, cores, strict=True):
            field = window[core]
            square = min(SMOOTH_PX, *field.shape)
            smooth = F.avg_pool2d(field[None], square, stride=max(1, square // 2), ceil_mode=True)
            largest.append(smooth.amax())
        return torch.stack(largest)
