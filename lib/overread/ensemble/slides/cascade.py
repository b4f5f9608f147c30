"""When one member's word is enough: a threshold that loses no more than a stated share of the ensemble's doubt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.special import entr

from overread.domain import BadInputError
from overread.ensemble.compute import Precision
from overread.ensemble.ensemble import Ensemble
from overread.ensemble.slides.maps import SlideMaps
from overread.ensemble.slides.speakers import Speakers, as_seen, lattice_of
from overread.ensemble.slides.sweep import core_in
from overread.ensemble.slides.windows import Row, WindowReader
from overread.ensemble.storage import (
    calibration_from_json,
    calibration_to_json,
    read_description,
    write_description,
)
from overread.imaging.slides.slide import Slide
from overread.imaging.slides.tissue import TissueMask, find_tissue
from overread.uncertainty.calibration import Cascade

__all__ = ["Cascade", "WindowDoubt", "calibrate_cascade", "choose_cascade", "store_cascade", "windows_doubt"]

# So much of the full ensemble's doubt may be lost.
MOST_LOST = 0.01


@dataclass(frozen=True, eq=False)
class WindowDoubt:
    """What sparing each window of a slide would save and cost.

    Attributes:
        first: `(window,)` the first member's largest smoothed entropy in the core, in nat: what a cascade goes by.
        full: `(window,)` predictive entropy of all members, summed over the core.
        lost: `(window,)` of that, what the first member's own entropy does not show, pixel by pixel.
    """

    first: np.ndarray
    full: np.ndarray
    lost: np.ndarray


def calibrate_cascade(
    ensemble: Ensemble,
    slides: Sequence[Slide],
    lost: float = MOST_LOST,
    *,
    tissues: Sequence[TissueMask] | None = None,
    batch: int = 8,
    precision: Precision = "auto",
    device: torch.device | str = "cpu",
    most_windows: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> Cascade:
    """The largest threshold that loses at most `lost` of the full ensemble's doubt on validation slides.

    Args:
        slides: that no member learnt from; large pictures cut from slides do as well, opened with their pixel size.
        lost: share in [0, 1).
        tissues: of the slides; found where not given.
        most_windows: of all slides together, drawn evenly over their tissue; all are looked at where None.
        progress: told the share done, in (0, 1].

    Raises:
        BadInputError: there is one member only, or no slide has tissue.
    """
    found = []
    most = None if most_windows is None else max(1, most_windows // max(1, len(slides)))
    for index, slide in enumerate(slides):

        def tell(share: float, done: int = index) -> None:
            if progress is not None:
                progress((done + share) / len(slides))

        tissue = tissues[index] if tissues else find_tissue(slide)
        found.append(windows_doubt(ensemble, slide, tissue, batch, precision, device, most, tell))
    return choose_cascade(found, lost)


def choose_cascade(slides: Sequence[WindowDoubt], lost: float = MOST_LOST) -> Cascade:
    """Of windows in the order of the first member's doubt, spare as many as lose no more than `lost` together.

    Windows of equal doubt are spared together or not at all. No window is spared that is more doubtful than any that
    was measured.

    Raises:
        BadInputError: there are no windows, or `lost` is no share.
    """
    if not 0 <= lost < 1:
        raise BadInputError(f"a cascade may lose a share of doubt in [0, 1), got {lost}")
    first, full, gone = (
        np.concatenate([getattr(one, name) for one in slides] or [np.empty(0)])
        for name in ("first", "full", "lost")
    )
    if not len(first):
        raise BadInputError("a cascade needs windows with tissue on validation slides, got none")
    order = np.argsort(first, kind="stable")
    first = first[order]
    total = max(float(full.sum()), np.finfo(np.float64).tiny)
    shares = gone[order].cumsum() / total
    fitting = int(np.searchsorted(shares, lost, side="right"))
    # In the precision that members speak in, so that "below" means the same when it is used.
    above = np.nextafter(np.float32(first[-1]), np.float32(np.inf))
    threshold = float(first[fitting] if fitting < len(first) else above)
    spared = int((first < threshold).sum())
    return Cascade(
        threshold=threshold,
        lost_share=float(shares[spared - 1]) if spared else 0.0,
        spared_share=spared / len(first),
        windows=len(first),
        slides=len(slides),
    )


@torch.inference_mode()
def windows_doubt(
    ensemble: Ensemble,
    slide: Slide,
    tissue: TissueMask,
    batch: int = 8,
    precision: Precision = "auto",
    device: torch.device | str = "cpu",
    most: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> WindowDoubt:
    """Ask all members about the windows of a slide, and compare the first with all.

    Args:
        most: windows, drawn at random, always the same; all with tissue where None.
        progress: told the share done, in (0, 1].

    Raises:
        BadInputError: there is no other member than the first.
    """
    speakers = Speakers(ensemble, None, precision, device)
    if len(speakers) < 2:
        raise BadInputError(f"{ensemble.name} has one member: a cascade needs others that it can spare")
    maps = SlideMaps.empty(slide, ensemble, tissue)
    lattice = lattice_of(slide, ensemble, maps.cell)
    wanted = lattice.tissue_in_cores(maps.tissue) > 0
    places = np.flatnonzero(wanted)
    if most is not None and len(places) > most:
        wanted = np.zeros_like(wanted)
        wanted.flat[np.random.default_rng(0).choice(places, most, replace=False)] = True
    rows = [Row(0, r, tuple(np.flatnonzero(line).tolist())) for r, line in enumerate(wanted) if line.any()]
    first: list[float] = []
    full: list[float] = []
    lost: list[float] = []
    reader = WindowReader(as_seen(slide, ensemble), lattice, rows)
    try:
        for row in reader.rows():
            for start in range(0, len(row.columns), batch):
                columns = row.columns[start : start + batch]
                logits = speakers.say(speakers.see(reader.cut(row, columns)), slice(None))
                cores = [core_in(lattice, row.window, column) for column in columns]
                first += speakers.doubt(logits[0], cores).tolist()
                opinions = torch.softmax(logits / ensemble.calibration.temperature, dim=2)
                everybody = entr(opinions.mean(dim=0)).sum(dim=1)
                alone = entr(opinions[0]).sum(dim=1)
                for index, core in enumerate(cores):
                    full.append(float(everybody[index][core].sum()))
                    lost.append(float((everybody[index][core] - alone[index][core]).clamp_min(0).sum()))
            if progress is not None:
                progress(len(first) / int(wanted.sum()))
    finally:
        reader.close()
    return WindowDoubt(np.array(first), np.array(full), np.array(lost))


def store_cascade(folder: Path, cascade: Cascade) -> str:
    """Keep a cascade with an ensemble that is not published yet: its identity changes, and is returned."""
    description = read_description(folder)
    calibration = replace(calibration_from_json(description.get("calibration")), cascade=cascade)
    return write_description(folder, {**description, "calibration": calibration_to_json(calibration)})
