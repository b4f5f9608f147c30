"""A first look at a slide: a few windows spread over the tissue, within a time budget."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch

from overread.ensemble.ensemble import Ensemble
from overread.ensemble.slides.answers import Answers
from overread.ensemble.slides.lattice import Axis, Lattice
from overread.ensemble.slides.maps import KEPT_MEASURES, SlideMaps
from overread.ensemble.slides.speakers import Speakers, as_seen, lattice_of
from overread.imaging.slides.slide import Slide
from overread.imaging.slides.tissue import TissueMask

# Of the budget, for windows; the rest goes into the maps.
LOOKING_SHARE = 0.75
# Windows with so much tissue in their core are looked at before others.
MOSTLY_TISSUE = 0.25
# Nobody else speaks about the rim of these windows, where a network sees least: it is left out, so much on each side.
RIM = 1 / 8
# Guesses are made for squares of so many cells.
COARSE = 8


def glance(
    ensemble: Ensemble,
    slide: Slide,
    tissue: TissueMask,
    seconds: float,
    rng: np.random.Generator,
    device: torch.device | str = "cpu",
) -> SlideMaps:
    """Coarse maps of a slide within about `seconds`, from at least one window if there is tissue.

    All members look at windows that lie as far from each other as possible, as many as there is time for. Between
    them, tissue is guessed: as the nearest window where that is close, fading into the mean of all windows within
    about a window's edge. So the most doubtful window is the middle of a hill, and all tissue is `known`.

    Args:
        seconds: how long it may take, the tissue not counted; one window of all members is taken even if slower.
        rng: where to begin.

    Raises:
        BadInputError: the ensemble cannot be asked about slides.
    """
    started = time.perf_counter()
    speakers = Speakers(ensemble, None, "auto", device)
    maps = SlideMaps.empty(slide, ensemble, tissue)
    maps.is_coarse = True
    lattice = lattice_of(slide, ensemble, maps.cell)
    seen = as_seen(slide, ensemble)
    looked: list[tuple[slice, slice]] = []
    slowest = 0.0
    for row, column in _far_apart(lattice, maps.tissue, rng):
        before = time.perf_counter()
        if looked and before - started + slowest > LOOKING_SHARE * seconds:
            break
        looked.append(_look(ensemble, speakers, seen, lattice, (row, column), maps))
        slowest = max(slowest, time.perf_counter() - before)
    if looked:
        _guess_between(maps, looked, max(lattice.x.patch / lattice.x.cell, 1.0))
    return maps


def _far_apart(lattice: Lattice, tissue: np.ndarray, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """Windows with tissue, each as far as possible from those before it; the mostly empty ones last."""
    shares = lattice.tissue_in_cores(tissue)
    for places in (
        np.argwhere(shares >= MOSTLY_TISSUE),
        np.argwhere((shares > 0) & (shares < MOSTLY_TISSUE)),
    ):
        if not len(places):
            continue
        nearest = np.full(len(places), np.inf)
        index = int(rng.integers(len(places)))
        for _ in range(len(places)):
            yield int(places[index, 0]), int(places[index, 1])
            nearest = np.minimum(nearest, ((places - places[index]) ** 2).sum(axis=1))
            index = int(nearest.argmax())


@torch.inference_mode()
def _look(
    ensemble: Ensemble,
    speakers: Speakers,
    slide: Slide,
    lattice: Lattice,
    window: tuple[int, int],
    maps: SlideMaps,
) -> tuple[slice, slice]:
    """Show one window to all members and write its inner cells; returns which."""
    top, left = window[0] * lattice.y.stride, window[1] * lattice.x.stride
    width, height = lattice.x.patch, lattice.y.patch
    picture = slide.read_box(lattice.box_of(left, top, width, height), (width, height))
    logits = speakers.say(speakers.see(picture[None]), slice(None))[:, 0]
    cells = (_inner(lattice.y, top), _inner(lattice.x, left))
    rows, columns = (
        slice(axis.first_pixel(part.start), axis.first_pixel(part.stop))
        for axis, part in ((lattice.y, cells[0]), (lattice.x, cells[1]))
    )
    answers = Answers(
        lattice,
        ensemble.calibration.temperature,
        KEPT_MEASURES,
        maps.kinds_of(ensemble),
        None,
        cells,
        None,
        maps,
        speakers.device,
    )
    inner = logits[..., rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    answers.add(
        rows.start, columns.start, inner, torch.ones(inner.shape[2:], dtype=torch.bool, device=inner.device)
    )
    answers.finish_above(lattice.y.size)
    return cells


def _inner(axis: Axis, start: int) -> slice:
    """Cells that lie wholly in a window without its rim; the rim counts where there is no cell, or no neighbour."""
    stop = min(start + axis.patch, axis.size)
    margin = int(axis.patch * RIM)
    low = start if start == 0 else start + margin
    high = stop if stop == axis.size else stop - margin
    cells = axis.cells_of(np.arange(start, stop))
    inner = [
        int(cell)
        for cell in np.unique(cells)
        if axis.first_pixel(cell) >= low and axis.first_pixel(cell + 1) <= high
    ]
    return slice(inner[0], inner[-1] + 1) if inner else slice(int(cells[0]), int(cells[-1]) + 1)


def _guess_between(maps: SlideMaps, looked: list[tuple[slice, slice]], reach: float) -> None:
    """Fill in the tissue that no window showed.

    Args:
        looked: cells of each window.
        reach: cells after which half of what is guessed is the mean of all windows.
    """
    seen = np.zeros(maps.shape, bool)
    for cells in looked:
        seen[cells] = True
    centres = np.array([[(part.start + part.stop - 1) / 2 for part in cells] for cells in looked])
    rows, columns = (np.arange(0, n, COARSE) + (COARSE - 1) / 2 for n in maps.shape)
    squared = np.full((len(rows), len(columns)), np.inf)
    nearest = np.zeros(squared.shape, np.int64)
    for index, centre in enumerate(centres):
        here = (rows[:, None] - centre[0]) ** 2 + (columns - centre[1]) ** 2
        nearest = np.where(here < squared, index, nearest)
        squared = np.minimum(squared, here)
    trust = np.exp2(-squared / reach**2)
    unseen = maps.tissue & ~seen
    for field in _fields(maps):
        means = np.array([_mean(field[cells], maps.tissue[cells]) for cells in looked])
        guess = means.mean() + trust * (means[nearest] - means.mean())
        whole = np.repeat(np.repeat(guess, COARSE, axis=0), COARSE, axis=1)[: maps.shape[0], : maps.shape[1]]
        field[unseen] = whole[unseen]
    maps.known |= maps.tissue


def _fields(maps: SlideMaps) -> Iterator[np.ndarray]:
    """Every field of numbers, `(rows, columns)` each."""
    for stack in (maps.probability, *maps.maps.values(), maps.class_doubt, maps.sizes, maps.overlaps):
        yield from stack.reshape(-1, *maps.shape)


def _mean(values: np.ndarray, tissue: np.ndarray) -> float:
    """Mean over the tissue; over all where none of it is."""
    chosen = values[tissue] if tissue.any() else values
    return float(chosen.mean(dtype=np.float32))
