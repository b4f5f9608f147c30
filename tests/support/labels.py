"""A small label store: one 6x5x4 grid, classes `background, organ, tumour`, images that exist."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from overread.domain import Grid
from overread.imaging.volumes import write_nifti
from overread.learning.accepted import AcceptedLabels, Submission
from overread.state.database import Database
from overread.state.labels import LabelRow, labels
from overread.state.servings import CONTROL, STRATEGY, Serving, serve

CLASSES = ("background", "organ", "tumour")
GRID = Grid((6, 5, 4), np.diag([-1.0, 1, 2, 1]))
RECIPE = "liver"


def block(value: int = 1, start: int = 1, end: int = 4) -> np.ndarray:
    """Value `value` in slices `start` to `end` of the first axis."""
    voxels = np.zeros(GRID.shape, np.uint8)
    voxels[start:end] = value
    return voxels


@dataclass
class LabelStore:
    """An accepted label store in a folder, with a clock that a test turns."""

    folder: Path

    def __post_init__(self) -> None:
        self.database = Database.open(self.folder / "overread.db")
        self.accepted = AcceptedLabels(self.folder / "accepted", self.database)
        self.now = 1000.0

    def add(
        self, case: str, rater: str = "anna", voxels: np.ndarray | None = None, **origin: Any
    ) -> LabelRow:
        """A label, one second after the one before."""
        self.now += 1
        origin = {"patient": case, "recipe": RECIPE, "classes": CLASSES} | origin
        submission = Submission(case_id=case, rater=rater, **origin)
        return self.accepted.add(block() if voxels is None else voxels, GRID, submission, self.now)

    def serve(
        self, case: str, arm: str = STRATEGY, client: str = "anna", patient: str | None = None
    ) -> Serving:
        """Hand a case to a client."""
        with self.database.writing() as c:
            return serve(
                c,
                case_id=case,
                patient=patient or case,
                client_id=client,
                recipe=RECIPE,
                champion="c0ffee",
                strategy="most_uncertain" if arm == STRATEGY else "foreground_random",
                arm=arm,
                reason="members disagree about tumour" if arm == STRATEGY else "control: drawn at random",
                score=0.5 if arm == STRATEGY else None,
                now=self.now,
                lease_s=1800,
            )

    def add_control(self, case: str, rater: str = "anna", patient: str | None = None) -> LabelRow:
        """A label of a case that was drawn at random."""
        serving = self.serve(case, CONTROL, patient=patient)
        return self.add(case, rater, serving=serving, patient=patient or case)

    def image_of(self, case: str) -> Path:
        """The image of any case: one is made where there is none."""
        path = self.folder / f"{case}.nii.gz"
        if not path.exists():
            write_nifti(path, np.zeros(GRID.shape, np.float32), GRID)
        return path

    def rows(self) -> list[LabelRow]:
        """All labels in the database."""
        with self.database.reading() as c:
            return labels(c)

    def cases(self, consensus: str = "latest") -> dict[str, Any]:
        """What training may use, by case."""
        found = self.accepted.cases(RECIPE, self.image_of, consensus, CLASSES)
        return {case.id: case for case in found}

    def files(self) -> set[str]:
        """Files below the label store."""
        root = self.accepted.folder
        return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()} - {".lock"}
