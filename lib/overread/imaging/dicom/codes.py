"""Codes for classes: SNOMED CT where DICOM's own dictionary knows the word, a private code otherwise."""

from __future__ import annotations

import re
from functools import cache

from highdicom.sr import CodedConcept
from pydicom.sr.codedict import codes

PRIVATE_SCHEME = "99OVERREAD"
# A code's value has at most 16 characters (VR SH), its meaning 64 (LO).
LONGEST_VALUE, LONGEST_MEANING = 16, 64
# DICOM PS3.16 CID 7150: what kind of thing a segment shows.
ANATOMICAL_STRUCTURE = CodedConcept("123037004", "SCT", "Anatomical Structure")
MORPHOLOGICALLY_ABNORMAL = CodedConcept("49755003", "SCT", "Morphologically Abnormal Structure")
# Words of findings, of which the dictionary has several codes or none, and how it calls them.
FINDINGS = {
    "tumor": "Neoplasm",
    "tumour": "Neoplasm",
    "neoplasm": "Neoplasm",
    "lesion": "Lesion",
    "nodule": "Nodule",
    "cyst": "Cyst",
    "edema": "Edema",
    "oedema": "Edema",
    "necrosis": "Necrosis",
}
SIDES = {"left": CodedConcept("7771000", "SCT", "Left"), "right": CodedConcept("24028007", "SCT", "Right")}


@cache
def category_of(name: str) -> CodedConcept:
    """Category of a class: a finding by its name, else anatomy."""
    return MORPHOLOGICALLY_ABNORMAL if set(_words(name)) & FINDINGS.keys() else ANATOMICAL_STRUCTURE


@cache
def type_of(name: str) -> CodedConcept:
    """Code of a class, its side aside: `left kidney` is SCT 64033007, Kidney.

    A name that the dictionary lacks, or has several codes for, gets a code of our own.
    """
    words = [FINDINGS.get(word, word) for word in _words(name) if word not in SIDES]
    try:
        known = getattr(codes.SCT, "".join(word.capitalize() for word in words))
    except (AttributeError, RuntimeError):
        return private(name)
    return CodedConcept(known.value, known.scheme_designator, known.meaning[:LONGEST_MEANING])


def side_of(name: str) -> CodedConcept | None:
    """Side of a class that its type does not say; None where the name holds none, or both."""
    sides = [SIDES[word] for word in _words(name) if word in SIDES]
    return sides[0] if len(sides) == 1 and type_of(name).scheme_designator != PRIVATE_SCHEME else None


def private(name: str) -> CodedConcept:
    """A code of our own scheme whose meaning is the name itself."""
    value = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_").upper()[:LONGEST_VALUE] or "UNNAMED"
    return CodedConcept(value, PRIVATE_SCHEME, name.strip()[:LONGEST_MEANING] or "unnamed")


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", name.lower())
