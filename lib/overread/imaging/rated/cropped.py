"""A data set cut to what its raters marked, as published crops of lesions are."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from overread.domain import Grid
from overread.imaging.rated.dataset import Examined, RatedDataset, Source
from overread.imaging.rated.image import RatedImage


@dataclass(frozen=True)
class Cropped:
    """Reads another source, and keeps a square or cube of it.

    Attributes:
        source: what is cut.
        edge: voxels along each axis; where the image has fewer, all of them.
    """

    source: Source
    edge: int

    def examine(self, raters: tuple[str, ...]) -> Examined:
        """As the source, the image `cut_out`."""
        examined = self.source.examine(raters)
        return (
            examined
            if examined.image is None
            else replace(examined, image=cut_out(examined.image, self.edge))
        )


def cropped(dataset: RatedDataset, edge: int) -> RatedDataset:
    """The data set with every case cut to `edge` voxels about what any rater marked; no voxel is read yet."""
    cases = tuple(replace(case, source=Cropped(case.source, edge)) for case in dataset.cases)
    return replace(dataset, cases=cases)


def cut_out(rated: RatedImage, edge: int) -> RatedImage:
    """The image within a square or cube about the middle of what any rater marked, or its own where nobody did."""
    space = rated.masks.shape[1:]
    marked = np.argwhere(rated.masks.any(axis=0))
    middle = (marked.min(axis=0) + marked.max(axis=0) + 1) // 2 if len(marked) else np.array(space) // 2
    starts = [int(np.clip(m - edge // 2, 0, max(0, n - edge))) for m, n in zip(middle, space, strict=True)]
    where = tuple(slice(start, min(start + edge, n)) for start, n in zip(starts, space, strict=True))
    grid = rated.grid
    if grid is not None:
        affine = np.array(grid.affine, dtype=float)
        affine[:3, 3] = affine[:3, :3] @ starts + affine[:3, 3]
        grid = Grid(tuple(cut.stop - cut.start for cut in where), affine)
    every = (slice(None), *where)
    return replace(
        rated,
        image=np.ascontiguousarray(rated.image[every]),
        masks=np.ascontiguousarray(rated.masks[every]),
        grid=grid,
    )
