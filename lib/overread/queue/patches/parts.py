"""How much of a patch's doubt is of which kind, where the slide's maps tell kinds apart (see `meduhip.doubt`).

As a patch's doubt is, a part is a mean over the patch's tissue that was looked at; a volume's is one over what lies in
and near the structures.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from overread.domain import Region
from overread.ensemble.slides.maps import SlideMaps
from overread.meduhip.doubt import OF_ONE_NETWORK, PARTS
from overread.queue.patches.adaptive import DoubtField
from overread.queue.patches.candidates import PatchTable


def parts_of_patch(table: PatchTable, region: Region) -> dict[str, float]:
    """The parts by name, of a candidate or of a box that `adaptive_box` fitted; empty where they are not known."""
    row = table.candidate(region)
    if row is not None:
        return _all_parts({name: float(values[row]) for name, values in table.parts.items()})
    field: DoubtField | None = table.extras.get("adaptive_box")
    return {} if field is None else _all_parts(field.parts_in(region))


def parts_of_region(maps: SlideMaps, region: Region) -> dict[str, float]:
    """The parts by name, of any rectangle; empty where they are not known, or no tissue was looked at."""
    if not maps.maps.keys() >= set(OF_ONE_NETWORK):
        return {}
    cells = maps.cells(region)
    looked = maps.known[cells] & maps.tissue[cells]
    if not looked.any():
        return {}
    return _all_parts(
        {name: float(maps.maps[name][cells][looked].mean(dtype=np.float64)) for name in OF_ONE_NETWORK}
    )


def _all_parts(known: Mapping[str, float]) -> dict[str, float]:
    """In the order of `PARTS`, 0 where one network has none of it; empty where one is missing."""
    if not all(np.isfinite(known.get(name, np.nan)) for name in OF_ONE_NETWORK):
        return {}
    return {name: known.get(name, 0.0) for name in PARTS}
