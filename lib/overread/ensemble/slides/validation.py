"""The cascade of an ensemble that was just trained, from slides that none of its members learnt from."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from overread.domain import BadInputError, NotFoundError
from overread.ensemble.slides.cascade import MOST_LOST, Cascade, calibrate_cascade, store_cascade
from overread.ensemble.storage import load_ensemble, read_description
from overread.imaging.dataset import Dataset
from overread.imaging.slides.slide import Slide, open_slide

# Of all validation slides together: a slide has ten thousands, and a CPU looks at some a second.
MOST_WINDOWS = 1000


@dataclass(frozen=True)
class CascadeFound:
    """What validation slides say about a cascade.

    Attributes:
        cascade: what is kept with the ensemble; None where all members are always asked.
        words: a sentence for people.
    """

    cascade: Cascade | None
    words: str


def calibrate_on_slides(
    folder: Path,
    dataset: Dataset,
    *,
    device: torch.device | str = "cpu",
    progress: Callable[[float], None] | None = None,
) -> CascadeFound | None:
    """Find the cascade that loses at most 1 % of the ensemble's doubt, and keep it with an ensemble for slides.

    It is measured on the slides that the data set names for its pictures, of those from which no member learnt a
    picture. The held-out pictures alone are no measure: they were cut where it is difficult, and what a cascade loses
    it loses bit by bit in the many windows that are easy.

    Args:
        folder: a trained ensemble, calibrated, not published yet; its plan's `held_out` names, per member, the cases
            that it did not see.
        dataset: what it was trained on.

    Returns:
        None where the ensemble is not one for slides.
    """
    ensemble = load_ensemble(folder, device)
    if ensemble.um_per_px is None:
        return None
    members = len(ensemble.members)
    if members < 2:
        return CascadeFound(None, "No cascade: there is one member, and nobody whom it could spare.")
    paths = unseen_slides(read_description(folder), dataset)
    if not paths:
        why = (
            "the data set names no slides (dataset.json: slides) that its pictures were cut from"
            if not dataset.slides
            else "every slide that the data set names has taught some member"
        )
        return CascadeFound(None, f"The cascade stays off, and all members are asked everywhere: {why}.")
    try:
        with ExitStack() as opened:
            slides: list[Slide] = [opened.enter_context(open_slide(path)) for path in paths]
            cascade = calibrate_cascade(
                ensemble,
                slides,
                MOST_LOST,
                device=device,
                most_windows=MOST_WINDOWS,
                progress=progress,
            )
    except (BadInputError, NotFoundError) as error:
        return CascadeFound(None, f"The cascade stays off, and all members are asked everywhere: {error}.")
    store_cascade(folder, cascade)
    return CascadeFound(cascade, cascade_words(cascade, members))


def unseen_slides(description: dict[str, Any], dataset: Dataset) -> list[Path]:
    """Slides of a data set from which no member of a trained ensemble learnt a picture, by its `ensemble.json`."""
    held_out = set.intersection(*(set(ids) for ids in description["plan"].get("held_out") or [()]))
    learnt = {path for case, path in dataset.slides.items() if case not in held_out}
    return sorted({path for case, path in dataset.slides.items() if case in held_out} - learnt)


def cascade_words(cascade: Cascade, members: int) -> str:
    """What a cascade does, and what it costs."""
    asked = members - (members - 1) * cascade.spared_share
    slides = "1 validation slide" if cascade.slides == 1 else f"{cascade.slides} validation slides"
    return (
        f"Cascade: where the first member's doubt is below {cascade.threshold:.3g} nat, the other {members - 1} are "
        f"not asked. That spared them {cascade.spared_share:.0%} of {cascade.windows} windows of {slides} "
        f"({asked:.1f} instead of {members} members look at a window) and lost {cascade.lost_share:.2%} of the doubt."
    )
