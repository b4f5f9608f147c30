"""Weights of SAM and MedSAM are read in both formats, at other picture sizes, and nothing else is taken for them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from overread.domain import BadInputError, NotFoundError
from overread.meduhip.prompts import Click, Prompts
from overread.meduhip.sam import SamBackend
from overread.meduhip.sam_model import fresh_sam, load_sam, sam_configuration, small_configuration
from overread.meduhip.sam_weights import (
    FREQUENCIES,
    POSITIONS,
    SAME_FREQUENCIES,
    SamWeights,
    original_name,
    read_weights,
    transformers_name,
)
from support.sam import as_original, trained_sam

pytest.importorskip("transformers")


if TYPE_CHECKING:
    from transformers import SamModel


def vit_b_as_published() -> dict[str, tuple[int, ...]]:
    """Names and shapes in `sam_vit_b_01ec64.pth` and `medsam_vit_b.pth`."""
    shapes: dict[str, tuple[int, ...]] = {
        "image_encoder.pos_embed": (1, 64, 64, 768),
        "image_encoder.neck.0.weight": (256, 768, 1, 1),
        "image_encoder.neck.2.weight": (256, 256, 3, 3),
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix": (2, 128),
        "prompt_encoder.not_a_point_embed.weight": (1, 256),
        "prompt_encoder.no_mask_embed.weight": (1, 256),
        "mask_decoder.iou_token.weight": (1, 256),
        "mask_decoder.mask_tokens.weight": (4, 256),
    }

    def layer(name: str, *weight: int, bias: int | None = None) -> None:
        shapes[f"{name}.weight"] = weight
        shapes[f"{name}.bias"] = (weight[0] if bias is None else bias,)

    layer("image_encoder.patch_embed.proj", 768, 3, 16, 16)
    for block in range(12):
        name = f"image_encoder.blocks.{block}"
        distances = 127 if block in (2, 5, 8, 11) else 27
        shapes[f"{name}.attn.rel_pos_h"] = shapes[f"{name}.attn.rel_pos_w"] = (distances, 64)
        layer(f"{name}.attn.qkv", 2304, 768)
        layer(f"{name}.attn.proj", 768, 768)
        layer(f"{name}.mlp.lin1", 3072, 768)
        layer(f"{name}.mlp.lin2", 768, 3072)
        layer(f"{name}.norm1", 768)
        layer(f"{name}.norm2", 768)
    layer("image_encoder.neck.1", 256)
    layer("image_encoder.neck.3", 256)
    for point in range(4):
        shapes[f"prompt_encoder.point_embeddings.{point}.weight"] = (1, 256)
    layer("prompt_encoder.mask_downscaling.0", 4, 1, 2, 2)
    layer("prompt_encoder.mask_downscaling.1", 4)
    layer("prompt_encoder.mask_downscaling.3", 16, 4, 2, 2)
    layer("prompt_encoder.mask_downscaling.4", 16)
    layer("prompt_encoder.mask_downscaling.6", 256, 16, 1, 1)

    def attention(name: str, inner: int) -> None:
        for projection in ("q_proj", "k_proj", "v_proj"):
            layer(f"{name}.{projection}", inner, 256)
        layer(f"{name}.out_proj", 256, inner)

    for block in range(2):
        name = f"mask_decoder.transformer.layers.{block}"
        attention(f"{name}.self_attn", 256)
        attention(f"{name}.cross_attn_token_to_image", 128)
        attention(f"{name}.cross_attn_image_to_token", 128)
        layer(f"{name}.mlp.lin1", 2048, 256)
        layer(f"{name}.mlp.lin2", 256, 2048)
        for norm in range(1, 5):
            layer(f"{name}.norm{norm}", 256)
    attention("mask_decoder.transformer.final_attn_token_to_image", 128)
    layer("mask_decoder.transformer.norm_final_attn", 256)
    layer("mask_decoder.output_upscaling.0", 256, 64, 2, 2, bias=64)
    layer("mask_decoder.output_upscaling.1", 64)
    layer("mask_decoder.output_upscaling.3", 64, 32, 2, 2, bias=32)
    for name, out in (
        *((f"output_hypernetworks_mlps.{mask}", 32) for mask in range(4)),
        ("iou_prediction_head", 4),
    ):
        layer(f"mask_decoder.{name}.layers.0", 256, 256)
        layer(f"mask_decoder.{name}.layers.1", 256, 256)
        layer(f"mask_decoder.{name}.layers.2", out, 256)
    return shapes


def on_meta(image_size: int) -> SamModel:
    with torch.device("meta"):
        return fresh_sam(sam_configuration(image_size))


def answer(sam: SamModel) -> torch.Tensor:
    torch.manual_seed(5)
    image, samples = torch.rand(1, 1, 64, 48), torch.randn(1, 2, 4)
    torch.manual_seed(6)
    backend = SamBackend(sam, 1, 1, 4)
    with torch.no_grad():
        return backend.decode(backend.encode(image), samples, Prompts.of_clicks([Click((9, 30), True)], 2))


def test_published_vit_b_has_the_names_and_shapes_of_transformers():
    named = {transformers_name(name): shape for name, shape in vit_b_as_published().items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in on_meta(1024).state_dict().items()}
    del wanted[SAME_FREQUENCIES]
    assert named == wanted


def test_names_go_there_and_back():
    for name in vit_b_as_published():
        assert original_name(transformers_name(name)) == name


def test_positions_of_1024_pixels_fit_512():
    published = {
        transformers_name(name): torch.empty(shape, device="meta")
        for name, shape in vit_b_as_published().items()
    }
    wanted = on_meta(512).state_dict()
    fitted = SamWeights(Path("sam.pth"), published, original=True).fitted(wanted)
    assert {name: tensor.shape for name, tensor in fitted.items()} == {
        name: tensor.shape for name, tensor in wanted.items()
    }
    assert fitted[POSITIONS].shape == (1, 32, 32, 768)
    assert fitted["vision_encoder.layers.2.attn.rel_pos_h"].shape == (63, 64)
    # Windows have 14 cells a side, however large the picture is.
    assert fitted["vision_encoder.layers.0.attn.rel_pos_h"].shape == (27, 64)


def test_interpolated_positions_keep_their_place():
    sam = trained_sam(128)
    tensors = {name: tensor for name, tensor in sam.state_dict().items() if name != SAME_FREQUENCIES}
    ramp = torch.arange(16.0)
    tensors[POSITIONS] = ramp[None, :, None, None].expand(1, 16, 16, 96)
    distances = torch.arange(-15.0, 16.0)[:, None].expand(31, 24)
    tensors["vision_encoder.layers.2.attn.rel_pos_h"] = distances
    wanted = fresh_sam(small_configuration(64)).state_dict()
    fitted = SamWeights(Path("sam.pth"), tensors, original=False).fitted(wanted)
    rows = fitted[POSITIONS][0, :, 0, 0]
    # A cell of the smaller grid lies between two of the larger; at the rim the weights are cut off.
    torch.testing.assert_close(rows[2:6], ramp.reshape(8, 2).mean(dim=1)[2:6], atol=0.05, rtol=0)
    torch.testing.assert_close(fitted[POSITIONS], fitted[POSITIONS][:, :, :1, :1].expand(1, 8, 8, 96))
    line = fitted["vision_encoder.layers.2.attn.rel_pos_h"][:, 0]
    assert line[7] == 0
    torch.testing.assert_close(line, -line.flip(0))


def test_both_formats_load_to_the_same_answer(tmp_path):
    sam = trained_sam()
    sam.save_pretrained(tmp_path / "safe")
    (tmp_path / "bin").mkdir()
    torch.save(sam.state_dict(), tmp_path / "bin" / "pytorch_model.bin")
    sam.config.save_pretrained(tmp_path / "bin")
    torch.save(as_original(sam), tmp_path / "sam.pth")
    wrapped = {f"module.{name}": tensor for name, tensor in as_original(sam).items()}
    torch.save({"model": wrapped, "epoch": 7}, tmp_path / "medsam.pth")

    expected = answer(sam)
    configuration = small_configuration(64)
    for path in ("safe", "safe/model.safetensors", "bin"):
        torch.testing.assert_close(answer(load_sam(tmp_path / path, 64)), expected)
    for path in ("sam.pth", "medsam.pth"):
        torch.testing.assert_close(answer(load_sam(tmp_path / path, 64, configuration)), expected)


def test_a_folder_is_read_for_pictures_of_another_size(tmp_path):
    trained_sam(128).save_pretrained(tmp_path)
    backend = SamBackend.from_file(tmp_path, 1, 1, 4, image_size=64)
    assert backend.encode(torch.rand(1, 1, 20, 20)).features.shape == (1, 64, 8, 8)


def test_loaded_frequencies_are_one_and_fixed(tmp_path):
    torch.save(as_original(trained_sam()), tmp_path / "sam.pth")
    sam = load_sam(tmp_path / "sam.pth", 64, small_configuration(64))
    frequencies = sam.shared_image_embedding.positional_embedding
    assert sam.prompt_encoder.shared_embedding.positional_embedding is frequencies
    assert not frequencies.requires_grad


def test_missing_and_unexpected_names_are_told_in_the_words_of_the_file(tmp_path):
    state = as_original(trained_sam())
    del state["image_encoder.neck.0.weight"]
    state["image_encoder.adapter.weight"] = torch.zeros(2)
    torch.save(state, tmp_path / "sam.pth")
    message = (
        "missing image_encoder.neck.0.weight; unexpected image_encoder.adapter.weight; is it another size"
    )
    with pytest.raises(BadInputError, match=re.escape(message)):
        load_sam(tmp_path / "sam.pth", 64, small_configuration(64))


def test_another_width_is_told(tmp_path):
    state = as_original(trained_sam())
    state["mask_decoder.iou_token.weight"] = torch.zeros(1, 32)
    torch.save(state, tmp_path / "sam.pth")
    with pytest.raises(BadInputError, match=r"iou_token.weight of another size, the first \(1, 32\)"):
        load_sam(tmp_path / "sam.pth", 64, small_configuration(64))


def test_a_size_that_sam_does_not_have_is_told(tmp_path):
    torch.save(as_original(trained_sam()), tmp_path / "sam.pth")
    with pytest.raises(BadInputError, match="width 96; there are 768, 1024, 1280"):
        SamBackend.from_file(tmp_path / "sam.pth", 1, 1, 4)


@pytest.mark.parametrize("size", [0, 100])
def test_picture_sizes_are_whole_cells(size):
    with pytest.raises(BadInputError, match="multiple of its 16 pixel cells"):
        sam_configuration(size)


def test_other_files_are_refused(tmp_path):
    torch.save({"conv.weight": torch.zeros(2)}, tmp_path / "unet.pth")
    with pytest.raises(BadInputError, match="holds no SAM: 1 tensors"):
        read_weights(tmp_path / "unet.pth")
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    with pytest.raises(BadInputError, match="holds no SAM: 0 tensors"):
        read_weights(tmp_path / "tensor.pth")
    for name in ("broken.pth", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"<html>not found</html>")
        with pytest.raises(BadInputError, match="cannot be read as weights"):
            read_weights(tmp_path / name)
    with pytest.raises(NotFoundError, match=r"holds none of model\.safetensors"):
        read_weights(tmp_path)
    with pytest.raises(NotFoundError, match="no SAM weights are at"):
        read_weights(tmp_path / "nowhere.pth")


def test_a_file_that_runs_code_is_not_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"image_encoder.pos_embed": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(BadInputError, match="cannot be read as weights"):
        read_weights(tmp_path / "bomb.pth")
    assert not (tmp_path / "ran").exists()


def test_either_copy_of_the_frequencies_serves(tmp_path):
    state = trained_sam().state_dict()
    frequencies = state.pop(FREQUENCIES)
    torch.save(state, tmp_path / "pytorch_model.bin")
    torch.testing.assert_close(read_weights(tmp_path).tensors[FREQUENCIES], frequencies)
