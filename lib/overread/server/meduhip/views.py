"""What one state of a sitting shows: the label map, and what is on offer beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from overread.domain import BadInputError
from overread.ensemble.orientation import to_canonical
from overread.meduhip.candidates import Candidate, in_words
from overread.meduhip.honour import honour
from overread.meduhip.network import MedUHIP
from overread.meduhip.session import StructureAnswer, answer
from overread.server.labels import BACKGROUND
from overread.server.meduhip.clicks import Said
from overread.server.meduhip.encoded import Opened
from overread.server.meduhip.sittings import Sitting
from overread.server.meduhip.words import difference_in_words
from overread.server.overlays import CANDIDATE_LETTERS, CANDIDATE_NAMES

MM3_PER_ML = 1000.0


@dataclass(frozen=True)
class Offer:
    """One candidate as the reader is told of it.

    Attributes:
        letter: `A` is the best supported.
        support: share of the samples, in (0, 1]; 0 where the answer was drawn wider or tighter.
        volume, added, removed: of the whole, and against what is shown; in `unit`.
        unit: `mL`, or `px` of pictures.
        words: how and where it differs.
        place: a voxel in the middle of its region; None where nothing of it is to be seen.
    """

    letter: str
    support: float
    volume: float
    added: float
    removed: float
    unit: str
    words: str
    place: tuple[int, ...] | None

    @property
    def label(self) -> str:
        """`B: +2.1 mL, adds the upper pole (38 %)`, or `C: wider all round, +3 mL`, which no share of samples says."""
        share = f" ({self.support:.0%})".replace("%", " %") if self.support else ""
        return f"{self.letter}: {self.words}{share}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        unit = self.unit.lower()
        return {
            "letter": self.letter,
            "name": f"candidate {self.letter}",
            "support": round(self.support, 4),
            f"volume_{unit}": round(self.volume, 4),
            f"added_{unit}": round(self.added, 4),
            f"removed_{unit}": round(self.removed, 4),
            "words": self.words,
            "at": None if self.place is None else list(self.place),
        }


@dataclass(frozen=True, eq=False)
class View:
    """What is shown, and what the next turn starts from.

    Attributes:
        answers: the model's, one a structure.
        labels: class indices on the grid that the model was given, every click honoured.
        regions: one a structure: 0, or 1 for the first candidate and so on.
        offers: the candidates of each structure.
    """

    answers: tuple[StructureAnswer, ...]
    labels: np.ndarray
    regions: tuple[np.ndarray, ...]
    offers: tuple[tuple[Offer, ...], ...]

    @property
    def bytes(self) -> int:
        """Memory that is held."""
        logits = [tensor for one in self.answers for tensor in (one.turn.logits, one.logits)]
        arrays = [self.labels, *self.regions]
        return sum(t.numel() * t.element_size() for t in logits) + sum(array.nbytes for array in arrays)

    @property
    def most_disputed(self) -> int:
        """The structure whose candidates differ most from what is shown, for its size."""
        shares = []
        for index, offers in enumerate(self.offers, start=1):
            shown = int((self.labels == index).sum())
            shares.append(
                sum(
                    offer.support * _dissimilarity(offer.volume, offer.added, offer.removed)
                    for offer in offers
                )
                if shown or any(offer.volume for offer in offers)
                else 0.0
            )
        return int(np.argmax(shares))

    def candidate_at(self, structure: int, place: tuple[int, ...]) -> int | None:
        """Number of the candidate whose region holds a voxel; None where none does."""
        owner = int(self.regions[structure][place])
        return owner - 1 if owner else None

    def index_of(self, structure: int, name: str) -> int:
        """Number of a candidate. Raises BadInputError where it was not offered."""
        offered = [offer.letter for offer in self.offers[structure]]
        letter = name.rpartition(" ")[2]
        if letter not in offered:
            raise BadInputError(f"{name!r} is not on offer; there are {', '.join(offered)}")
        return offered.index(letter)


@torch.no_grad()
def view_of(model: MedUHIP, opened: Opened, sitting: Sitting, classes: Sequence[str]) -> View:
    """Ask the model, and bring what it says to the image's voxels.

    Args:
        classes: names, the background first.
    """
    image, session = opened.image, sitting.session
    structures = range(len(session.structures))
    answers = tuple(answer(model, image, session, structure) for structure in structures)
    votes = image.to_input(torch.stack([one.logits.sigmoid() for one in answers]).float()).cpu()
    labels = label_map(votes, _picked(opened, answers, sitting.said))
    labels = honoured(labels, sitting.said, classes)
    regions, offers = [], []
    for structure, one in enumerate(answers):
        clicks = session.structures[structure].clicks
        masks = []
        for candidate in range(min(len(one.candidates), len(CANDIDATE_NAMES))):
            logits = honour(one.logits_of(candidate), clicks)
            seen = (image.to_input(logits.sigmoid().float()[None])[0] > 0.5).cpu().numpy()
            masks.append(_with_clicks(seen, sitting.said, classes, structure + 1))
        shown = labels == structure + 1
        regions.append(regions_of(shown, masks))
        offers.append(_offers(opened, shown, masks, one.candidates, regions[-1]))
    return View(answers, labels, tuple(regions), tuple(offers))


def label_map(votes: torch.Tensor, picked: Sequence[tuple[int, torch.Tensor]] = ()) -> np.ndarray:
    """Class indices from soft votes `(structure, *space)`: the largest where it is above one half.

    Args:
        picked: structures with the voxels `(*space)` that picked candidates gave them, the latest pick last. There
            they need not have the largest vote; a click may have taken a voxel from them, and below one half they have
            none.
    """
    most, index = votes.max(dim=0)
    labels = torch.where(most > 0.5, index + 1, 0)
    for structure, given in picked:
        labels[given & (votes[structure] > 0.5)] = structure + 1
    return labels.to(torch.uint8).numpy()


def _picked(
    opened: Opened, answers: Sequence[StructureAnswer], said: Sequence[Said]
) -> list[tuple[int, torch.Tensor]]:
    """Structures with what picked candidates gave them, in the image's voxels; the latest pick last."""
    latest = {one.focus: turn for turn, one in enumerate(said) if _may_pick(one)}
    chosen = [
        (structure, one.choice.given)
        for structure, one in enumerate(answers)
        if one.choice is not None and len(answers) > 1
    ]
    chosen.sort(key=lambda each: latest.get(each[0], -1))
    return [
        (structure, opened.image.to_input(given.float()[None])[0].cpu() > 0.5) for structure, given in chosen
    ]


def _may_pick(said: Said) -> bool:
    return said.kind == "pick" or (said.kind == "click" and (said.offered or said.about in CANDIDATE_NAMES))


def regions_of(shown: np.ndarray, masks: Sequence[np.ndarray]) -> np.ndarray:
    """Disjoint regions in which candidates differ from what is shown, `(*space)` uint8: 1 is the first candidate's.

    A voxel in which several differ is the first one's, as they come with the best supported first.
    """
    regions = np.zeros(shown.shape, np.uint8)
    for number in range(len(masks), 0, -1):
        regions[masks[number - 1] != shown] = number
    return regions


def honoured(labels: np.ndarray, said: Sequence[Said], classes: Sequence[str]) -> np.ndarray:
    """The label map with every clicked voxel on the side that was said; of two for one voxel the later holds.

    Resampling can move a voxel to the other side of an edge that the model drew right.
    """
    corrected = labels.copy()
    for one in said:
        if one.kind != "click":
            continue
        index, inside = side_said(one, classes)
        if inside:
            corrected[one.place] = index
        elif index in (0, corrected[one.place]):
            corrected[one.place] = 0
    return corrected


def side_said(click: Said, classes: Sequence[str]) -> tuple[int, bool]:
    """The class that a click is about, 0 for all of them, and whether the voxel belongs to it."""
    if click.about in CANDIDATE_NAMES:
        return click.focus + 1, bool(click.meant)
    if click.about == BACKGROUND:
        return 0, False
    return classes.index(click.about), click.foreground


def _with_clicks(mask: np.ndarray, said: Sequence[Said], classes: Sequence[str], own: int) -> np.ndarray:
    for one in said:
        if one.kind != "click":
            continue
        index, inside = side_said(one, classes)
        if index in (0, own):
            mask[one.place] = inside
        elif inside:
            mask[one.place] = False
    return mask


def _offers(
    opened: Opened,
    shown: np.ndarray,
    masks: Sequence[np.ndarray],
    candidates: Sequence[Candidate],
    regions: np.ndarray,
) -> tuple[Offer, ...]:
    prepared = opened.image.prepared
    is_picture = len(opened.grid.shape) == 2
    voxel, unit = (1.0, "px") if is_picture else (opened.grid.voxel_volume_mm3 / MM3_PER_ML, "mL")

    def turned(mask: np.ndarray) -> np.ndarray:
        return to_canonical(mask[None], prepared.axes, prepared.flips)[0]

    found = []
    for number, (mask, candidate) in enumerate(zip(masks, candidates, strict=False)):
        added, removed = mask & ~shown, shown & ~mask
        if candidate.level:
            volumes = in_words(int(added.sum()) * voxel, int(removed.sum()) * voxel, unit)
            words = f"{'wider' if candidate.level < 0 else 'tighter'} all round, {volumes}"
        else:
            words = difference_in_words(turned(added), turned(removed), turned(shown), voxel, unit)
        found.append(
            Offer(
                letter=CANDIDATE_LETTERS[number],
                support=candidate.support,
                volume=int(mask.sum()) * voxel,
                added=int(added.sum()) * voxel,
                removed=int(removed.sum()) * voxel,
                unit=unit,
                words=words,
                place=middle_of(regions == number + 1),
            )
        )
    return tuple(found)


def middle_of(region: np.ndarray) -> tuple[int, ...] | None:
    """The voxel of a region that is nearest to its centre; None of an empty region."""
    places = np.argwhere(region)
    if not len(places):
        return None
    nearest = ((places - places.mean(axis=0)) ** 2).sum(axis=1).argmin()
    return tuple(int(n) for n in places[nearest])


def _dissimilarity(volume: float, added: float, removed: float) -> float:
    """One minus Dice of a candidate with what is shown."""
    total = volume + (volume - added + removed)
    return (added + removed) / total if total else 0.0
