"""The patch queue: which patch of which slide a client gets, why, and for how long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from sqlalchemy import Connection

from overread.domain import NotFoundError, PatchLocation, Region
from overread.meduhip.doubt import largest_part
from overread.queue.leases import Leases
from overread.queue.patches.candidates import PatchTable, PatchView
from overread.queue.patches.occupied import History
from overread.queue.patches.parts import parts_of_patch
from overread.queue.patches.stopping import PatchAdvisor
from overread.queue.patches.strategies import EXTRAS, PATCH_STRATEGIES
from overread.queue.patches.tables import PatchTables, SlideEntry
from overread.queue.serving import Nothing
from overread.queue.settings import CONTROL_STRATEGY, QueueSettings
from overread.queue.shares import within_share
from overread.queue.stop import CHANGES_LITTLE, StopAdvice
from overread.state.database import Database
from overread.state.servings import CONTROL, STRATEGY, Serving

# Where no budget is set, the labelling is taken to last so many batches.
PLANNED_BATCHES = 10


@dataclass(frozen=True)
class ServedPatch:
    """A patch in a client's hands.

    Attributes:
        serving: the lease; its case is the patch's name.
        location: slide and rectangle.
        arm: `STRATEGY` or `CONTROL`.
        strategy: that chose it.
        reason: for the reader, in a clause.
        score: what it was ranked by; None where chance decided.
        is_coarse: the choice rests on a first look at the slide.
        stop: whether further patches are worth their time; None while that is not known.
        text: the one line that the reader sees.
        parts: how much of the patch's doubt is of which kind, by name (see `patches/parts.py`); empty where the
            champion cannot tell.
    """

    serving: Serving
    location: PatchLocation
    arm: str
    strategy: str
    reason: str
    score: float | None
    is_coarse: bool
    stop: StopAdvice | None
    text: str
    parts: Mapping[str, float] = field(default_factory=dict)


class PatchQueue:
    """Patches of one recipe's champion, one at a time to each client.

    Args:
        recipe: the model's name.
        champion: whose maps the slides' entries hold.
    """

    def __init__(
        self, database: Database, recipe: str, champion: str, settings: QueueSettings | None = None
    ) -> None:
        self.database, self.recipe, self.champion = database, recipe, champion
        self.settings = settings or QueueSettings()
        PATCH_STRATEGIES[self.settings.strategy]
        self._leases = Leases(recipe, champion, self.settings, "patch")
        self._tables = PatchTables()
        self._advisor = PatchAdvisor(recipe)
        # What single strategies need of a slide takes seconds: it is made ready for those that somebody asked by.
        self._asked_by = frozenset({self.settings.strategy, CONTROL_STRATEGY})

    def warm(self, slides: Mapping[str, SlideEntry], patch_px: tuple[int, int] | None = None) -> None:
        """Make ready what `ask` needs of these slides, of their present versions; for a thread that nobody waits for.

        `ask` waits for a slide's maps only where it has none of them: afterwards, it uses those of the last call here.
        """
        self._tables.keep_only(slides)
        for slide, entry in slides.items():
            self._tables.of(slide, entry, patch_px, tuple(self._asked_by))
        # The database's statements are put together once, too.
        with self.database.reading() as c:
            History.of(c, self.recipe, self._leases.resting(c))

    def ask(
        self,
        strategy: str | None,
        client_id: str,
        slides: Mapping[str, SlideEntry],
        slide: str | None,
        patch_px: tuple[int, int] | None,
        now: float,
        rng: np.random.Generator,
        annotated: Mapping[str, Sequence[Region]] | None = None,
        *,
        holds: bool = True,
    ) -> ServedPatch | Nothing:
        """Hand the next patch to a client.

        The rules are those of `CaseQueue.ask`: leases that are over end, what the client held ends as skipped, the
        control arm draws in its turn. No patch shares a pixel with one that was served, labelled or skipped, or with
        what else is annotated; only when nothing else is left, those come back that nobody answered, and then
        those that were skipped and have rested.

        Where no slide is named, no slide gets more than twice an equal share of a budget's questions since the
        champion came into service, and no centre more than an equal share; a centre that has nothing left gives
        its share to the others.

        Args:
            strategy: a name of `PATCH_STRATEGIES`; the settings' where None.
            client_id: who asks; `""` may be several people.
            slides: all that may be asked about.
            slide: only this one; any where None.
            patch_px: width and height in level-0 pixels; 1024 µm, less on a small slide, where None.
            now: seconds since 1970.
            annotated: further places of each slide that need no question.
            holds: whether the client gets the patch; without, it only learns which slide holds it, and asks there.

        Raises:
            NotFoundError: no such strategy or slide.
            BadInputError: the patch is empty.
        """
        name = strategy or self.settings.strategy
        PATCH_STRATEGIES[name]
        if slide is not None and slide not in slides:
            raise NotFoundError(f"no slide is called {slide!r}; the queue has {len(slides)} slides")
        meant = slides if slide is None else {slide: slides[slide]}
        # Maps are read before the database is held, for others wait for it.
        tables = self._tables_for(name, meant, patch_px)
        if not any(len(table) for table in tables):
            return Nothing(_why_no_patches(slide, len(meant), len(tables)))
        with self.database.writing() as c:
            self._leases.take_back(c, client_id, now)
            history = History.of(c, self.recipe, self._leases.resting(c))
            view, again = self._view(history, tables, slides, slide, annotated or {})
            if not len(view):
                where = f"slide {slide}" if slide is not None else "the slides"
                return Nothing(
                    f"every patch with tissue in {where} was served, labelled or skipped, or touches one that was"
                )
            return self._serve(c, name, client_id, view, again, slides, len(meant), now, rng, holds)

    def _tables_for(
        self, name: str, meant: Mapping[str, SlideEntry], patch_px: tuple[int, int] | None
    ) -> list[PatchTable]:
        """Candidates of the slides; one of these has what the strategy needs, the others once `warm` was there."""
        self._asked_by |= {name}
        found = {
            known: self._tables.of(known, entry, patch_px, is_stale_enough=True)
            for known, entry in meant.items()
        }
        tables = {known: table for known, table in found.items() if table is not None and len(table)}
        if name in EXTRAS and tables and not any(name in table.extras for table in tables.values()):
            best = max(tables, key=lambda known: np.nanmax(tables[known].doubt, initial=-np.inf))
            found[best] = self._tables.of(best, meant[best], patch_px, (name,), is_stale_enough=True)
        return [table for table in found.values() if table is not None]

    def _serve(
        self,
        c: Connection,
        name: str,
        client_id: str,
        view: PatchView,
        again: str,
        slides: Mapping[str, SlideEntry],
        meant: int,
        now: float,
        rng: np.random.Generator,
        holds: bool,
    ) -> ServedPatch:
        arm, before = STRATEGY, ""
        if self._leases.is_controls_turn(c):
            name, arm, before = CONTROL_STRATEGY, CONTROL, "control: "
        pick = PATCH_STRATEGIES[name].pick(view, rng)
        stop = self._advisor.advice(c, view)
        chosen = next(table for table in view.tables if table.slide == pick.location.slide)
        parts = parts_of_patch(chosen, pick.location.region)
        largest = largest_part(parts)
        kind = f", {largest.words}" if largest else ""
        first_look = ", first look only" if chosen.is_coarse and pick.score is not None else ""
        serving = self._leases.hand_out(
            c,
            pick.location.name,
            slides[chosen.slide].patient,
            client_id,
            name,
            arm,
            f"{before}{pick.reason}{kind}{first_look}{again}",
            pick.score,
            now,
            holds=holds,
        )
        return ServedPatch(
            serving=serving,
            location=pick.location,
            arm=arm,
            strategy=name,
            reason=serving.reason,
            score=pick.score,
            is_coarse=chosen.is_coarse,
            stop=stop,
            text=_text(serving, chosen.slide, view, meant, stop),
            parts=parts,
        )

    def _view(
        self,
        history: History,
        tables: Sequence[PatchTable],
        slides: Mapping[str, SlideEntry],
        slide: str | None,
        annotated: Mapping[str, Sequence[Region]],
    ) -> tuple[PatchView, str]:
        """What the strategy sees, and what to add to its reason."""
        again, occupied, free = "", {}, ()
        # What was offered before comes back only where nothing else is left.
        for words, kept in (
            ("", {}),
            (", not answered before and nothing else left", {"expired": False}),
            (", skipped before and nothing else left", {"expired": False, "skipped": False}),
        ):
            again, occupied = words, history.occupied(**kept)
            for known, regions in annotated.items():
                occupied.setdefault(known, []).extend(regions)
            free = tuple(table.free(occupied.get(table.slide, ())) for table in tables)
            if any(patches.any() for patches in free):
                break
        answered = history.answered()
        by_slide = {table.slide: table for table in tables}
        view = PatchView(
            tables=tuple(tables),
            free=free,
            within=self._within_shares(history, tables, free, slides) if slide is None else (True,),
            occupied=occupied,
            asked=len(answered),
            seen_foreground=any(
                by_slide[location.slide].shows_foreground(location.region)
                for location in answered
                if location.slide in by_slide
            ),
            progress=min(
                1.0, len(answered) / (self.settings.budget or PLANNED_BATCHES * self.settings.batch)
            ),
            batch=self.settings.batch,
        )
        return view, again

    def _within_shares(
        self,
        history: History,
        tables: Sequence[PatchTable],
        free: Sequence[np.ndarray],
        slides: Mapping[str, SlideEntry],
    ) -> tuple[bool, ...]:
        """For each table, whether its slide and its centre have had less than their share."""
        had = Counter(
            {slide: n for slide, n in history.count_by_slide(self.champion).items() if slide in slides}
        )
        questions = max(self.settings.budget or self.settings.batch, had.total() + 1)
        of_centre: Counter[str] = Counter()
        for slide, count in had.items():
            of_centre[slides[slide].centre] += count
        living = [table.slide for table, patches in zip(tables, free, strict=True) if patches.any()]
        centres = sorted({slides[slide].centre for slide in living})
        left = questions - sum(count for centre, count in of_centre.items() if centre not in centres)
        is_within = within_share(centres, of_centre, left, max(len(centres), 1), times=1)
        allowed = {centre for centre, within in zip(centres, is_within, strict=True) if within}
        standing = [slide for slide in living if slides[slide].centre in allowed]
        is_within = within_share(standing, had, questions, len(slides), self.settings.share)
        chosen = {slide for slide, within in zip(standing, is_within, strict=True) if within}
        return tuple(table.slide in chosen for table in tables)


def _text(serving: Serving, slide: str, view: PatchView, meant: int, stop: StopAdvice | None) -> str:
    """`slide7 | members unsure about Tumor, top 2 % … | most_uncertain | 3 of 20 slides looked at so far`."""
    parts = [slide, serving.reason, serving.strategy]
    looked_at = sum(not table.is_coarse for table in view.tables)
    if looked_at < meant:
        parts.append(
            f"{looked_at} of {meant} slides looked at closely so far" if meant > 1 else "first look only"
        )
    if stop is not None and stop.stop:
        parts.append(CHANGES_LITTLE)
    return " | ".join(dict.fromkeys(parts))


def _why_no_patches(slide: str | None, meant: int, looked_at: int) -> str:
    if not meant:
        return "there are no slides yet"
    if not looked_at:
        which = f"slide {slide} was not" if slide is not None else f"none of the {meant} slides was"
        return f"{which} looked at yet; ask again in a moment"
    where = f"slide {slide} shows" if slide is not None else "the slides that were looked at show"
    return f"{where} no patch with at least 10 % tissue"
