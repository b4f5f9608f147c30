"""Chance that belongs to a case: the same case gives the same draw, whatever was drawn before."""

from __future__ import annotations

import hashlib

import numpy as np


def generator_of(case_id: str, *keys: int) -> np.random.Generator:
    """A generator that a case's name and some whole numbers (of at least 0) decide."""
    digest = hashlib.sha256(case_id.encode()).digest()
    return np.random.default_rng([*keys, int.from_bytes(digest[:8], "big")])
