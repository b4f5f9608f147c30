"""Device and precision are chosen by what is there, or as told."""

import os

import pytest
import torch

from overread.domain import BadInputError
from overread.ensemble.compute import (
    choose_device,
    choose_precision,
    cpu_has_fast_bfloat16,
    lay_out,
    leave_a_core,
)

CPU = torch.device("cpu")


def test_what_was_named_is_taken() -> None:
    assert choose_device("cpu") == CPU
    assert choose_precision("float32", CPU) == torch.float32
    assert choose_precision("bfloat16", CPU) == torch.bfloat16


def test_auto_takes_a_gpu_where_there_is_one_and_bfloat16_where_it_is_fast() -> None:
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_precision("auto", CPU) == (torch.bfloat16 if cpu_has_fast_bfloat16() else torch.float32)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(BadInputError, match="device 'gpu' is not known; use auto, cpu, cuda or cuda:N"):
        choose_device("gpu")
    with pytest.raises(BadInputError, match="precision 'half' is not known; use auto, float32"):
        choose_precision("half", CPU)


def test_a_gpu_that_is_not_there_is_refused() -> None:
    there = torch.cuda.device_count()
    with pytest.raises(
        BadInputError, match=rf"device 'cuda:{there}' is not there: torch .* sees {there} GPUs"
    ):
        choose_device(f"cuda:{there}")


@pytest.mark.parametrize(
    ("axes", "precision", "layout"),
    [
        (2, torch.float32, torch.channels_last),
        (2, torch.bfloat16, torch.channels_last),
        (3, torch.float32, torch.channels_last_3d),
        # A training of small volumes ended in NaN with channels side by side.
        (3, torch.bfloat16, torch.contiguous_format),
    ],
)
def test_weights_lie_as_is_fastest_on_a_processor(
    axes: int, precision: torch.dtype, layout: torch.memory_format
) -> None:
    network = (torch.nn.Conv2d if axes == 2 else torch.nn.Conv3d)(4, 4, 3)
    assert lay_out(network, CPU, axes, precision) == layout
    assert network.weight.is_contiguous(memory_format=layout)


def test_a_core_is_left_to_others_unless_told_otherwise() -> None:
    before = torch.get_num_threads()
    try:
        assert leave_a_core(3) == torch.get_num_threads() == 3
        assert leave_a_core() == max(1, min(3, len(os.sched_getaffinity(0)) - 1))
    finally:
        torch.set_num_threads(before)
