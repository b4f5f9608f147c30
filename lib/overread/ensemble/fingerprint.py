"""What a dataset looks like: sizes, spacings and intensities, from which the network is planned.

Isensee et al. 2021 (nnU-Net, Nature Methods 18:203), "dataset fingerprint".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from overread.domain import BadInputError
from overread.domain.labels import IGNORE
from overread.ensemble.orientation import canonical_axes, nonzero_box, to_canonical
from overread.imaging.dataset import Dataset
from overread.imaging.volumes import Volume, read_label_of, read_volume

# Foreground voxels drawn per case for the intensity statistics: enough for a 0.5 % percentile.
SAMPLES_PER_CASE = 10_000


@dataclass(frozen=True)
class Intensities:
    """Foreground intensities of one channel over all cases, in the units of the file."""

    mean: float
    std: float
    percentile_00_5: float
    percentile_99_5: float


@dataclass(frozen=True)
class Fingerprint:
    """Facts about the training cases.

    Attributes:
        shapes: voxels per case after the crop to non-zero, in canonical axis order.
        spacings_mm: voxel edges per case, in canonical axis order.
        intensities: per channel.
        nonzero_share: median share of the volume that the non-zero box keeps.
        classes, channels: names.
        um_per_px: of pictures that were cut from slides (see `Dataset`).
    """

    shapes: tuple[tuple[int, ...], ...]
    spacings_mm: tuple[tuple[float, ...], ...]
    intensities: tuple[Intensities, ...]
    nonzero_share: float
    classes: tuple[str, ...]
    channels: tuple[str, ...]
    um_per_px: float | None = None

    @property
    def axes(self) -> int:
        """2 for pictures, 3 for volumes."""
        return len(self.shapes[0])


def take_fingerprint(
    dataset: Dataset, rng: np.random.Generator, progress: Callable[[int, int], None] | None = None
) -> Fingerprint:
    """Read each case once. The dataset must be sound (`imaging.dataset.ensure_sound`).

    Raises:
        BadInputError: no case holds foreground.
    """

    def read() -> Iterable[tuple[Volume, np.ndarray]]:
        for case in dataset.cases:
            volume = read_volume(case.channels)
            yield volume, read_label_of(case.label, volume.grid)

    told = None if progress is None else lambda done: progress(done, len(dataset.cases))
    return fingerprint_of(
        read(), rng, dataset.name, dataset.classes, dataset.channels, dataset.um_per_px, progress=told
    )


def fingerprint_of(
    cases: Iterable[tuple[Volume, np.ndarray]],
    rng: np.random.Generator,
    name: str,
    classes: tuple[str, ...],
    channels: tuple[str, ...],
    um_per_px: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> Fingerprint:
    """The same of cases that come one after the other.

    Args:
        cases: images, and class indices `(*space)`.
        name: of the data set.
        progress: hears how many cases were measured.

    Raises:
        BadInputError: no case holds foreground.
    """
    shapes, spacings, shares, samples = [], [], [], []
    for index, (volume, labels) in enumerate(cases):
        axes, flips = canonical_axes(volume.grid)
        box = nonzero_box(to_canonical(volume.voxels, axes, flips))
        shapes.append(tuple(stop - start for start, stop in box))
        spacings.append(tuple(volume.grid.spacing_mm[a] for a in axes))
        shares.append(np.prod(shapes[-1]) / labels.size)
        foreground = volume.voxels[:, (labels > 0) & (labels != IGNORE)]
        chosen = rng.choice(
            foreground.shape[1], size=min(SAMPLES_PER_CASE, foreground.shape[1]), replace=False
        )
        samples.append(foreground[:, chosen])
        if progress is not None:
            progress(index + 1)
    values = np.concatenate(samples, axis=1).astype(np.float64)
    if not values.size:
        raise BadInputError(f"no case of {name} holds foreground: there is nothing to learn")
    return Fingerprint(
        shapes=tuple(shapes),
        spacings_mm=tuple(spacings),
        intensities=tuple(_intensities(channel) for channel in values),
        nonzero_share=float(np.median(shares)),
        classes=classes,
        channels=channels,
        um_per_px=um_per_px,
    )


def _intensities(values: np.ndarray) -> Intensities:
    low, high = np.percentile(values, (0.5, 99.5))
    return Intensities(float(values.mean()), float(values.std()), float(low), float(high))
