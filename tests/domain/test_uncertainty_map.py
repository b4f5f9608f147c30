"""An uncertainty map holds finite numbers that are not negative, or does not exist."""

import pytest
import torch

from overread.domain import OverreadError, UncertaintyMap


def test_holds_doubt_with_its_unit_and_bound():
    field = UncertaintyMap(torch.tensor([0.0, 0.5]), "nat", 0.7)
    assert field.values.tolist() == [0.0, 0.5]
    assert (field.unit, field.upper) == ("nat", 0.7)


def test_may_be_empty():
    assert UncertaintyMap(torch.empty(0, 3), "1", 1).values.numel() == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_refuses_values_that_are_not_finite(bad):
    with pytest.raises(OverreadError, match="not finite; were the opinions finite"):
        UncertaintyMap(torch.tensor([0.1, bad]), "nat", 0.7)


def test_refuses_negative_doubt():
    with pytest.raises(OverreadError, match=r"goes down to -0\.5, expected >= 0"):
        UncertaintyMap(torch.tensor([0.1, -0.5]), "nat", 0.7)
