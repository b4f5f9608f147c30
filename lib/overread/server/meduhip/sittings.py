"""A clinician's sitting at an image: what was said, and the session that came of it; kept with the turns."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from dataclasses import asdict, dataclass, replace
from typing import Any

from overread.domain import BadInputError
from overread.meduhip.session import SITTING, Session, StructureState
from overread.server.meduhip.clicks import Clicks, Said
from overread.server.meduhip.preferences import Wish
from overread.state.database import Database
from overread.state.turns import add_turn, forget_earlier, last_turn

logger = logging.getLogger(__name__)
# Sittings in memory, some ten kilobytes each.
MOST_IN_MEMORY = 256


@dataclass(frozen=True)
class Sitting:
    """All that is needed to answer a clinician's next request about an image.

    Attributes:
        begun: the session before anything was said.
        session: the session now.
        said: everything that led there, in order.
        option: the `candidate` option of the last request. Viewers keep sending it until the reader changes it.
        focus: the class whose candidates were on offer last, by number.
        offered: whether their regions were on the screen.
        style, purpose: see `wish`.
        since: when it began; 0 where an earlier version kept it, which did not note that.
    """

    begun: Session
    session: Session
    said: tuple[Said, ...] = ()
    option: str = ""
    focus: int = 0
    offered: bool = False
    style: str = ""
    purpose: str = ""
    since: float = 0.0

    @property
    def wish(self) -> Wish:
        """With which preferences it began."""
        return Wish(self.style, self.purpose)

    @property
    def has_prior(self) -> bool:
        """Whether it began with what was known of the person from other cases."""
        return any(state != StructureState() for state in self.begun.structures)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "begun": self.begun.to_json(),
            "session": self.session.to_json(),
            "said": [asdict(said) for said in self.said],
            "option": self.option,
            "focus": self.focus,
            "offered": self.offered,
            "style": self.style,
            "purpose": self.purpose,
            "since": self.since,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Sitting:
        """The inverse of `to_json`. Raises BadInputError where the JSON is no sitting's."""
        try:
            said = tuple(Said(**{**one, "place": tuple(one["place"])}) for one in values["said"])
            sessions = Session.from_json(values["begun"]), Session.from_json(values["session"])
            names = ("option", "focus", "offered", "style", "purpose")
            return cls(*sessions, said, *(values[name] for name in names), since=values.get("since", 0.0))
        except (KeyError, TypeError) as error:
            raise BadInputError(f"this is not a clinician's sitting: {error}") from error

    def with_said(self, said: Said, session: Session) -> Sitting:
        """The sitting after one more thing was said."""
        return replace(self, said=(*self.said, said), session=session)


@dataclass(frozen=True)
class Changes:
    """What a request's clicks mean for a sitting.

    Attributes:
        stands: as much of what was said, from the first on, as still stands. All of it where nothing was taken back.
        again: clicks after that, which are said again. What was picked by name after a click that is taken back is
            gone: those candidates were never offered without the click.
        new: clicks that were not there before.
    """

    stands: tuple[Said, ...]
    again: tuple[Said, ...]
    new: tuple[Said, ...]


def changes(said: tuple[Said, ...], clicks: Clicks) -> Changes:
    """Compare the clicks that a client sends, all of them each time, with what was said before."""
    sent = list(clicks.made)
    stands: list[Said] = []
    again: list[Said] = []
    is_whole = True
    for one in said:
        if one.kind != "click":
            if is_whole:
                stands.append(one)
            continue
        there = next((click for click in sent if click.is_same_click(one)), None)
        if there is not None:
            sent.remove(there)
        elif clicks.speaks_of(one):
            is_whole = False
            continue
        (stands if is_whole else again).append(one)
    return Changes(tuple(stands), tuple(again), tuple(sent))


@dataclass(frozen=True)
class Who:
    """Whose sitting it is, and at what.

    Attributes:
        case: id of the image; None where it has none, and the sitting lasts as long as the server.
        client: who asks.
        recipe, champion: the model.
        image: key of the image's content.
    """

    case: str | None
    client: str
    recipe: str
    champion: str
    image: str


class Sittings:
    """The last sitting of each client at each image."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._recent: OrderedDict[Who, Sitting] = OrderedDict()
        self._change = threading.Lock()

    def last(self, who: Who) -> Sitting | None:
        """Where a client left off; None where it did not begin, or the image is another one by now."""
        with self._change:
            if who in self._recent:
                self._recent.move_to_end(who)
                return self._recent[who]
        if who.case is None:
            return None
        with self._database.reading() as c:
            turn = last_turn(c, who.case, who.client, who.recipe, who.champion, SITTING)
        if turn is None:
            return None
        try:
            sitting = Sitting.from_json(turn.payload)
        except BadInputError:
            logger.exception("A turn at image %s cannot be read; the client begins anew", who.case)
            return None
        return sitting if sitting.session.image == who.image else None

    def keep(self, who: Who, sitting: Sitting, now: float) -> None:
        """Remember where a client is; for good where the image has an id."""
        if self.last(who) == sitting:
            return
        with self._change:
            self._recent[who] = sitting
            self._recent.move_to_end(who)
            while len(self._recent) > MOST_IN_MEMORY:
                self._recent.popitem(last=False)
        if who.case is None:
            return
        with self._database.writing() as c:
            turn = add_turn(
                c,
                case_id=who.case,
                client_id=who.client,
                recipe=who.recipe,
                champion=who.champion,
                kind=SITTING,
                payload=sitting.to_json(),
                now=now,
            )
            # Only the last is gone on from.
            forget_earlier(c, turn)
