"""Central and local cases side by side: who learns from which, and who may judge by which.

A case is judged only by members that never learnt from its patient. Three kinds are never learnt from by some or all
members: what was held out when the recipe was trained; local cases that are protected (drawn by chance, for ever);
and, while there are few of those, one fold of the other local cases each.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from overread.domain import BadInputError
from overread.ensemble.storage import read_description
from overread.imaging.dataset import Case, Dataset, read_dataset
from overread.learning.central import (
    CentralData,
    changed,
    files_of,
    protected_of,
    take_stock,
    write_central,
)

logger = logging.getLogger(__name__)

RETRAINABLE = ("dynunet", "meduhip")
# Before the id of a local case, so that it never collides with a central one.
LOCAL = "local-"


@dataclass(frozen=True)
class LocalCase:
    """A case that was labelled here.

    Attributes:
        id: of the case in the datastore.
        channels: image files in channel order.
        label: its accepted label; voxels may be `IGNORE`.
        patient: whose it is.
        protected: kept from training for ever, to judge by.
        centre: where it was made; empty where that is not known.
        ratings: each rater's own label, where several gave one.
    """

    id: str
    channels: tuple[Path, ...]
    label: Path
    patient: str
    protected: bool
    centre: str = ""
    ratings: tuple[Path, ...] = ()


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """All cases of one retraining.

    Attributes:
        dataset: all of them; the ids of local ones begin with `local-`.
        local, central: their ids.
        protected: ids that no member learns from.
        unseen: by case id, the members that have never learnt from it and never will in this training. A case that
            is not named was seen by all.
        patients: by case id.
        centres: where local cases were made, by case id; a case whose centre is not known is not named.
        ratings: each rater's own label of the local cases that several labelled, by case id.
        unlabelled: ids of further pictures, of which no reader labelled anything (see `with_unlabelled`).
    """

    dataset: Dataset
    local: frozenset[str]
    central: frozenset[str]
    protected: frozenset[str]
    unseen: Mapping[str, tuple[int, ...]]
    patients: Mapping[str, str]
    centres: Mapping[str, str] = field(default_factory=dict)
    ratings: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    unlabelled: frozenset[str] = frozenset()

    def learnt_by(self, member: int, ids: frozenset[str]) -> list[str]:
        """Those of `ids` that a member learns from, sorted."""
        return sorted(case for case in ids - self.protected if member not in self.unseen.get(case, ()))


def training_set(
    champion: Path, central: CentralData, local: Sequence[LocalCase], fewest_protected: int = 5
) -> TrainingSet:
    """Put the cases of the next retraining together.

    Central cases keep the members that never saw them. A protected local case is unseen by all. Of the others each
    patient is kept from one member, the same one in every round (a hash of the patient decides), while fewer than
    `fewest_protected` local patients are protected: a cross-validation that costs no further training. An ensemble
    of one member cannot spare it, nor can a MedUHIP model, whose members are draws of one network.

    Central training cases that changed or went missing are left out, with a warning in the log.

    Args:
        champion: its folder.
        central: what it was trained on.
        local: accepted cases.
        fewest_protected: patients that are enough to judge by.

    Raises:
        BadInputError: the champion cannot be retrained; central data are others, or their protected files changed.
    """
    description = read_description(champion)
    ensure_retrainable(description)
    # Of a MedUHIP model, the draws that it is as an ensemble.
    members = len(description["plan"]["held_out"])
    dataset, unseen = _central(champion, description, central)
    here = frozenset(unseen)

    patients = {case.id: dataset.patient_of(case.id) for case in dataset.cases}
    protected = {case for case in central.protected if case in here}
    unseen = {case: who for case, who in unseen.items() if who}
    learnt = [set(keys) for keys in description["plan"].get("learnt", [[]] * members)]
    folds = (
        len(description["members"]) > 1
        and len({case.patient for case in local if case.protected}) < fewest_protected
    )
    cases = list(dataset.cases)
    for case in sorted(local, key=lambda case: case.id):
        name = LOCAL + case.id
        if name in patients:
            raise BadInputError(f"case {name} is there twice; each local case has one label in a training")
        cases.append(Case(name, case.channels, case.label))
        patients[name] = case.patient
        key = patient_key(case.patient)
        kept_from = range(members) if case.protected else [int(key, 16) % members] if folds else []
        if case.protected:
            protected.add(name)
        if who := tuple(member for member in kept_from if key not in learnt[member]):
            unseen[name] = who
    return TrainingSet(
        dataset=replace(dataset, cases=tuple(cases), announced=len(cases), patients=patients),
        local=frozenset(patients) - here,
        central=here,
        protected=frozenset(protected),
        unseen=unseen,
        patients=patients,
        centres={LOCAL + case.id: case.centre for case in local if case.centre},
        ratings={LOCAL + case.id: case.ratings for case in local if case.ratings},
    )


def with_unlabelled(cases: TrainingSet, pictures: Sequence[LocalCase]) -> TrainingSet:
    """The same with pictures that no reader labelled; nobody is judged by them.

    Either their labels are `IGNORE` all over: then batch norms see them beside the labelled ones of the same centre
    where places are kept apart (`RetrainingOptions.apart`), since what is asked about is not like the rest of a slide.
    Or a model labelled them where it is sure (`pseudo_labels`): then they teach (`RetrainingOptions.pseudo_share`).

    Args:
        pictures: each with a label and a centre.

    Raises:
        BadInputError: a picture is there already.
    """
    ids = [LOCAL + picture.id for picture in pictures]
    if known := sorted({*ids} & {case.id for case in cases.dataset.cases}):
        raise BadInputError(f"picture {known[0]} is among the labelled cases")
    more = tuple(Case(id, p.channels, p.label) for id, p in zip(ids, pictures, strict=True))
    patients = {**cases.patients, **{id: p.patient for id, p in zip(ids, pictures, strict=True)}}
    everything = (*cases.dataset.cases, *more)
    return replace(
        cases,
        dataset=replace(cases.dataset, cases=everything, announced=len(everything), patients=patients),
        patients=patients,
        centres={**cases.centres, **{id: p.centre for id, p in zip(ids, pictures, strict=True)}},
        unlabelled=frozenset(ids),
    )


def locate_central(champion: Path, data_folder: Path) -> CentralData:
    """Write down, for a champion that was trained before this was kept or whose data were moved, where its data are.

    Args:
        champion: folder in the champion store.
        data_folder: in nnU-Net's raw layout.

    Raises:
        BadInputError: they are not the data that it was trained on, as far as that can be told.
    """
    description = read_description(champion)
    ensure_retrainable(description)
    dataset = read_dataset(data_folder)
    facts = description["plan"]["training"]
    if (count := facts.get("central", facts["cases"])) > len(dataset.cases):
        raise BadInputError(
            f"{data_folder} holds {len(dataset.cases)} cases, champion {champion.name} was trained on {count}"
        )
    protected = {case for case in protected_of(description) if not case.startswith(LOCAL)}
    central = take_stock(data_folder, dataset, protected)
    _central(champion, description, central)
    write_central(champion.parent, central)
    return central


def ensure_retrainable(description: Mapping[str, Any]) -> None:
    """Raise BadInputError unless the model is of a kind that was trained here."""
    if description["kind"] not in RETRAINABLE:
        raise BadInputError(
            f"model {description['name']} is of kind {description['kind']}, and only models that `overread train` "
            f"made (kinds {', '.join(RETRAINABLE)}) learn from accepted labels; train one of those on your data first"
        )


def patient_key(patient: str) -> str:
    """A stable name that does not tell the patient."""
    return sha256(patient.encode()).hexdigest()[:16]


def _central(
    champion: Path, description: Mapping[str, Any], central: CentralData
) -> tuple[Dataset, dict[str, tuple[int, ...]]]:
    """The central cases that can be used, and by id the members that never saw them."""
    if not central.folder.exists():
        raise BadInputError(
            f"the data that {description['name']} was trained on are not in {central.folder} any more; put them "
            f"back, or say where they are with `overread central {description['name']} --data DIR`"
        )
    dataset = read_dataset(central.folder)
    for what in ("classes", "channels"):
        if list(getattr(dataset, what)) != list(description[what]):
            raise BadInputError(
                f"{central.folder} has the {what} {', '.join(getattr(dataset, what))}, champion {champion.name} has "
                f"{', '.join(description[what])}; are these the data that it was trained on?"
            )
    known = {*central.training, *central.protected}
    held_out = [set(ids) for ids in description["plan"]["held_out"]]
    unseen = {case: tuple(m for m, ids in enumerate(held_out) if case in ids) for case in known}
    strangers = {case for ids in held_out for case in ids if not case.startswith(LOCAL)} - known
    strangers |= {case for case in central.protected if len(unseen[case]) < len(held_out)}
    if strangers:
        raise BadInputError(
            f"champion {champion.name} and the central data in {central.folder} do not agree on what was held out "
            f"(case {min(strangers)}); say which data it was trained on with `overread central "
            f"{description['name']} --data DIR`"
        )

    lost = set(changed(central))
    cases = {case.id: case for case in dataset.cases if case.id in known}
    broken = {
        id: sorted(path for path in lost if id in cases and path in _names(cases[id], central.folder))
        for id in known
    }
    broken = {id: paths for id, paths in broken.items() if paths or id not in cases}
    if judged := sorted(id for id in broken if unseen[id]):
        names = ", ".join(", ".join(broken[id]) or f"all files of {id}" for id in judged)
        raise BadInputError(
            f"protected cases in {central.folder} changed or went missing: {names}; put them back as they were, "
            f"or train again with `overread train {description['name']}`"
        )
    for id in sorted(broken):
        logger.warning("central case %s changed or went missing; it is not trained on", id)
    kept = tuple(case for case in dataset.cases if case.id in known and case.id not in broken)
    return replace(dataset, cases=kept, announced=len(kept)), {case.id: unseen[case.id] for case in kept}


def _names(case: Case, folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in files_of(case)}
