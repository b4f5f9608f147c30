"""Which device computes, and in which precision."""

from __future__ import annotations

import torch

from overread.domain import BadInputError
from overread.ensemble.precision import cpu_has_fast_bfloat16

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str) -> torch.device:
    """`auto` takes a GPU where there is one. Raises BadInputError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BadInputError(f"device {name!r} is not known; use auto, cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BadInputError(f"device {name!r} is not there: torch {torch.__version__} sees no GPU")
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
