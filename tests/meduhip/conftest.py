"""What the tests of MedUHIP share."""

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded_torch() -> None:
    """The same random tensors in every run."""
    torch.manual_seed(0)
