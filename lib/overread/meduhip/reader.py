"""A trained MedUHIP model at work on images: the way to its voxels and back, large images in windows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from overread.domain import BadInputError
from overread.ensemble.ensemble import Prepared
from overread.ensemble.plan import Plan
from overread.ensemble.prediction import to_input_grid
from overread.ensemble.preparation import prepare
from overread.imaging.volumes import Volume
from overread.imaging.windows import AxisInterpolation, gaussian_weight, window_starts
from overread.meduhip.backend import Cache
from overread.meduhip.configuration import SAM
from overread.meduhip.network import MedUHIP
from overread.meduhip.prompts import Click, Prompts, to_dense
from overread.uncertainty.calibration import Calibration

# An image of more voxels is encoded and decoded in windows; by number of axes. For `sam` it is the plan's patch.
LARGEST_WHOLE: dict[int, int] = {2: 1024**2, 3: 160 * 160 * 96}
WINDOW: dict[int, int] = {2: 512, 3: 96}
WINDOW_STEP = 0.75


@dataclass(frozen=True, eq=False)
class Window:
    """One part of a large image: where it lies, and its features."""

    place: tuple[slice, ...]
    cache: Cache


@dataclass(frozen=True, eq=False)
class OpenImage:
    """An image that was prepared and encoded.

    Attributes:
        model: that encoded it.
        prepared: the image as the model sees it, and the way back.
        cache: of the whole image; of one in windows, without features.
        windows: the parts of a large image; none where it is encoded as a whole.
    """

    model: MedUHIP
    prepared: Prepared
    cache: Cache
    windows: tuple[Window, ...] = ()

    @property
    def bytes(self) -> int:
        """Memory that is held."""
        voxels = self.prepared.voxels
        held = voxels.numel() * voxels.element_size() + self.cache.bytes
        return held + sum(window.cache.bytes for window in self.windows)

    def decode(self, samples: torch.Tensor, prompts: Prompts, structure: int) -> torch.Tensor:
        """Logits `(1, sample, *space)` in the model's voxels.

        Of a large image each window is decoded with the same samples, so that a sample stays one opinion, and the
        logits are blended where windows overlap.
        """
        if not self.windows:
            return self.model.decode(self.cache, samples, prompts, structure)
        shape = self.cache.shape
        total = torch.zeros(1, samples.shape[1], *shape, device=samples.device)
        weights = torch.zeros(shape, device=samples.device)
        dense = torch.nn.functional.interpolate(
            prompts.dense, size=shape, mode="bilinear" if len(shape) == 2 else "trilinear"
        )
        for window in self.windows:
            corner = torch.tensor([part.start for part in window.place], device=samples.device)
            shifted = Prompts(
                prompts.places - corner,
                prompts.sides,
                to_dense(dense[(slice(None), 0, *window.place)]),
                prompts.has_dense,
            )
            logits = self.model.decode(window.cache, samples, shifted, structure)
            weight = gaussian_weight(window.cache.shape).to(logits)
            total[(slice(None), slice(None), *window.place)] += logits * weight
            weights[window.place] += weight
        return total / weights

    def to_input(self, fields: torch.Tensor) -> torch.Tensor:
        """Fields `(field, *space)` of the model's voxels on the grid of the input; 0 outside what the model sees."""
        box = tuple(stop - start for start, stop in self.prepared.crop)
        for axis, (size, kind) in enumerate(zip(box, self.prepared.interpolation, strict=True), start=1):
            fields = AxisInterpolation(fields.shape[axis], size, kind)(fields, axis)
        return to_input_grid(fields, self.prepared, background=False)

    def click_from_input(self, place: tuple[int, ...], foreground: bool) -> Click:
        """A click on a voxel of the input as one on a voxel of the model.

        Raises:
            BadInputError: the voxel lies outside the image, or where the image is empty and the model sees nothing.
        """
        grid = self.prepared.input_grid
        if len(place) != len(grid.shape) or any(
            not 0 <= n < size for n, size in zip(place, grid.shape, strict=False)
        ):
            raise BadInputError(
                f"a click at {list(place)} lies outside the image of {list(grid.shape)} voxels"
            )
        found = []
        for axis, (source, flipped, (start, stop), size) in enumerate(
            zip(self.prepared.axes, self.prepared.flips, self.prepared.crop, self.cache.shape, strict=True)
        ):
            at = grid.shape[source] - 1 - place[source] if flipped else place[source]
            if not start <= at < stop:
                raise BadInputError(
                    f"a click at {list(place)} lies where the image is empty (axis {axis}); nothing is segmented there"
                )
            found.append(min(size - 1, int((at - start + 0.5) * size / (stop - start))))
        return Click(tuple(found), foreground)

    def input_place(self, place: tuple[int, ...]) -> tuple[int, ...]:
        """The voxel of the input in the middle of a model voxel."""
        grid = self.prepared.input_grid
        found = [0] * len(place)
        for at, source, flipped, (start, stop), size in zip(
            place,
            self.prepared.axes,
            self.prepared.flips,
            self.prepared.crop,
            self.cache.shape,
            strict=True,
        ):
            there = min(stop - 1, start + int((at + 0.5) * (stop - start) / size))
            found[source] = grid.shape[source] - 1 - there if flipped else there
        return tuple(found)


@dataclass(frozen=True, eq=False)
class Reader:
    """A MedUHIP model with what it needs to read images.

    Attributes:
        name: the recipe's name.
        classes: names, the background first; a structure is a class after it.
        channels: names of the image channels.
        model: the networks, in evaluation mode.
        plan: normalisation and spacing.
        identity: sha256 of the folder it came from.
        calibration: temperature and bands of its samples as an ensemble.
        folder: where it was loaded from.
    """

    name: str
    classes: tuple[str, ...]
    channels: tuple[str, ...]
    model: MedUHIP
    plan: Plan
    identity: str
    calibration: Calibration
    folder: Path | None = None

    @torch.no_grad()
    def open(self, volume: Volume, device: torch.device | str = "cpu") -> OpenImage:
        """Prepare and encode an image; what all turns at it start from.

        Raises:
            BadInputError: it has other channels or axes than the model was trained on.
        """
        prepared = self.prepare(volume)
        voxels = prepared.voxels[None].to(device)
        shape = tuple(voxels.shape[2:])
        sizes = self._window(shape)
        if sizes == shape:
            return OpenImage(self.model, prepared, self.model.encode(voxels))
        starts = [window_starts(n, size, WINDOW_STEP) for n, size in zip(shape, sizes, strict=True)]
        windows = []
        for corner in np.stack(np.meshgrid(*starts, indexing="ij"), axis=-1).reshape(-1, len(shape)):
            place = tuple(slice(int(c), int(c) + size) for c, size in zip(corner, sizes, strict=True))
            windows.append(Window(place, self.model.encode(voxels[(slice(None), slice(None), *place)])))
        context = torch.stack([window.cache.context for window in windows]).mean(dim=0)
        whole = Cache(torch.zeros(1, 0, *[1] * len(shape), device=voxels.device), context, shape)
        return OpenImage(self.model, prepared, whole, tuple(windows))

    def _window(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """How much of an image is encoded at a time."""
        if self.model.configuration.backend == SAM:
            # It sees whatever it is given at its own size: what it is to know again must be as large as what it learnt.
            return tuple(min(size, n) for size, n in zip(self.plan.patch, shape, strict=True))
        if int(np.prod(shape)) <= LARGEST_WHOLE[len(shape)]:
            return shape
        return tuple(min(WINDOW[len(shape)], n) for n in shape)

    def prepare(self, volume: Volume) -> Prepared:
        """The image as the model sees it; of a volume with one slice, a model for pictures sees the slice."""
        return prepare(self.plan, volume)
