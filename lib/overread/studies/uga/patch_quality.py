"""Figure 3 of the paper: how doubtful each patch is, and how good the outline there."""

from __future__ import annotations

from typing import Any

import numpy as np

from overread.domain import Region
from overread.metrics.overlap import dice
from overread.queue.patches.candidates import patch_table
from overread.queue.patches.strategies import EXTRAS
from overread.studies.uga.bench import Bench
from overread.studies.uga.judging import patch_px0, truth_of
from overread.studies.uga.looking import Look
from overread.studies.uga.rounds import WHOLE_PX
from overread.studies.uga.sets import StudyCase


def patch_rows(bench: Bench, case: StudyCase, look: Look) -> list[dict[str, Any]]:
    """How doubtful each patch of a case is by three measures, and what the model's outline is worth there."""
    maps = look.maps
    edge = WHOLE_PX if bench.study_set.patch_px is None else patch_px0(bench, maps.slide_pixel_size.um)
    table = patch_table(case.id, maps, (edge, edge))
    measures = {"predictive_entropy": table.doubt.astype(float)} | {
        name: np.asarray(EXTRAS[name](table, maps), float) for name in ("pairwise_dice", "uga")
    }
    truth = truth_of(bench, case, look)
    rows: list[dict[str, Any]] = []
    taken: list[Region] = []
    for index in range(len(table)):
        region = table.region(index)
        if any(region.overlaps(other) for other in taken):
            continue
        taken.append(region)
        part = _part(bench, look, region)
        found = dice(
            look.labels[part].astype(np.int32),
            truth[part].astype(np.int32),
            len(bench.study_set.classes),
            both_empty=float("nan"),
        )
        if not np.isfinite(found).any():
            continue
        rows += [
            {
                "domain": case.domain,
                "case": case.id,
                "box": list(region.bbox) if bench.study_set.axes == 2 else None,
                "measure": name,
                "uncertainty": float(values[index]),
                "dice": float(np.nanmean(found)),
            }
            for name, values in measures.items()
            if np.isfinite(values[index])
        ]
    return rows


def _part(bench: Bench, look: Look, region: Region) -> tuple[slice, ...]:
    """The pixels of a region in what was said."""
    if bench.study_set.axes == 3:
        return (slice(None),) * look.labels.ndim
    zoom = look.maps.slide_pixel_size.um / bench.study_set.pixel_size.um
    rows = slice(round(region.y * zoom), max(round(region.bottom * zoom), round(region.y * zoom) + 1))
    columns = slice(round(region.x * zoom), max(round(region.right * zoom), round(region.x * zoom) + 1))
    return rows, columns
