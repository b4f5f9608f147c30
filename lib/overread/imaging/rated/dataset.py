"""Cases that several people labelled, how to divide them, and everything that is wrong with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from overread.domain import BadInputError, NotFoundError
from overread.imaging.dataset import BrokenDatasetError, Problem
from overread.imaging.rated.image import RatedImage


class Fault(NamedTuple):
    """A file, and what is wrong with it."""

    file: Path | None
    what: str

    def __str__(self) -> str:
        return self.what if self.file is None or str(self.file) in self.what else f"{self.file} {self.what}"


@dataclass(frozen=True, eq=False)
class Examined:
    """What reading a case came to: the image, or the faults that stand against it."""

    image: RatedImage | None
    faults: tuple[Fault, ...] = ()


class Source(Protocol):
    """Where a case lies; holds paths, and reads when it is asked."""

    def examine(self, raters: tuple[str, ...]) -> Examined:
        """Read image and masks; bad files are faults, never an error."""
        ...


@dataclass(frozen=True)
class RatedCase:
    """One image that several people labelled; no voxel was read yet.

    Attributes:
        id: its name.
        patient: whose it is; cases of one patient are never divided.
        raters: who labelled it, in the order in which `read` gives their masks.
        source: its files.
        subset: the part of the data set it was published in, such as `Training`.
    """

    id: str
    patient: str
    raters: tuple[str, ...]
    source: Source
    subset: str | None = None

    def read(self) -> RatedImage:
        """Read image and masks.

        Raises:
            BadInputError: a file is missing or cannot be used; `check_rated` tells all that is wrong.
        """
        examined = self.examine()
        if examined.image is None:
            raise BadInputError(f"case {self.id}: {examined.faults[0]}")
        return examined.image

    def examine(self) -> Examined:
        """Read image and masks, or say all that stands against it."""
        if not self.raters:
            return Examined(None, (Fault(None, "has no mask: nobody labelled it"),))
        return self.source.examine(self.raters)


@dataclass(frozen=True)
class Fold:
    """A division of the cases by patient."""

    train: tuple[RatedCase, ...]
    test: tuple[RatedCase, ...]


@dataclass(frozen=True)
class RatedDataset:
    """Cases that several people labelled.

    Attributes:
        name: of the data set.
        cases: sorted by id, which are unique.
        same_raters: whether a rater's name is the same person in every case. Where it is not (LIDC numbers its
            anonymous readers anew for each scan), nothing can be learnt about a rater from another case.
        strays: what was found wrong while listing; `check_rated` tells it with the rest.
    """

    name: str
    cases: tuple[RatedCase, ...]
    same_raters: bool = True
    strays: tuple[Problem, ...] = ()

    def __post_init__(self) -> None:
        if not self.cases:
            raise NotFoundError(f"dataset {self.name} holds no case")
        ids = Counter(case.id for case in self.cases)
        if twice := sorted(name for name, count in ids.items() if count > 1):
            raise BadInputError(f"dataset {self.name} has several cases of the name {', '.join(twice)}")
        object.__setattr__(self, "cases", tuple(sorted(self.cases, key=lambda case: case.id)))

    @property
    def patients(self) -> tuple[str, ...]:
        """Whose the cases are, sorted."""
        return tuple(sorted({case.patient for case in self.cases}))

    @property
    def raters(self) -> tuple[str, ...]:
        """All names of raters, sorted."""
        return tuple(sorted({rater for case in self.cases for rater in case.raters}))

    @property
    def subsets(self) -> tuple[str, ...]:
        """The parts in which the data set was published, sorted; none where it was published as one."""
        return tuple(sorted({case.subset for case in self.cases if case.subset is not None}))

    def of_subset(self, *names: str) -> RatedDataset:
        """The cases of these published parts.

        Raises:
            NotFoundError: there is no such part.
        """
        if unknown := [name for name in names if name not in self.subsets]:
            there = ", ".join(self.subsets) or "none"
            raise NotFoundError(f"dataset {self.name} has no part {unknown[0]!r}; there are {there}")
        return self.of_cases(case for case in self.cases if case.subset in names)

    def of_cases(self, cases: Iterable[RatedCase]) -> RatedDataset:
        """The same data set with some of its cases."""
        return replace(self, cases=tuple(cases))

    def folds(self, count: int, generator: np.random.Generator) -> tuple[Fold, ...]:
        """Divide into `count` test sets of about as many cases each, drawn by patient.

        Args:
            count: number of folds.
            generator: the same state gives the same folds, whatever order the files were listed in.

        Raises:
            BadInputError: fewer than two folds, or fewer patients than folds.
        """
        if not 2 <= count <= len(self.patients):
            raise BadInputError(
                f"{count} folds of dataset {self.name} are not possible: at least 2, and at most its "
                f"{len(self.patients)} patients"
            )
        sizes = Counter(case.patient for case in self.cases)
        # Large patients first, so that the folds come out even; chance decides among patients of one size.
        order = sorted(generator.permutation(self.patients).tolist(), key=lambda name: -sizes[name])
        fold_of: dict[str, int] = {}
        filled = [0] * count
        for patient in order:
            smallest = filled.index(min(filled))
            fold_of[patient] = smallest
            filled[smallest] += sizes[patient]
        return tuple(
            Fold(
                train=tuple(case for case in self.cases if fold_of[case.patient] != index),
                test=tuple(case for case in self.cases if fold_of[case.patient] == index),
            )
            for index in range(count)
        )


def check_rated(dataset: RatedDataset, progress: Callable[[int, int], None] | None = None) -> list[Problem]:
    """Read every file once and list all that is wrong; an empty list means sound.

    Args:
        dataset: from `read_rated`.
        progress: called with (cases read, cases) after each case.
    """
    problems = list(dataset.strays)
    forms: dict[str, tuple[int, int]] = {}
    for index, case in enumerate(dataset.cases):
        examined = case.examine()
        problems += [
            Problem(case.id, fault.file.name if fault.file else "", fault.what) for fault in examined.faults
        ]
        if examined.image is not None:
            forms[case.id] = (examined.image.image.ndim - 1, len(examined.image.image))
        if progress is not None:
            progress(index + 1, len(dataset.cases))
    if len(set(forms.values())) > 1:
        usual = Counter(forms.values()).most_common(1)[0][0]
        problems += [
            Problem(case, "", f"{_in_words(form)}, most cases are {_in_words(usual)}")
            for case, form in forms.items()
            if form != usual
        ]
    return problems


def ensure_rated_sound(dataset: RatedDataset, progress: Callable[[int, int], None] | None = None) -> None:
    """Raise one BrokenDatasetError that holds all problems (see `check_rated`), if there are any."""
    if problems := check_rated(dataset, progress):
        raise BrokenDatasetError(dataset, problems)


def _in_words(form: tuple[int, int]) -> str:
    axes, channels = form
    return f"{axes}-D with {channels} channel{'' if channels == 1 else 's'}"
