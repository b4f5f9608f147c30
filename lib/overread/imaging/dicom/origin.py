"""Who and what made a DICOM object of ours, and how it is told from others."""

from __future__ import annotations

import re
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pydicom.dataset import Dataset

MANUFACTURER = "Overread"
# Lengths of the value representations SH and LO, and of one group of a person's name.
SHORT, LONG, NAME = 16, 64, 64
# The namespace of the UIDs that are derived from what an object holds; any fixed UUID serves.
NAMESPACE = uuid.UUID("6f2c1d1e-7a55-4c1b-9b6a-0f0e8d3f5a11")
SERIES_NUMBER = 900
# PS3.3 C.12.1.1: what every object of a study carries, possibly empty.
REQUIRED = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)


@dataclass(frozen=True)
class Origin:
    """Where a label or map comes from.

    Attributes:
        key: what tells this object from all others; its UIDs follow from it, so that storing twice is storing once.
        reader: who accepted it; empty for what nobody accepted.
        recipe: the model's name; empty where none is known.
        champion: identity of the ensemble that proposed; empty where none did.
        description: a sentence about it, of which the first 64 characters are kept.
    """

    key: str
    reader: str = ""
    recipe: str = ""
    champion: str = ""
    description: str = ""

    @property
    def series_uid(self) -> str:
        """SeriesInstanceUID of the object."""
        return derived_uid(self.key, "series")

    @property
    def sop_uid(self) -> str:
        """SOPInstanceUID of the object."""
        return derived_uid(self.key, "instance")


def derived_uid(*parts: str) -> str:
    """A UID that follows from words, below 2.25 (PS3.5 annex B.2)."""
    return f"2.25.{uuid.uuid5(NAMESPACE, '|'.join(parts)).int}"


def serial_number(origin: Origin) -> str:
    """Stands for the device: the model's weights are what differs from installation to installation."""
    return (origin.champion or "none")[:LONG]


def person_name(name: str) -> str:
    r"""A reader's name as a DICOM person's name; `^`, `=` and `\` divide its parts and cannot be in it."""
    cleaned = re.sub(r"[\^=\\]+", " ", name).strip()[: NAME - 1]
    return f"{cleaned or 'anonymous'}^"


def plain_name(name: object) -> str:
    """A DICOM person's name as people write it; empty where there is none."""
    return re.sub(r"[\^=\s]+", " ", str(name or "")).strip()


def completed(instance: Dataset) -> Dataset:
    """The header with every element that a derived object must carry; what was missing is empty."""
    whole = Dataset()
    whole.update(instance)
    for keyword in REQUIRED:
        if keyword not in whole:
            setattr(whole, keyword, "")
    if not whole.get("FrameOfReferenceUID"):
        # Of a series without one, the slices among themselves still have their places.
        whole.FrameOfReferenceUID = derived_uid(str(whole.get("SeriesInstanceUID")), "frame of reference")
    whole.SpecificCharacterSet = "ISO_IR 192"
    if whole.PatientSex not in ("M", "F", "O", ""):
        whole.PatientSex = ""
    return whole


def stamped(made: Dataset, origin: Origin, what: str) -> Dataset:
    """The object with a description that lists and viewers show. Changes the object."""
    model = f" {origin.recipe}" if origin.recipe else ""
    by = f", {origin.reader}" if origin.reader else ""
    # Texts are decoded already, whatever the series was written in.
    made.SpecificCharacterSet = "ISO_IR 192"
    made.SeriesDescription = f"Overread{model}: {what}{by}"[:LONG]
    return made


@contextmanager
def as_the_study_says() -> Iterator[None]:
    """Patients' and physicians' names are taken over as they are; highdicom warns of those without a `^`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*unlikely to represent the intended person name")
        yield
