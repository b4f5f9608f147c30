"""Weights of SAM (Kirillov et al. 2023, arXiv:2304.02643) and MedSAM (Ma et al. 2024, arXiv:2304.12306) from a file.

They go about in two formats: the state dict of the segment-anything repository (`sam_vit_b_01ec64.pth`,
`medsam_vit_b.pth`), and the folder that transformers writes (`model.safetensors` or `pytorch_model.bin` with a
`config.json`). Names are transformers' here; `ORIGINAL_NAMES` says what is called what.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from overread.domain import BadInputError, NotFoundError, install_command

# What transformers' folder may hold, best first.
FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")
# Under which a training script keeps the network beside its optimiser.
WRAPPERS = ("model", "state_dict")
# Of `DistributedDataParallel`.
PARALLEL = "module."
# Names that a message lists.
LISTED = 4

POSITIONS = "vision_encoder.pos_embed"
FREQUENCIES = "shared_image_embedding.positional_embedding"
# The same numbers again; a file may hold one or both.
SAME_FREQUENCIES = "prompt_encoder.shared_embedding.positional_embedding"

# Beginnings of names, segment-anything's to transformers'; `#` is a number that stays. Others are the same in both.
ORIGINAL_NAMES = {
    "image_encoder.pos_embed": POSITIONS,
    "image_encoder.patch_embed.proj": "vision_encoder.patch_embed.projection",
    "image_encoder.blocks.#.norm1": "vision_encoder.layers.#.layer_norm1",
    "image_encoder.blocks.#.norm2": "vision_encoder.layers.#.layer_norm2",
    "image_encoder.blocks.#.attn": "vision_encoder.layers.#.attn",
    "image_encoder.blocks.#.mlp": "vision_encoder.layers.#.mlp",
    "image_encoder.neck.0": "vision_encoder.neck.conv1",
    "image_encoder.neck.1": "vision_encoder.neck.layer_norm1",
    "image_encoder.neck.2": "vision_encoder.neck.conv2",
    "image_encoder.neck.3": "vision_encoder.neck.layer_norm2",
    "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix": FREQUENCIES,
    "prompt_encoder.point_embeddings.#": "prompt_encoder.point_embed.#",
    "prompt_encoder.mask_downscaling.0": "prompt_encoder.mask_embed.conv1",
    "prompt_encoder.mask_downscaling.1": "prompt_encoder.mask_embed.layer_norm1",
    "prompt_encoder.mask_downscaling.3": "prompt_encoder.mask_embed.conv2",
    "prompt_encoder.mask_downscaling.4": "prompt_encoder.mask_embed.layer_norm2",
    "prompt_encoder.mask_downscaling.6": "prompt_encoder.mask_embed.conv3",
    "mask_decoder.transformer.layers.#.norm#": "mask_decoder.transformer.layers.#.layer_norm#",
    "mask_decoder.transformer.norm_final_attn": "mask_decoder.transformer.layer_norm_final_attn",
    "mask_decoder.output_upscaling.0": "mask_decoder.upscale_conv1",
    "mask_decoder.output_upscaling.1": "mask_decoder.upscale_layer_norm",
    "mask_decoder.output_upscaling.3": "mask_decoder.upscale_conv2",
    "mask_decoder.output_hypernetworks_mlps.#.layers.0": "mask_decoder.output_hypernetworks_mlps.#.proj_in",
    "mask_decoder.output_hypernetworks_mlps.#.layers.1": "mask_decoder.output_hypernetworks_mlps.#.layers.0",
    "mask_decoder.output_hypernetworks_mlps.#.layers.2": "mask_decoder.output_hypernetworks_mlps.#.proj_out",
    "mask_decoder.iou_prediction_head.layers.0": "mask_decoder.iou_prediction_head.proj_in",
    "mask_decoder.iou_prediction_head.layers.1": "mask_decoder.iou_prediction_head.layers.0",
    "mask_decoder.iou_prediction_head.layers.2": "mask_decoder.iou_prediction_head.proj_out",
}


@dataclass(frozen=True, eq=False)
class SamWeights:
    """The weights of one file.

    Attributes:
        path: of the file.
        tensors: by transformers' names; `FREQUENCIES` once.
        original: whether the file speaks segment-anything's names.
    """

    path: Path
    tensors: Mapping[str, torch.Tensor]
    original: bool

    @property
    def configuration_file(self) -> Path | None:
        """transformers' `config.json` beside the weights, if there is one."""
        beside = self.path.parent / "config.json"
        return beside if not self.original and beside.is_file() else None

    def fitted(self, wanted: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The weights for a network with the tensors `wanted`, which may live on the meta device.

        Positions are interpolated where the network sees smaller or larger pictures than it was trained on: 1024
        pixels are 64 cells, 512 are 32.

        Raises:
            BadInputError: names are missing, unknown, or of another size.
        """
        tensors = {**self.tensors, SAME_FREQUENCIES: self.tensors[FREQUENCIES]}
        missing = [name for name in wanted if name not in tensors]
        unexpected = [name for name in tensors if name not in wanted]
        if missing or unexpected:
            raise BadInputError(
                f"{self.path} does not hold this SAM: missing {self._listed(missing)}; unexpected "
                f"{self._listed(unexpected)}; is it another size of SAM, or another model?"
            )
        fitting = {name: _resized(name, tensors[name], tuple(like.shape)) for name, like in wanted.items()}
        wrong = [name for name, like in wanted.items() if fitting[name].shape != like.shape]
        if wrong:
            first = wrong[0]
            raise BadInputError(
                f"{self.path} does not hold this SAM: {self._listed(wrong)} of another size, the first "
                f"{tuple(tensors[first].shape)}, expected {tuple(wanted[first].shape)}"
            )
        return fitting

    def _listed(self, names: Iterable[str]) -> str:
        own = sorted(original_name(name) if self.original else name for name in names)
        more = f" and {len(own) - LISTED} more" if len(own) > LISTED else ""
        return (", ".join(own[:LISTED]) or "none") + more


def read_weights(path: Path | str) -> SamWeights:
    """Read the weights of SAM or MedSAM.

    Args:
        path: a state dict of segment-anything, a folder that transformers wrote, or its file of weights.

    Raises:
        NotFoundError: nothing is there.
        BadInputError: what is there is no SAM.
    """
    path = _file_of(Path(path))
    state = _network_in(_loaded(path))
    original = any(name.startswith("image_encoder.") for name in state)
    if original:
        state = {transformers_name(name): tensor for name, tensor in state.items()}
    tensors = {name: tensor.float() for name, tensor in state.items()}
    if SAME_FREQUENCIES in tensors:
        tensors.setdefault(FREQUENCIES, tensors[SAME_FREQUENCIES])
        del tensors[SAME_FREQUENCIES]
    absent = [name for name in (POSITIONS, FREQUENCIES) if name not in tensors]
    if absent:
        raise BadInputError(
            f"{path} holds no SAM: {len(tensors)} tensors, none of them called {' or '.join(absent)} or, as in "
            f"segment-anything, {' or '.join(original_name(name) for name in absent)}"
        )
    return SamWeights(path, tensors, original)


def transformers_name(name: str) -> str:
    """segment-anything's name as transformers says it."""
    return _translated(name, ORIGINAL_NAMES.items())


def original_name(name: str) -> str:
    """transformers' name as segment-anything says it."""
    if name == SAME_FREQUENCIES:
        name = FREQUENCIES
    return _translated(name, ((theirs, original) for original, theirs in ORIGINAL_NAMES.items()))


def _translated(name: str, table: Iterable[tuple[str, str]]) -> str:
    for source, target in table:
        pattern = re.escape(source).replace(r"\#", r"(\d+)") + r"(?=\.|$)"
        found = re.match(pattern, name)
        if found:
            return target.replace("#", "%s") % found.groups() + name[found.end() :]
    return name


def _file_of(path: Path) -> Path:
    if path.is_dir():
        for file in FOLDER_FILES:
            if (path / file).is_file():
                return path / file
        raise NotFoundError(f"{path} holds none of {', '.join(FOLDER_FILES)}")
    if not path.is_file():
        raise NotFoundError(f"no SAM weights are at {path}")
    return path


def _loaded(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            # Comes with transformers.
            from safetensors.torch import load_file

            return load_file(path)
        # Nothing but tensors is unpickled: a file of weights may come from anywhere.
        return torch.load(path, map_location="cpu", weights_only=True)
    except ImportError as error:
        raise BadInputError(
            f"{path} needs the package safetensors ({error}): {install_command('sam')}"
        ) from error
    except (pickle.UnpicklingError, EOFError, KeyError, ValueError, RuntimeError, OSError) as error:
        raise _unreadable(path, error) from error
    except Exception as error:
        # safetensors' own error derives from nothing narrower.
        if type(error).__name__ == "SafetensorError":
            raise _unreadable(path, error) from error
        raise


def _unreadable(path: Path, error: Exception) -> BadInputError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return BadInputError(f"{path} cannot be read as weights: {reason}; is the download complete?")


def _network_in(loaded: Any) -> dict[str, torch.Tensor]:
    """The state dict in what was read, without a training script's wrapping."""
    if not isinstance(loaded, Mapping):
        return {}
    for wrapper in WRAPPERS:
        if isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    return {
        str(name).removeprefix(PARALLEL): tensor
        for name, tensor in loaded.items()
        if isinstance(tensor, torch.Tensor)
    }


def _resized(name: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Positions at another number of cells; other tensors as they are."""
    if tuple(tensor.shape) == shape:
        return tensor
    if name == POSITIONS and tensor.ndim == 4:
        # (1, rows, columns, feature)
        grid = F.interpolate(
            tensor.permute(0, 3, 1, 2), size=shape[1:3], mode="bicubic", align_corners=False, antialias=True
        )
        return grid.permute(0, 2, 3, 1).contiguous()
    if name.endswith((".rel_pos_h", ".rel_pos_w")) and tensor.ndim == 2:
        # (2 * cells - 1, feature): from one end of the picture to the other, whatever the number of cells.
        line = F.interpolate(tensor.T[None], size=shape[0], mode="linear", align_corners=False)
        return line[0].T.contiguous()
    return tensor
