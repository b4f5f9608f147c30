"""Arrays at the door of this room: NumPy or torch in, a torch tensor of a type that can be counted out."""

from __future__ import annotations

import numpy as np
import torch

from overread.domain import BadInputError

# torch knows these, but can neither compare nor sort them.
_WIDER = {np.dtype(np.uint16): np.int32, np.dtype(np.uint32): np.int64, np.dtype(np.uint64): np.int64}


def tensor_of(array: torch.Tensor | np.ndarray) -> torch.Tensor:
    """The same values as a tensor, without a copy where NumPy's layout allows; never to be written to."""
    if isinstance(array, torch.Tensor):
        return array
    # torch takes neither read-only nor flipped arrays.
    return torch.from_numpy(np.require(array, _WIDER.get(array.dtype), ["C", "W"]))


def class_numbers(labels: torch.Tensor | np.ndarray, who: str) -> torch.Tensor:
    """Label maps as an integer tensor. Raises BadInputError where they hold no class numbers."""
    tensor = tensor_of(labels)
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise BadInputError(f"{who} needs class numbers, got {tensor.dtype}; are these probabilities?")
    return tensor
