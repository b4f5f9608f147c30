"""From what a clinician says to the next state of the sitting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from overread.domain import BadInputError
from overread.learning.preferences import in_model_voxels
from overread.meduhip.candidates import POSSIBLE
from overread.meduhip.network import MedUHIP
from overread.meduhip.prompts import Click
from overread.meduhip.session import Session, click, none_of_these, pick
from overread.server.labels import BACKGROUND
from overread.server.meduhip.clicks import Clicks, Said
from overread.server.meduhip.encoded import Opened
from overread.server.meduhip.sittings import Sitting, changes
from overread.server.meduhip.views import View, view_of
from overread.server.overlays import CANDIDATE_NAMES

NONE_OF_THESE = "none of these"


class Turns:
    """One image and one model, and what is said about them.

    Args:
        classes: names, the background first.
    """

    def __init__(self, model: MedUHIP, opened: Opened, classes: Sequence[str]) -> None:
        self.model, self.opened, self.classes = model, opened, tuple(classes)

    def view(self, sitting: Sitting) -> View:
        """What is shown after all that was said."""
        return view_of(self.model, self.opened, sitting, self.classes)

    def take(
        self, sitting: Sitting, clicks: Clicks, option: str, view: View | None
    ) -> tuple[Sitting, View | None]:
        """The sitting after a request.

        Args:
            clicks: all that the client sent.
            option: a candidate's name, `none of these`, or empty. One that the client sent before counts again only
                where its clicks are the same: viewers go on sending an option until the reader changes it.
            view: what is shown now, if it is at hand.

        Returns:
            The new sitting, and what it shows where nothing was said.

        Raises:
            BadInputError: a click or option that cannot be meant. The sitting stays as it was.
        """
        found = changes(sitting.said, clicks)
        is_option_meant = bool(option) and (
            option != sitting.option or (found.stands == sitting.said and not found.new)
        )
        to_say: list[Said] = []
        if is_option_meant:
            kind = "none" if option == NONE_OF_THESE else "pick"
            to_say.append(Said(kind, "" if kind == "none" else option, focus=sitting.focus))
        for one in found.new:
            # Only the first was made while looking at the regions that were sent.
            offered = sitting.offered and not to_say
            to_say.append(replace(one, focus=sitting.focus, offered=offered))
        if found.stands != sitting.said:
            again = replace(sitting, said=(), session=sitting.begun)
            return self._said(again, [*found.stands, *found.again, *to_say], None)
        return self._said(sitting, to_say, view)

    def _said(
        self, sitting: Sitting, to_say: Sequence[Said], view: View | None
    ) -> tuple[Sitting, View | None]:
        for one in to_say:
            shown = view or self.view(sitting)
            meant = self._meant(shown, one)
            sitting = sitting.with_said(meant, self._session_after(sitting.session, shown, meant))
            view = None
        return sitting, view

    def _meant(self, view: View, said: Said) -> Said:
        """A click on a candidate's name with the side that the candidate has there."""
        if said.kind != "click" or said.about not in CANDIDATE_NAMES:
            return said
        index = view.index_of(said.focus, said.about)
        is_shown = bool(view.labels[said.place] == said.focus + 1)
        return replace(said, meant=is_shown != (view.candidate_at(said.focus, said.place) == index))

    def _session_after(self, session: Session, view: View, said: Said) -> Session:
        if said.kind == "none":
            return none_of_these(session, said.focus)
        if said.kind == "pick":
            return self._picked(session, view, said.focus, view.index_of(said.focus, said.about), None)
        if said.about in CANDIDATE_NAMES:
            index = view.index_of(said.focus, said.about)
            at = self.opened.image.click_from_input(said.place, bool(said.meant))
            return self._picked(session, view, said.focus, index, at)
        for structure, foreground in self._sides(view, said):
            try:
                at = self.opened.image.click_from_input(said.place, foreground)
            except BadInputError:
                # Where the image is empty everything is background already.
                if foreground:
                    raise
                continue
            index = self._candidate_meant(view, said, structure, foreground)
            if index is None:
                given = view.answers[structure]
                session = click(self.model, self.opened.image, session, given, at, structure)
            else:
                session = self._picked(session, view, structure, index, at)
        return session

    def _picked(self, session: Session, view: View, structure: int, index: int, at: Click | None) -> Session:
        given, others = view.answers[structure], None
        if len(view.answers) > 1:
            elsewhere = (view.labels > 0) & (view.labels != structure + 1)
            others = in_model_voxels(elsewhere, self.opened.image.prepared).to(given.logits.device)
        return pick(self.model, self.opened.image, session, given, index, structure, at, others)

    def _sides(self, view: View, said: Said) -> list[tuple[int, bool]]:
        """Which structures a click says something about, and on which side of each the voxel is."""
        if said.about == BACKGROUND:
            own: list[tuple[int, bool]] = []
        else:
            own = [(self.classes.index(said.about) - 1, said.foreground)]
        others = [structure for structure in range(len(view.answers)) if (structure, True) not in own]
        if not said.foreground and own:
            return own
        told = own + [(other, False) for other in others if self._is_possible(view, other, said.place)]
        return told or [(said.focus, False)]

    def _is_possible(self, view: View, structure: int, place: tuple[int, ...]) -> bool:
        """Whether any sample may hold the voxel; to the others a click says what they know."""
        try:
            at = self.opened.image.click_from_input(place, False).place
        except BadInputError:
            return False
        logits = view.answers[structure].turn.logits[0][(slice(None), *at)]
        return bool(view.labels[place] == structure + 1) or float(logits.amax().sigmoid()) > POSSIBLE

    def _candidate_meant(self, view: View, said: Said, structure: int, foreground: bool) -> int | None:
        """The candidate that a click picks: it lies in a region that was shown, on the side the candidate has there.

        The rims of what is drawn wider or tighter are picked by name alone: whoever clicks there corrects one spot.
        """
        is_about_it = said.about in (BACKGROUND, self.classes[structure + 1])
        if not said.offered or structure != said.focus or not is_about_it:
            return None
        index = view.candidate_at(structure, said.place)
        if index is not None and view.answers[structure].candidates[index].level:
            return None
        has_there = not bool(view.labels[said.place] == structure + 1)
        return index if has_there == foreground else None
