"""A training that does not wait for its steps tells the same of them, and keeps nothing of one that diverged."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Event

import pytest
import torch

from overread.ensemble.lesson import Lesson, Pool
from overread.ensemble.member_training import DivergedError, MemberTraining
from overread.ensemble.plan import Plan
from overread.studies.training_benchmark import NoiseStore, plan_of

PLAN = plan_of((16, 16), 2, 4, 8, 3)


class BreakingStore(NoiseStore):
    """Gives NaN from a certain patch on."""

    def __init__(self, plan: Plan, good: int) -> None:
        super().__init__(plan)
        self.left = good

    def sample(
        self, case: str, patch: tuple[int, ...], generator: torch.Generator, *, on_foreground: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        image, label = super().sample(case, patch, generator, on_foreground=on_foreground)
        self.left -= 1
        return (image if self.left >= 0 else image * torch.nan), label


def member(folder: Path, late: int, store: NoiseStore, save_every_s: float = 1e9) -> MemberTraining:
    folder.mkdir()
    made = MemberTraining(
        0,
        PLAN,
        Lesson((Pool(("noise",)),)),
        store,
        folder,
        seed=0,
        most_iterations=6,
        budget_s=None,
        checkpoint_every_s=save_every_s,
        device=torch.device("cpu"),
        precision=torch.float32,
        optimiser="adamw",
    )
    made.late = late
    return made


def test_read_late_the_steps_tell_the_same(tmp_path: Path) -> None:
    told = []
    for late in (0, 1, 3):
        trained = member(tmp_path / str(late), late, NoiseStore(PLAN))
        trained.run(1e9, Event(), lambda _: None)
        told.append((json.loads((tmp_path / str(late) / "member_0.json").read_text())["loss"], trained.dice))
    assert len(told[0][0]) == 6
    assert told[1] == told[2] == told[0]


def test_a_step_that_diverged_is_named_and_never_kept(tmp_path: Path) -> None:
    # Three steps of two patches are sound.
    trained = member(tmp_path / "work", 1, BreakingStore(PLAN, 6), save_every_s=0.0)
    with pytest.raises(DivergedError, match="the loss became nan at iteration 3"):
        trained.run(1e9, Event(), lambda _: None)
    kept = torch.load(tmp_path / "work" / "member_0.checkpoint.pt", weights_only=True)
    assert kept["iteration"] == 3
    assert all(bool(weights.isfinite().all()) for weights in kept["network"].values())
