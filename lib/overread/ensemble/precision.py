"""Which arithmetic the networks use."""

from __future__ import annotations

from typing import Literal

import torch

from overread.domain import BadInputError

Precision = Literal["auto", "full", "reduced"]


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
