"""Do the members draw the same thing? Pairwise Dice over a whole case, counted block by block."""

from __future__ import annotations

import numpy as np
import torch

from overread.domain import BadInputError
from overread.uncertainty.tensors import class_numbers

# Counts up to 2^24 are exact in float32, also where a GPU multiplies in TF32.
VOXELS_AT_ONCE = 1 << 22
# Predicted structures of a volume below this are taken for specks: a ball of 2.7 mm.
SPECK_MM3 = 10.0


class AgreementCounts:
    """Overlap of every pair of members for every class, summed over the blocks of a volume.

    Args:
        members: number of members.
        classes: number of classes, the background (0) included.
    """

    def __init__(self, members: int, classes: int) -> None:
        if members < 1 or classes < 2:
            raise BadInputError(
                f"agreement needs at least 1 member and 2 classes, got {members} members and {classes} classes"
            )
        self.members = members
        self.classes = classes
        self.voxels = 0
        # (class, member, member): voxels where both say this class; the diagonal holds the members' own sizes.
        self._overlap = torch.zeros((classes, members, members), dtype=torch.int64)

    def add(self, labels: torch.Tensor | np.ndarray) -> None:
        """Count one block; blocks must not overlap.

        Args:
            labels: `(member, *space)`, integers in [0, classes). Not changed and not kept.
        """
        maps = class_numbers(labels, "agreement between members")
        if maps.ndim < 2 or maps.shape[0] != self.members:
            raise BadInputError(
                f"label maps are (member, *space) with {self.members} members, got {tuple(maps.shape)}"
            )
        if maps.numel() == 0:
            return
        low, high = int(maps.min()), int(maps.max())
        if low < 0 or high >= self.classes:
            raise BadInputError(f"label maps hold {low}..{high}, expected 0..{self.classes - 1}")
        flat = maps.reshape(self.members, -1)
        self.voxels += flat.shape[1]
        for block in flat.split(VOXELS_AT_ONCE, dim=1):
            foreground = block[:, (block != 0).any(dim=0)]
            for index in range(1, self.classes):
                mask = (foreground == index).float()
                self._overlap[index] += (mask @ mask.T).round().to("cpu", torch.int64)

    def pairwise_dice_disagreement(self, fewest_voxels: float = 0.0) -> float:
        """One minus the mean Dice over pairs of members and foreground classes; 0 means they draw the same.

        A pair in which neither draws the class has Dice 1. A class that no member draws is left out, as it would
        only dilute the others; where that leaves none, all agree that nothing is there: 0. One member gives 0.

        Args:
            fewest_voxels: of a class in the whole case; a member who draws fewer draws none of it. Else a speck that
                one of them sees where nothing is would count as much as a structure that each draws otherwise.
        """
        if self.voxels == 0:
            raise BadInputError("no label maps were added: there is nothing to compare")
        first, second = torch.triu_indices(self.members, self.members, offset=1)
        overlap = self._overlap[1:].double()
        size = overlap.diagonal(dim1=1, dim2=2)
        seen = size >= fewest_voxels
        size = size * seen
        overlap = overlap * seen[:, :, None] * seen[:, None, :]
        drawn = size.sum(dim=1) > 0
        if self.members == 1 or not bool(drawn.any()):
            return 0.0
        both = size[:, first] + size[:, second]
        dice = torch.where(both > 0, 2 * overlap[:, first, second] / both.clamp_min(1), 1.0)
        return float(1 - dice[drawn].mean())
