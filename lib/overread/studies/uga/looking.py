"""What an ensemble says of a case: classes, and the low-power maps that the queue of patches asks by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import torch

from overread.domain import OpinionSums, PixelSize, Region, first_choice
from overread.ensemble.ensemble import Ensemble
from overread.ensemble.prediction import predict
from overread.ensemble.slides.maps import KEPT_MEASURES, SlideMaps
from overread.ensemble.slides.prediction import SlideOptions, predict_slide
from overread.imaging.volumes import read_volume
from overread.studies.uga.sets import StudyCase, StudySet
from overread.uncertainty.measures import MEASURES

ENTROPY = "predictive_entropy"
MM3_OF_ML = 1000.0

# Says which ensemble looks at the cases of a domain.
Looking = Callable[[str], Ensemble]


@dataclass(frozen=True, eq=False)
class Look:
    """One case as an ensemble sees it.

    Attributes:
        labels: classes; `(row, column)` of a picture in the model's pixels, `(*space)` of a volume.
        maps: what the queue reads.
    """

    labels: np.ndarray
    maps: SlideMaps


def look_at(
    ensemble: Ensemble,
    study_set: StudySet,
    case: StudyCase,
    device: torch.device | str,
    step: float,
    windows: int = 1,
) -> Look:
    """All members over a case.

    Args:
        step: distance of neighbouring windows as a share of the window; of volumes the ensemble's own is taken.
        windows: edge of the windows of pictures in the ensemble's own.
    """
    if study_set.axes == 3:
        return _look_at_volume(ensemble, case, device)
    with study_set.open(case) as slide:
        said = predict_slide(
            replace(ensemble, patch=tuple(windows * edge for edge in ensemble.patch)),
            slide,
            tissue=study_set.tissue(slide),
            options=SlideOptions(step=step, batch=8, workers=1),
            device=device,
        )
    return Look(said.labels.read(0, 0, *said.labels.size), said.maps)


def _look_at_volume(ensemble: Ensemble, case: StudyCase, device: torch.device | str) -> Look:
    """A volume is asked about as a whole: its slices side by side make one picture, which is one patch."""
    volume = read_volume((case.image,))
    opinions = [
        predict(replace(ensemble, members=[member]), volume, measures=(), device=device).probabilities
        for member in ensemble.members
    ]
    sums, votes = OpinionSums(), []
    for opinion in opinions:
        sums.add(opinion)
        votes.append(first_choice(opinion))
    mean, drawn = sums.mean, torch.stack(votes)
    pairs = tuple(combinations(range(len(votes)), 2))
    foreground = range(1, len(ensemble.classes))

    def laid_out(field: torch.Tensor) -> np.ndarray:
        """`(..., i, j, k)` as `(..., row, column)` with i down and the slices side by side."""
        lead = field.shape[: field.ndim - 3]
        return field.permute(*range(len(lead)), -3, -1, -2).reshape(*lead, field.shape[-3], -1).half().numpy()

    doubts = {name: MEASURES[name](sums).values for name in KEPT_MEASURES}
    rows, columns = volume.voxels.shape[1], volume.voxels.shape[2] * volume.voxels.shape[3]
    # So that one cell has the area of a cube of the voxel's size seen from above.
    pixel = PixelSize(float(np.prod(volume.grid.spacing_mm)) ** (1 / 3) * 1000)
    maps = SlideMaps(
        slide_size_px=(columns, rows),
        slide_pixel_size=pixel,
        cell=pixel,
        classes=ensemble.classes,
        tissue=np.ones((rows, columns), bool),
        known=np.ones((rows, columns), bool),
        is_coarse=False,
        probability=laid_out(mean),
        maps={name: laid_out(values) for name, values in doubts.items()},
        class_doubt=laid_out(doubts[ENTROPY] * mean[1:]),
        sizes=laid_out(torch.stack([torch.stack([vote == c for c in foreground]) for vote in drawn]).float()),
        overlaps=laid_out(
            torch.stack(
                [
                    torch.stack([(drawn[one] == c) & (drawn[other] == c) for c in foreground])
                    for one, other in pairs
                ]
            ).float()
        )
        if pairs
        else np.zeros((0, len(foreground), rows, columns), np.float16),
        pairs=pairs,
    )
    return Look(first_choice(mean).numpy(), maps)


def everywhere(ensemble: Ensemble) -> Looking:
    """The same one at every place."""
    return lambda _domain: ensemble


def whole(maps: SlideMaps) -> Region:
    """All of a slide."""
    return Region(0, 0, *maps.slide_size_px)
