"""The two Aperio slides from the data folder beside the checkout."""

from __future__ import annotations

import pytest

from support.hippocampus import DATA

REAL_SLIDES = DATA / "wsi_svs"
CMU = REAL_SLIDES / "cmu-1-small-region.svs"
TCGA = REAL_SLIDES / "tcga-cr-7395-01a-01-ts1.svs"
needs_real_slides = pytest.mark.skipif(
    not (CMU.is_file() and TCGA.is_file()), reason=f"the Aperio slides are not in {REAL_SLIDES}"
)
