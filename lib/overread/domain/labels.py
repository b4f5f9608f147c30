"""Values of stored label maps that are no class."""

from __future__ import annotations

# Voxels that nobody labelled: no loss is taken there, no Dice is counted, and no rater is held to them.
IGNORE = 255
