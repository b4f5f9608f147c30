"""Patches of some cases are shown in the colours of others, where a lesson says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from overread.ensemble.lesson import Lesson, Pool, Restaining, Stain
from overread.ensemble.member_training import MemberTraining
from overread.ensemble.patch_store import PatchStore
from overread.ensemble.plan import Normalisation
from overread.ensemble.stain import colours_of
from overread.imaging.dataset import read_dataset
from support.pictures import write_tissue
from support.plans import tiny_plan

PLAN = replace(
    tiny_plan(axes=2, channels=3, mirror_axes=()), normalisation=(Normalisation("rgb"),) * 3, um_per_px=1.0
)
HERE, THERE = "tissue_00", "tissue_01"


@pytest.fixture
def store(tmp_path: Path) -> PatchStore:
    """Two pictures; the second is of a laboratory whose stain is greener and darker."""
    data = write_tissue(tmp_path / "data", 2)
    file = data / "imagesTr" / f"{THERE}_0000.png"
    picture = np.asarray(Image.open(file)) * np.array([0.5, 0.9, 0.5])
    Image.fromarray(picture.astype(np.uint8)).save(file)
    store = PatchStore(tmp_path / "cases")
    store.fill(read_dataset(data), PLAN, np.random.default_rng(0))
    return store


def first_patches(store: PatchStore, restaining: Restaining | None) -> torch.Tensor:
    """Some patches of the first picture, as a member gets them, `(patch, 3, 16, 16)`."""
    member = MemberTraining(
        0,
        PLAN,
        Lesson((Pool((HERE,)),), restaining=restaining),
        store,
        store.folder,
        seed=0,
        most_iterations=1,
        budget_s=None,
        checkpoint_every_s=1000,
        device=torch.device("cpu"),
        precision=torch.float32,
    )
    return torch.cat([member.batch(number)[0] for number in range(20)])


def distance(patches: torch.Tensor, case: str, store: PatchStore) -> float:
    """How far the patches' colours are from a case's; what lies outside of the pictures is black and left out."""
    pixels = patches.movedim(1, 0).flatten(1)
    seen = colours_of(pixels[:, pixels.amax(dim=0) > 0.2])
    return float((seen - store.colours(case)).norm())


def test_patches_get_the_colours_of_the_other_place(store: PatchStore) -> None:
    plain = first_patches(store, None)
    assert distance(plain, HERE, store) < distance(plain, THERE, store)
    turned = first_patches(store, Restaining(frozenset({HERE}), (Pool((THERE,), 1.0),)))
    assert distance(turned, THERE, store) < distance(turned, HERE, store)
    assert turned.min() >= 0
    assert turned.max() <= 1


def test_patches_get_the_stain_of_a_place(store: PatchStore) -> None:
    stain = Stain(1.0, store.colours(HERE), store.colours(THERE))
    turned = first_patches(store, Restaining(frozenset({HERE}), (stain,)))
    assert distance(turned, THERE, store) < distance(turned, HERE, store)
    half = first_patches(store, Restaining(frozenset({HERE}), (replace(stain, share=0.5),)))
    assert distance(turned, THERE, store) < distance(half, THERE, store)


def test_of_half_of_them_only_half_are_turned_and_of_other_cases_none(store: PatchStore) -> None:
    kept = distance(first_patches(store, None), THERE, store)
    half = distance(first_patches(store, Restaining(frozenset({HERE}), (Pool((THERE,), 0.5),))), THERE, store)
    turned = distance(
        first_patches(store, Restaining(frozenset({HERE}), (Pool((THERE,), 1.0),))), THERE, store
    )
    assert turned < half < kept
    others = first_patches(store, Restaining(frozenset({THERE}), (Pool((HERE,), 1.0),)))
    assert torch.equal(others, first_patches(store, None))
