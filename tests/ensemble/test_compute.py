"""Device and precision are chosen by what is there, or as told."""

import pytest
import torch

from overread.domain import BadInputError
from overread.ensemble.compute import choose_device, choose_precision
from overread.ensemble.precision import cpu_has_fast_bfloat16

CPU = torch.device("cpu")


def test_what_was_named_is_taken() -> None:
    assert choose_device("cpu") == CPU
    assert choose_precision("float32", CPU) == torch.float32
    assert choose_precision("bfloat16", CPU) == torch.bfloat16


def test_auto_takes_a_gpu_where_there_is_one_and_bfloat16_where_it_is_fast() -> None:
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_precision("auto", CPU) == (torch.bfloat16 if cpu_has_fast_bfloat16() else torch.float32)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(BadInputError, match="device 'gpu' is not known; use auto, cpu or cuda"):
        choose_device("gpu")
    with pytest.raises(BadInputError, match="precision 'half' is not known; use auto, float32"):
        choose_precision("half", CPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"device 'cuda' is not there: torch .* sees no GPU"):
        choose_device("cuda")
