"""Members in training advance evenly, and stop together when one cannot go on."""

from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch

from overread.ensemble.lesson import Lesson, Pool
from overread.ensemble.member_training import MemberTraining
from overread.ensemble.patch_store import PatchStore
from overread.ensemble.turns import train_in_turns
from overread.imaging.dataset import read_dataset
from support.datasets import write_balls
from support.plans import tiny_plan


@pytest.fixture
def store(tmp_path: Path) -> PatchStore:
    store = PatchStore(tmp_path / "cases")
    dataset = read_dataset(write_balls(tmp_path / "data", 2))
    store.fill(dataset, tiny_plan(), np.random.default_rng(0))
    return store


def member(index: int, store: PatchStore, steps: int = 8) -> MemberTraining:
    return MemberTraining(
        index,
        tiny_plan(),
        Lesson((Pool(("ball_00", "ball_01")),)),
        store,
        store.folder,
        seed=0,
        most_iterations=steps,
        budget_s=None,
        checkpoint_every_s=1000,
        device=torch.device("cpu"),
        precision=torch.float32,
    )


def test_the_member_furthest_behind_goes_next(store: PatchStore) -> None:
    order: list[int] = []
    train_in_turns(
        [0.0, 1.0, 0.0],
        lambda index: member(index, store),
        lambda one: order.append(one.index),
        at_once=1,
        threads_each=1,
        turn_s=1e-9,
    )
    assert order == [0, 2] * 8
    assert sorted(path.name for path in store.folder.glob("member_*")) == [
        "member_0.json",
        "member_0.pt",
        "member_2.json",
        "member_2.pt",
    ]


def test_when_one_fails_the_others_keep_what_they_have(store: PatchStore) -> None:
    seen = set()

    def heard(one: MemberTraining) -> None:
        seen.add(one.index)
        if one.index == 0 and 1 in seen:
            raise RuntimeError("no memory left")

    with pytest.raises(RuntimeError, match="no memory left"):
        train_in_turns(
            [0.0, 0.0],
            lambda index: member(index, store, 10_000),
            heard,
            at_once=2,
            threads_each=1,
            turn_s=1000,
        )
    continued = member(1, store, 10_000)
    assert 0 < continued.iteration < 10_000


def test_asked_to_stop_all_keep_what_they_have(store: PatchStore) -> None:
    stop = Event()
    seen: list[int] = []

    def heard(one: MemberTraining) -> None:
        seen.append(one.index)
        if one.iteration == 3:
            stop.set()

    train_in_turns(
        [0.0, 0.0],
        lambda index: member(index, store, 10_000),
        heard,
        at_once=1,
        threads_each=1,
        turn_s=1e-9,
        asked_to_stop=stop,
    )
    assert seen == [0, 1, 0, 1, 0]
    assert member(0, store, 10_000).iteration == 3
