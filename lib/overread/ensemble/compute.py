"""Which device computes, and in which precision."""

from __future__ import annotations

import os
from typing import Literal

import torch
from torch import nn

from overread.domain import BadInputError

Precision = Literal["auto", "full", "reduced"]
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str) -> torch.device:
    """`auto` takes a GPU where there is one. Raises BadInputError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BadInputError(f"device {name!r} is not known; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BadInputError(
            f"device {name!r} is not there: torch {torch.__version__} sees {torch.cuda.device_count()} GPUs; "
            "`overread doctor` says more"
        )
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The type that convolutions compute in; `auto` takes half precision where the hardware is faster with it."""
    if name == "auto":
        if device.type == "cuda":
            return (
                torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
            )
        return torch.bfloat16 if cpu_has_fast_bfloat16() else torch.float32
    if name not in PRECISIONS:
        raise BadInputError(f"precision {name!r} is not known; use auto, {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


def autocast_for(device: torch.device, precision: Precision) -> torch.autocast:
    """Autocast context: float16 on a GPU, bfloat16 on a CPU, or switched off.

    `auto` reduces on GPUs, and on CPUs that have instructions for bfloat16; elsewhere it would be slower.
    """
    if precision not in ("auto", "full", "reduced"):
        raise BadInputError(f"precision {precision!r} is not one of auto, full, reduced")
    on_gpu = device.type != "cpu"
    reduce = precision == "reduced" or (precision == "auto" and (on_gpu or cpu_has_fast_bfloat16()))
    return torch.autocast(device.type, dtype=torch.float16 if on_gpu else torch.bfloat16, enabled=reduce)


def cpu_has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 natively (AVX512-BF16 or AMX)."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )


def lay_out(
    network: nn.Module, device: torch.device, axes: int, precision: torch.dtype
) -> torch.memory_format:
    """Move a network to where it learns, with its weights in memory as is fastest there; its images are to lie alike.

    On processors that is the channels of a pixel or voxel side by side: forward and backward took a fifth to a third
    less time so with pictures, a seventh to a fifth less with volumes in float32. In bfloat16 a training of small
    volumes ended in NaN so; there volumes stay as they are.
    """
    layout = torch.contiguous_format
    if device.type == "cpu" and axes == 2:
        layout = torch.channels_last
    elif device.type == "cpu" and precision == torch.float32:
        layout = torch.channels_last_3d
    network.to(device, memory_format=layout)  # pyright: ignore[reportCallIssue]
    return layout


def leave_a_core(threads: int | None = None) -> int:
    """Let PyTorch compute on all cores of this process but one, or on `threads`. Returns the number set.

    Threads that share every step wait for each other where another program holds a core: on two cores, one
    thread was 3 to 4 times faster than two on a busy machine, and hardly slower on an idle one.
    """
    free = max(1, len(os.sched_getaffinity(0)) - 1)
    chosen = threads or min(free, torch.get_num_threads())
    torch.set_num_threads(chosen)
    return chosen
