"""Strategies for patches: which part of which slide is asked about next, and why.

Adding one is a function `(view, rng) -> PatchPick` with the decorator `patch_strategy`; the first line of its docstring
is what users read. What it needs beside a table's columns is computed once per slide by the function named there, later
than the table: a strategy copes with slides of which it is not known yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import merge
from typing import Any

import numpy as np

from overread.domain import PatchLocation, Region, Registry
from overread.ensemble.slides.maps import SlideMaps
from overread.queue import clasp
from overread.queue.patches.adaptive import DoubtField, boxes_by_doubt, doubt_field
from overread.queue.patches.candidates import PatchTable, PatchView
from overread.queue.patches.scores import pairwise_dice as pairwise_dice_scores
from overread.queue.patches.scores import sureness
from overread.queue.patches.scores import uga as uga_scores
from overread.queue.reasons import doubt_reason, place, short_name
from overread.queue.strategies import Strategy, entered

OF_SLIDE = " of this slide's patches"
# Of the questions of `sure_and_unsure`, this share is about what the members are surest of.
SURE_SHARE = 0.5


@dataclass(frozen=True)
class PatchPick:
    """The patch that a strategy took.

    Attributes:
        location: slide and rectangle.
        reason: one short clause for the reader: `members unsure about Tumor, top 2 % of this slide's patches`.
        score: what it was ranked by; None where chance decided, or how sure the members are.
    """

    location: PatchLocation
    reason: str
    score: float | None


PatchStrategy = Strategy[PatchView, PatchPick]
PATCH_STRATEGIES: Registry[PatchStrategy] = Registry("strategy for patches")
# What a strategy needs of each slide beside the table's columns; kept in `PatchTable.extras` under the strategy's name.
EXTRAS: dict[str, Callable[[PatchTable, SlideMaps], Any]] = {}


def patch_strategy(
    needs: Callable[[PatchTable, SlideMaps], Any] | None = None,
) -> Callable[[Callable[[PatchView, np.random.Generator], PatchPick]], PatchStrategy]:
    """Decorator: enter a function into `PATCH_STRATEGIES` under its own name.

    Args:
        needs: computes what the strategy finds in `PatchTable.extras`.
    """

    def enter(pick: Callable[[PatchView, np.random.Generator], PatchPick]) -> PatchStrategy:
        if needs is not None:
            EXTRAS[pick.__name__] = needs
        return entered(
            PATCH_STRATEGIES, pick, len, "patches: all are labelled, with a reader or were passed over"
        )

    return enter


@patch_strategy()
def most_uncertain(view: PatchView, rng: np.random.Generator) -> PatchPick:
    """The patch whose tissue the members doubt most.

    Mean doubt of the patch's tissue: predictive entropy of an ensemble, of a MedUHIP model what is no matter of style.
    What overlaps an asked patch is not free, which is greedy non-maximum suppression; no slide gets more than twice and
    no centre more than its equal share of the questions.
    """
    doubt = view.side_by_side([table.doubt for table in view.tables])
    best = _highest(view, doubt)
    return _unscored(view, rng) if best is None else _by_doubt(view, best, float(doubt[best]))


@patch_strategy()
def clasp_pe(view: PatchView, rng: np.random.Generator) -> PatchPick:
    """Doubt class by class, with noise that fades as labelling goes on, and a share drawn at random.

    ClaSP PE (arXiv:2601.13677) with its schedule made one for single questions, see `queue/clasp.py`.
    """
    kind = clasp.kind_of_question(view.asked, len(view.classes), view.seen_foreground)
    if kind == clasp.AT_RANDOM:
        return PATCH_STRATEGIES["foreground_random"].pick(view, rng)
    doubt, about = view.side_by_side([table.doubt for table in view.tables]), None
    if isinstance(kind, int):
        doubt, about = view.side_by_side([table.class_doubt[:, kind] for table in view.tables]), kind
    possible = np.flatnonzero(_candidates(view, doubt))
    if not len(possible):
        return _unscored(view, rng)
    best = int(possible[clasp.drawn(doubt[possible], view.batch, view.progress, rng)])
    return _by_doubt(view, best, float(doubt[best]), about)


@patch_strategy(needs=sureness)
def sure_and_unsure(view: PatchView, rng: np.random.Generator) -> PatchPick:
    """By turns where the members are surest of a structure, and where they doubt, as `clasp_pe` asks.

    Under a foreign stain a model is wrong and sure of it: its doubt does not find such errors, and may find no
    structure. What it is surest of is either structure, to learn from, or its worst error.
    """
    had = sum(len(view.occupied.get(table.slide, ())) for table in view.tables)
    # Spread evenly, and in no step with the turns of classes or centres.
    places = np.modf(clasp.GOLDEN * np.arange(1, had + 2))[0]
    is_sure = places < SURE_SHARE
    if is_sure[-1] and view.classes:
        column = int(is_sure[:-1].sum()) % len(view.classes)
        unknown = np.full(len(view.classes), np.nan)
        sure = [
            table.extras.get("sure_and_unsure", np.tile(unknown, (len(table), 1)))[:, column]
            for table in view.tables
        ]
        best = _highest(view, view.side_by_side(sure))
        if best is not None:
            table, row = view.locate(best)
            scores = table.extras["sure_and_unsure"][:, column]
            reason = f"members sure of {short_name(view.classes[column])}, {place(scores, row)}{OF_SLIDE}"
            return PatchPick(PatchLocation(table.slide, table.region(row)), reason, None)
    return PATCH_STRATEGIES["clasp_pe"].pick(view, rng)


@patch_strategy(needs=uga_scores)
def uga(view: PatchView, rng: np.random.Generator) -> PatchPick:
    """The patch that UGA's own score puts first, for comparison with the paper.

    All centres pooled and no share per slide, as there; `patches/scores.py` says what is wrong with the score. The
    paper then moves the patch by up to its own edge at random, so that what is labelled is not what was scored; that
    is left out.
    """
    return _by_extra(view, rng, "uga", "first by UGA's score", view.all_free())


@patch_strategy(needs=pairwise_dice_scores)
def pairwise_dice(view: PatchView, rng: np.random.Generator) -> PatchPick:
    """The patch in which the members' outlines agree least.

    1 - mean Dice of pairs of members: ranks errors best, and so is what a reviewer wants to see; for learning
    `most_uncertain` asks better (methods §2.4).
    """
    return _by_extra(view, rng, "pairwise_dice", "members draw it differently", view.all_within())


@patch_strategy(needs=doubt_field)
def adaptive_box(view: PatchView, rng: np.random.Generator) -> PatchPick:
    """A box that fits the most doubted place, with sides of half to one and a half patches (arXiv:2307.07168)."""
    tables = [
        table
        for table, free, within in zip(view.tables, view.free, view.within, strict=True)
        if within and free.any() and "adaptive_box" in table.extras
    ]
    for (box, height), table in _tallest(view, tables):
        field: DoubtField = table.extras["adaptive_box"]
        heights = field.heights()
        rank = int((heights > height).sum()) + 1
        reason = f"members unsure here, peak {rank} of {len(heights)} of this slide, box fitted to it"
        return PatchPick(PatchLocation(table.slide, box), reason, height)
    return PATCH_STRATEGIES["most_uncertain"].pick(view, rng)


@patch_strategy()
def foreground_random(view: PatchView, rng: np.random.Generator) -> PatchPick:
    """Any patch in which the champion sees a structure; each class as often.

    First a class is drawn, then a patch with more than a speck of it. What was not looked at yet counts as if it held
    every class. Where nothing is predicted anywhere, any patch.
    """
    free = view.all_free()
    area = np.concatenate([table.foreground_mm2 for table in view.tables])
    speck = np.concatenate([np.full((len(table), 1), table.speck_mm2) for table in view.tables])
    possible = (np.isnan(area) | (area > speck)) & free[:, None]
    columns = np.flatnonzero(possible.any(axis=0))
    if not len(columns):
        return _drawn(view, rng.choice(np.flatnonzero(free)), "drawn at random, no patch shows a structure")
    column = int(rng.choice(columns))
    chosen = rng.choice(np.flatnonzero(possible[:, column]))
    if np.isnan(area[free]).all():
        return _drawn(view, chosen, "drawn at random, nothing looked at yet")
    return _drawn(view, chosen, f"drawn at random among patches with {short_name(view.classes[column])}")


@patch_strategy()
def random(view: PatchView, rng: np.random.Generator) -> PatchPick:
    """Any patch of tissue, all equally likely."""
    return _drawn(view, rng.choice(np.flatnonzero(view.all_free())), "drawn at random")


def _candidates(view: PatchView, scores: np.ndarray) -> np.ndarray:
    """Scored candidates within their share; all scored ones where that leaves none, `(candidate,)` bool."""
    scored = np.isfinite(scores)
    within = scored & view.all_within()
    return within if within.any() else scored & view.all_free()


def _highest(view: PatchView, scores: np.ndarray) -> int | None:
    possible = _candidates(view, scores)
    return int(np.where(possible, scores, -np.inf).argmax()) if possible.any() else None


def _by_doubt(view: PatchView, index: int, score: float, about: int | None = None) -> PatchPick:
    table, row = view.locate(index)
    reason = doubt_reason(table.classes, table.doubt, table.class_doubt, row, about, OF_SLIDE)
    return PatchPick(PatchLocation(table.slide, table.region(row)), reason, score)


def _by_extra(
    view: PatchView, rng: np.random.Generator, name: str, words: str, allowed: np.ndarray
) -> PatchPick:
    scores = view.side_by_side([table.extras.get(name, np.full(len(table), np.nan)) for table in view.tables])
    possible = np.isfinite(scores) & allowed
    if not possible.any():
        return PATCH_STRATEGIES["most_uncertain"].pick(view, rng)
    index = int(np.where(possible, scores, -np.inf).argmax())
    table, row = view.locate(index)
    reason = f"{words}, {place(table.extras[name], row)}{OF_SLIDE}"
    return PatchPick(PatchLocation(table.slide, table.region(row)), reason, float(scores[index]))


def _tallest(view: PatchView, tables: list[PatchTable]) -> Iterator[tuple[tuple[Region, float], PatchTable]]:
    """Boxes of all slides with their doubt and slide, most doubtful first."""

    def boxes(table: PatchTable) -> Iterator[tuple[tuple[Region, float], PatchTable]]:
        field: DoubtField = table.extras["adaptive_box"]
        occupied = list(view.occupied.get(table.slide, ()))
        for box in boxes_by_doubt(field, table.size_px, occupied):
            yield box, table

    return merge(*(boxes(table) for table in tables), key=lambda found: -found[0][1])


def _unscored(view: PatchView, rng: np.random.Generator) -> PatchPick:
    """What is asked where the champion has not spoken, or there is none."""
    return _drawn(
        view, rng.choice(np.flatnonzero(view.all_free())), "nothing scored yet: drawn at random in tissue"
    )


def _drawn(view: PatchView, index: int, reason: str) -> PatchPick:
    table, row = view.locate(int(index))
    return PatchPick(PatchLocation(table.slide, table.region(row)), reason, None)
