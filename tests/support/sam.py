"""Small SAMs, and their weights as files hold them. Needs the extra `sam`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from overread.meduhip.sam_model import fresh_sam, small_configuration
from overread.meduhip.sam_weights import SAME_FREQUENCIES, original_name

if TYPE_CHECKING:
    from transformers import SamModel


def trained_sam(image_size: int = 64) -> SamModel:
    """Small, with positions that are not zero."""
    torch.manual_seed(3)
    sam = fresh_sam(small_configuration(image_size))
    with torch.no_grad():
        for name, parameter in sam.named_parameters():
            if "pos" in name and "encoder" in name:
                parameter.normal_(std=0.3)
    return sam


def as_original(sam: SamModel) -> dict[str, torch.Tensor]:
    """By the names of segment-anything."""
    return {
        original_name(name): tensor for name, tensor in sam.state_dict().items() if name != SAME_FREQUENCIES
    }


def write_sam(folder: Path, sam: SamModel, layout: str) -> Path:
    """A file as segment-anything writes it (`original`), or a folder as transformers does."""
    if layout == "original":
        folder.mkdir(parents=True)
        torch.save(as_original(sam), folder / "sam.pth")
        return folder / "sam.pth"
    sam.save_pretrained(folder)
    return folder
