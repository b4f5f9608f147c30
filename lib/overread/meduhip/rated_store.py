"""Prepared training cases with every rater's label, on disk, from which patches are cut without loading the cases.

The files are those of `ensemble.patch_store`, where the label of a voxel is the number of a row of one more file:

    <folder>/CASE.raters.npy      (row, rater) uint8: which class each rater gave; row 0 is background by all

So that a patch is cut, turned, scaled and mirrored once, whatever the number of raters.
"""

from __future__ import annotations

import numpy as np
import torch

from overread.domain import BadInputError
from overread.ensemble.patch_store import PARTS, PatchStore
from overread.ensemble.plan import Plan
from overread.ensemble.preparation import prepare, prepare_labels
from overread.imaging.volumes import Volume

# Different combinations of the raters' classes that a case can have.
MOST_ROWS = 1 << 16


class RatedStore(PatchStore):
    """Prepared cases below one folder."""

    parts = (*PARTS, "raters")

    def holds(self, case: str) -> bool:
        """Whether that case is prepared."""
        return self._file(case, "raters").exists()

    def add_rated(
        self, case: str, volume: Volume, labels: np.ndarray, plan: Plan, rng: np.random.Generator
    ) -> None:
        """Prepare one case.

        Args:
            labels: class indices `(rater, *space)` on the volume's grid.

        Raises:
            BadInputError: the raters disagree in too many ways to be kept.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        prepared = prepare(plan, volume)
        turned = np.stack([prepare_labels(label, prepared, plan.classes).numpy() for label in labels])
        # Most voxels are background by all; only the others are sorted.
        somewhere = turned.any(axis=0)
        rows, index = np.unique(turned[:, somewhere].T, axis=0, return_inverse=True)
        if len(rows) >= MOST_ROWS:
            raise BadInputError(
                f"case {case}: {len(turned)} raters disagree in {len(rows)} ways, at most {MOST_ROWS - 1} are kept"
            )
        known = np.concatenate([np.zeros((1, len(turned)), np.uint8), rows])
        codes = np.zeros(somewhere.shape, np.uint16)
        codes[somewhere] = index.reshape(-1) + 1
        places = [
            self._places_of(structure, (turned == structure).any(axis=0), rng)
            for structure in range(1, plan.classes)
        ]
        self._write(case, "image", prepared.voxels.numpy())
        self._write(case, "label", codes)
        self._write(case, "places", np.concatenate(places))
        self._write(case, "raters", known)

    def raters(self, case: str, codes: torch.Tensor) -> torch.Tensor:
        """What the raters said, of a patch of codes `(*patch)`: class indices `(rater, *patch)`."""
        table = torch.from_numpy(np.load(self._file(case, "raters")).astype(np.int64))
        return table[codes].movedim(-1, 0)

    def whole(self, case: str) -> tuple[torch.Tensor, torch.Tensor]:
        """A case as it is: image `(channel, *space)`, and who marked what as the first structure, `(rater, *space)`."""
        image = torch.from_numpy(np.load(self._file(case, "image")))
        codes = torch.from_numpy(np.load(self._file(case, "label")).astype(np.int64))
        return image, self.raters(case, codes) == 1
