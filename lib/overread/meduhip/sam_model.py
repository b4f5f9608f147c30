"""transformers' `SamModel`: of the sizes that MedUHIP uses, fresh or with the weights of a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import nn

from overread.domain import BadInputError, install_command
from overread.meduhip.configuration import SAM_CELLS
from overread.meduhip.sam_weights import POSITIONS, read_weights

if TYPE_CHECKING:
    from transformers import SamConfig, SamModel

# Width of SAM's image encoder: layers, heads, and the layers whose attention spans the whole picture
# (Kirillov et al. 2023, appendix A: ViT-B, ViT-L, ViT-H, four global layers each, evenly spaced).
SIZES = {
    768: (12, 12, (2, 5, 8, 11)),
    1024: (24, 16, (5, 11, 17, 23)),
    1280: (32, 16, (7, 15, 23, 31)),
}
VIT_B = 768
# Side of a cell of SAM's grid, in pixels.
PATCH_PIXELS = SAM_CELLS["vit_b"]


def sam_configuration(image_size: int, width: int = VIT_B) -> SamConfig:
    """SAM as published, for pictures of `image_size` pixels a side (SAM's own are 1024).

    Args:
        width: of the image encoder; 768 is ViT-B.
    """
    if width not in SIZES:
        raise BadInputError(
            f"no SAM has an image encoder of width {width}; there are {', '.join(map(str, SIZES))}"
        )
    transformers = _transformers()
    layers, heads, spanning = SIZES[width]
    return transformers.SamConfig(
        vision_config=transformers.SamVisionConfig(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            global_attn_indexes=list(spanning),
            image_size=_whole(image_size, PATCH_PIXELS),
            patch_size=PATCH_PIXELS,
        ),
        prompt_encoder_config=transformers.SamPromptEncoderConfig(
            image_size=image_size, patch_size=PATCH_PIXELS
        ),
        mask_decoder_config=transformers.SamMaskDecoderConfig(),
    )


def small_configuration(image_size: int) -> SamConfig:
    """A SAM of about a million weights, for CPUs and tests; nobody has weights of this size."""
    transformers = _transformers()
    features, patch = 64, SAM_CELLS["small"]
    return transformers.SamConfig(
        vision_config=transformers.SamVisionConfig(
            hidden_size=96,
            output_channels=features,
            num_hidden_layers=6,
            num_attention_heads=4,
            global_attn_indexes=[2, 5],
            window_size=8,
            image_size=_whole(image_size, patch),
            patch_size=patch,
            # Half of it are sines, half cosines.
            num_pos_feats=features // 2,
        ),
        prompt_encoder_config=transformers.SamPromptEncoderConfig(
            hidden_size=features, image_size=image_size, patch_size=patch
        ),
        mask_decoder_config=transformers.SamMaskDecoderConfig(
            hidden_size=features, mlp_dim=4 * features, num_attention_heads=4, iou_head_hidden_dim=features
        ),
    )


def fresh_sam(configuration: SamConfig) -> SamModel:
    """With random weights, each layer's as PyTorch draws them, which is how SAM's training began."""
    sam = _transformers().SamModel(configuration)
    # transformers counts on weights being loaded: it starts the image encoder at 1e-10, and frequencies of positions
    # at hundreds, where neighbouring pixels have nothing in common.
    for module in sam.modules():
        reset = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()
    nn.init.normal_(sam.shared_image_embedding.positional_embedding)
    return _tied(sam)


def load_sam(path: Path | str, image_size: int, configuration: SamConfig | None = None) -> SamModel:
    """With the weights of a file of SAM or MedSAM.

    Args:
        path: see `read_weights`.
        image_size: pixels a side that the network is to see; positions are interpolated.
        configuration: of a network that is none of SAM's sizes and has no `config.json`.

    Raises:
        NotFoundError, BadInputError: as `read_weights` and `SamWeights.fitted`.
    """
    transformers = _transformers()
    weights = read_weights(path)
    if configuration is None and weights.configuration_file is not None:
        configuration = transformers.SamConfig.from_json_file(weights.configuration_file)
    if configuration is None:
        configuration = sam_configuration(image_size, weights.tensors[POSITIONS].shape[-1])
    with torch.device("meta"):
        sam = transformers.SamModel(_of_size(configuration, image_size))
    sam.load_state_dict(weights.fitted(sam.state_dict()), assign=True)
    return _tied(sam)


def _of_size(configuration: SamConfig, image_size: int) -> SamConfig:
    """The same configuration for pictures of another size."""
    described = configuration.to_dict()
    for part in ("vision_config", "prompt_encoder_config"):
        described[part]["image_size"] = _whole(image_size, described[part]["patch_size"])
        # Derived from the size; transformers keeps it as it was.
        described[part].pop("image_embedding_size", None)
    return type(configuration).from_dict(described)


def _tied(sam: SamModel) -> SamModel:
    """The frequencies of the positions once, and fixed, as in SAM."""
    frequencies = sam.shared_image_embedding.positional_embedding
    frequencies.requires_grad_(False)
    sam.prompt_encoder.shared_embedding.positional_embedding = frequencies
    return sam


def _whole(image_size: int, patch: int) -> int:
    if image_size < patch or image_size % patch:
        raise BadInputError(
            f"SAM's image size is {image_size}, expected a multiple of its {patch} pixel cells"
        )
    return image_size


def _transformers() -> ModuleType:
    try:
        with _only_sound_torchvision():
            import transformers
            from transformers import SamModel  # noqa: F401
    except ImportError as error:
        raise BadInputError(
            f"the MedUHIP backend 'sam' needs the package transformers ({error}): {install_command('sam')}"
        ) from error
    return transformers


def _look_for_torchvision_again() -> None:
    """transformers remembers what is installed from when it was imported, which MONAI does wherever it can."""
    from transformers.utils import import_utils

    for answer in (import_utils.is_torchvision_available, import_utils.is_torchvision_v2_available):
        answer.cache_clear()
        answer()


@contextmanager
def _only_sound_torchvision() -> Iterator[None]:
    """Hides a torchvision that does not load.

    transformers imports it wherever it is installed, though SAM's network does without. One built for CUDA beside a
    torch for CPUs, which mixed package indices give, fails to load and would take transformers with it.
    """
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError, OSError):
        sys.modules["torchvision"] = None  # pyright: ignore[reportArgumentType]
        try:
            _look_for_torchvision_again()
            yield
        finally:
            del sys.modules["torchvision"]
    else:
        yield
