"""The network learns at several resolutions and, loaded again, says exactly what it said."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from overread.domain import BadInputError
from overread.ensemble.dynunet import (
    SupervisedLoss,
    build_network,
    load_member,
    member_weights,
    supervised_logits,
)
from support.plans import tiny_plan

CPU = torch.device("cpu")


@pytest.mark.parametrize("axes", [2, 3])
def test_coarse_logits_are_those_that_monai_blows_up_and_stacks(axes: int) -> None:
    plan = tiny_plan(axes=axes, classes=3)
    network = build_network(plan, for_training=True).train()
    windows = torch.randn(2, 1, *plan.patch)
    stacked = network(windows).unbind(dim=1)
    full, half = supervised_logits(network, windows)
    assert full.shape == (2, 3, *plan.patch)
    assert half.shape == (2, 3, *(8,) * axes)
    assert torch.equal(full, stacked[0])
    assert torch.equal(F.interpolate(half, full.shape[2:]), stacked[1])


def test_resolutions_weigh_one_a_half_and_a_quarter_over_their_sum() -> None:
    loss = SupervisedLoss()
    labels = torch.zeros(1, 8, 8, dtype=torch.int64)
    labels[:, :4] = 1
    outputs = [torch.randn(1, 2, n, n) for n in (8, 4, 2)]
    alone = [
        loss([outputs[0]], labels),
        loss([outputs[1]], labels[:, ::2, ::2]),
        loss([outputs[2]], labels[:, ::4, ::4]),
    ]
    assert torch.allclose(loss(outputs, labels), (4 * alone[0] + 2 * alone[1] + alone[2]) / 7)


def test_loss_is_zero_for_sure_and_right_and_grows_with_the_sureness_of_the_wrong() -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.int64)
    labels[:, 2:5] = 1
    sure = 50.0 * F.one_hot(labels, 2).movedim(-1, 1).float()
    assert float(SupervisedLoss()([sure], labels)) == pytest.approx(0, abs=1e-4)
    # Wrong everywhere: the cross-entropy is the logits' distance, the Dice loss 1.
    assert float(SupervisedLoss()([-sure], labels)) == pytest.approx(51, abs=1e-3)


@pytest.mark.parametrize("axes", [2, 3])
def test_a_member_says_the_same_after_loading(axes: int, tmp_path: Path) -> None:
    plan = tiny_plan(axes=axes)
    network = build_network(plan, for_training=True)
    torch.save(member_weights(network), tmp_path / "member.pt")
    windows = torch.randn(2, 1, *plan.patch)
    member = load_member(plan, tmp_path / "member.pt", CPU)
    with torch.no_grad():
        assert torch.equal(member(windows), network.eval()(windows))
    assert not any(weight.requires_grad for weight in member.parameters())


def test_weights_hold_nothing_twice_and_no_training_heads() -> None:
    network = build_network(tiny_plan(), for_training=True)
    spoken = build_network(tiny_plan(), for_training=False)
    assert sum(w.numel() for w in member_weights(network).values()) == sum(
        w.numel() for w in spoken.parameters()
    )


def test_weights_of_another_plan_are_refused(tmp_path: Path) -> None:
    weights = member_weights(build_network(tiny_plan(classes=3), for_training=True))
    torch.save(weights, tmp_path / "other.pt")
    with pytest.raises(BadInputError, match=r"other\.pt does not fit the plan: .*size"):
        load_member(tiny_plan(classes=2), tmp_path / "other.pt", CPU)
    weights.pop("output_block.conv.conv.bias")
    torch.save(weights | {"more": torch.zeros(1)}, tmp_path / "less.pt")
    with pytest.raises(BadInputError, match=r"less\.pt does not fit the plan: 1 weights absent, 1 unknown"):
        load_member(tiny_plan(classes=3), tmp_path / "less.pt", CPU)
