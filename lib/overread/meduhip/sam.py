"""The backend `sam`: SAM's network with samples put into its image embedding (eq. 1) or, cheaper, into its masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import nn
from torch.nn import functional as F

from overread.domain import BadInputError
from overread.meduhip.backend import Cache
from overread.meduhip.configuration import Configuration
from overread.meduhip.prompts import LARGEST_LOGIT, Prompts
from overread.meduhip.sam_model import fresh_sam, load_sam, sam_configuration, small_configuration
from overread.meduhip.sam_weights import read_weights

if TYPE_CHECKING:
    from transformers import SamModel, SamVisionConfig

# What SAM subtracts and divides by, for colours in [0, 1] (those of ImageNet).
COLOUR_MEAN = (0.485, 0.456, 0.406)
COLOUR_DEVIATION = (0.229, 0.224, 0.225)
COLOURS = 3
# SAM's masks have this many pixels a cell of its grid, those that it is given and those that it answers.
MASK_PIXELS_PER_CELL = 4
# How much of what a sample says enters at first: little, so that weights that were read still work; where there are
# none, all of it, so that samples differ from the start.
FIRST_GAIN, FRESH_GAIN = 0.1, 1.0
# Samples that are decoded at a time without gradients.
SAMPLES_AT_ONCE = 8

Fusion = Literal["early", "late"]
Intensities = Literal["sam", "medsam"]


class SamBackend(nn.Module):
    """SAM with samples.

    A picture is shrunk or enlarged until its longer side fills SAM's square and its shorter side whole cells of SAM's
    grid; the rest of the square is empty. Pictures here are `(x, y)`; SAM's tensors are `(y, x)`, and its points
    `(x, y)`. `Cache.features` is SAM's embedding of the square, in SAM's order.

    Args:
        sam: see `fresh_sam` and `load_sam`.
        channels: of the image: 1 is grey, 3 are colours; any other number is mixed into three.
        structures: foreground classes; each fuses in its own way, SAM's own weights are shared.
        dimension: of the sampling space.
        fusion: `early` is eq. 1: each sample changes the image embedding, and SAM's decoder runs once a sample. `late`:
            it runs once a turn, and each sample changes the embedding of which the masks are read off, so that N
            samples cost about one.
        intensities: what the weights were trained with: colours as ImageNet's (`sam`) or in [0, 1] (`medsam`).
        first_gain: how much of what a sample says enters at first.
    """

    axes = 2

    def __init__(
        self,
        sam: SamModel,
        channels: int,
        structures: int,
        dimension: int,
        *,
        fusion: Fusion = "early",
        intensities: Intensities = "sam",
        first_gain: float = FIRST_GAIN,
    ) -> None:
        super().__init__()
        if fusion not in ("early", "late"):
            raise BadInputError(f"fusion is {fusion!r}, expected 'early' or 'late'")
        if intensities not in ("sam", "medsam"):
            raise BadInputError(f"intensities are {intensities!r}, expected 'sam' or 'medsam'")
        self.sam = sam
        self.channels, self.fusion, self.intensities = channels, fusion, intensities
        vision = cast("SamVisionConfig", sam.config.vision_config)
        self.patch = cast(int, vision.patch_size)
        self.grid = cast(int, vision.image_size) // self.patch
        self.context_width = width = vision.output_channels
        self.mixed = _even_mixture(channels) if channels not in (1, COLOURS) else nn.Identity()
        self.fusions = nn.ModuleList(_Fcomb(width, dimension, first_gain) for _ in range(structures))
        if fusion == "late":
            upscaled = sam.mask_decoder.upscale_conv2.out_channels
            self.films = nn.ModuleList(_Film(upscaled, dimension, first_gain) for _ in range(structures))

    @classmethod
    def small(
        cls,
        channels: int,
        structures: int,
        dimension: int,
        *,
        image_size: int = 128,
        fusion: Fusion = "late",
        intensities: Intensities = "sam",
    ) -> SamBackend:
        """About a million random weights, for CPUs and tests.

        Raises:
            BadInputError: transformers is not installed.
        """
        sam = fresh_sam(small_configuration(image_size))
        return cls(
            sam,
            channels,
            structures,
            dimension,
            fusion=fusion,
            intensities=intensities,
            first_gain=FRESH_GAIN,
        )

    @classmethod
    def vit_b(
        cls,
        channels: int,
        structures: int,
        dimension: int,
        *,
        image_size: int = 512,
        fusion: Fusion = "early",
        intensities: Intensities = "sam",
    ) -> SamBackend:
        """ViT-B with random weights, into which a trained state is to be loaded."""
        sam = fresh_sam(sam_configuration(image_size))
        return cls(sam, channels, structures, dimension, fusion=fusion, intensities=intensities)

    @classmethod
    def from_file(
        cls,
        path: Path | str,
        channels: int,
        structures: int,
        dimension: int,
        *,
        image_size: int = 512,
        fusion: Fusion = "early",
        intensities: Intensities = "sam",
    ) -> SamBackend:
        """SAM or MedSAM from a local file; see `read_weights` for what is read.

        Args:
            image_size: pixels a side that SAM is to see. Its own are 1024; 512 is four times as fast, and more where
                the whole picture is attended to.

        Raises:
            NotFoundError: nothing is at `path`.
            BadInputError: it holds no SAM, or transformers is not installed.
        """
        sam = load_sam(path, image_size)
        return cls(sam, channels, structures, dimension, fusion=fusion, intensities=intensities)

    def begin_with(self, path: Path | str) -> None:
        """Take over the weights of a file of SAM or MedSAM; samples say little at first, so that they still work.

        Raises:
            NotFoundError: nothing is at `path`.
            BadInputError: it holds no SAM, or one of another size.
        """
        self.sam.load_state_dict(read_weights(path).fitted(self.sam.state_dict()))
        with torch.no_grad():
            for part in (*self.fusions, *(self.films if self.fusion == "late" else ())):
                cast(torch.Tensor, part.gain).fill_(FIRST_GAIN)

    def encode(self, image: torch.Tensor) -> Cache:
        """See `Backend`."""
        if image.ndim != 4 or image.shape[1] != self.channels:
            raise BadInputError(
                f"the image is {tuple(image.shape)}, expected (batch, {self.channels}, x, y) for this backend"
            )
        shape = (image.shape[2], image.shape[3])
        frame = _Frame.around(shape, self.grid)
        features = self.sam.vision_encoder(self._square(image, frame)).last_hidden_state
        context = features[:, :, : frame.rows, : frame.columns].float().flatten(2).mean(dim=2)
        return Cache(features, context, shape)

    def decode(
        self, cache: Cache, samples: torch.Tensor, prompts: Prompts, structure: int = 0
    ) -> torch.Tensor:
        """See `Backend`."""
        frame = _Frame.around((cache.shape[0], cache.shape[1]), self.grid)
        said = self._said(prompts, frame)
        looks = self._late if self.fusion == "late" else self._early
        return looks(cache.features, samples, said, frame, structure)

    def _square(self, image: torch.Tensor, frame: _Frame) -> torch.Tensor:
        """Pictures as SAM sees them: `(batch, colour, y, x)`, in the upper left of the square."""
        size = (frame.rows * self.patch, frame.columns * self.patch)
        mixed = self.mixed(image.float().transpose(2, 3))
        if tuple(mixed.shape[2:]) != size:
            mixed = F.interpolate(mixed, size=size, mode="bilinear", align_corners=False, antialias=True)
        # Units differ from recipe to recipe; SAM's are from black to white.
        low, high = mixed.amin(dim=(1, 2, 3), keepdim=True), mixed.amax(dim=(1, 2, 3), keepdim=True)
        colours = ((mixed - low) / (high - low).clamp_min(1e-6)).expand(-1, COLOURS, -1, -1)
        if self.intensities == "sam":
            colours = (colours - _colour(COLOUR_MEAN, colours)) / _colour(COLOUR_DEVIATION, colours)
        edge = self.grid * self.patch
        return F.pad(colours, (0, edge - size[1], 0, edge - size[0]))

    def _said(self, prompts: Prompts, frame: _Frame) -> _Said:
        """Clicks and the chosen mask as SAM's prompt encoder says them."""
        encoder = self.sam.prompt_encoder
        # A coordinate in half precision is off by pixels.
        with torch.autocast(prompts.places.device.type, enabled=False):
            points = labels = None
            if prompts.places.shape[1]:
                cells = torch.tensor([frame.columns, frame.rows], device=prompts.places.device)
                shape = torch.tensor(frame.shape, device=prompts.places.device)
                # Centres of pixels; SAM adds the half again.
                places = (prompts.places + 0.5) * (cells * self.patch / shape) - 0.5
                # NO_CLICK is SAM's own label of padding.
                points, labels = places[:, None].float(), prompts.sides[:, None]
            clicks, nothing = encoder(points, labels, None, None)
            chosen = encoder.mask_embed(_framed(prompts.dense.float(), frame, self.grid))
            there = prompts.has_dense.reshape(-1, 1, 1, 1).to(chosen)
            dense = there * chosen + (1 - there) * nothing
            return _Said(clicks, dense, self.sam.get_image_wide_positional_embeddings())

    def _early(
        self, features: torch.Tensor, samples: torch.Tensor, said: _Said, frame: _Frame, structure: int
    ) -> torch.Tensor:
        fusion = cast(_Fcomb, self.fusions[structure])
        seen = fusion.from_features(features)

        def masks(part: torch.Tensor) -> torch.Tensor:
            batch, count = part.shape[:2]
            each = said.repeated(count)
            answer, _ = self.sam.mask_decoder(
                image_embeddings=fusion(features, seen, part).flatten(0, 1),
                image_positional_embeddings=each.positions.expand(batch * count, -1, -1, -1),
                sparse_prompt_embeddings=each.clicks,
                dense_prompt_embeddings=each.dense,
                multimask_output=False,
            )
            return _unframed(answer.reshape(batch, count, *answer.shape[-2:]), frame)

        return torch.cat([masks(part) for part in _parts(samples)], dim=1)

    def _late(
        self, features: torch.Tensor, samples: torch.Tensor, said: _Said, frame: _Frame, structure: int
    ) -> torch.Tensor:
        fusion, film = cast(_Fcomb, self.fusions[structure]), cast(_Film, self.films[structure])
        # What all samples of the structure have in common.
        nobody = samples.new_zeros(len(samples), 1, samples.shape[2])
        embedding = fusion(features, fusion.from_features(features), nobody)[:, 0]
        upscaled, reading = self._look(embedding, said)
        activation = self.sam.mask_decoder.activation
        answers = [_unframed(film(upscaled, reading, part, activation), frame) for part in _parts(samples)]
        return torch.cat(answers, dim=1)

    def _look(self, embedding: torch.Tensor, said: _Said) -> tuple[torch.Tensor, torch.Tensor]:
        """SAM's mask decoder up to where a mask is read off.

        Returns:
            The upscaled embedding before its last activation, `(batch, channel, y, x)`, and the vector
            `(batch, channel)` whose product with the activated one is the single mask.
        """
        decoder = self.sam.mask_decoder
        batch, width, rows, columns = embedding.shape
        queries = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).expand(batch, 1, -1, -1)
        if said.clicks is not None:
            queries = torch.cat([queries, said.clicks.to(queries)], dim=2)
        answers, cells = decoder.transformer(
            point_embeddings=queries,
            image_embeddings=embedding + said.dense,
            image_positional_embeddings=said.positions.expand(batch, -1, -1, -1),
            attention_similarity=None,
        )
        looked = cells[:, 0].mT.reshape(batch, width, rows, columns)
        larger = decoder.activation(decoder.upscale_layer_norm(decoder.upscale_conv1(looked)))
        # The first token asks for the quality, the second for the single mask.
        return decoder.upscale_conv2(larger), decoder.output_hypernetworks_mlps[0](answers[:, 0, 1])


def ensure_begins(configuration: Configuration, path: Path | str | None) -> None:
    """See that a model can be made, and begin with the weights of a file.

    Raises:
        NotFoundError, BadInputError: as `SamBackend.begin_with`, or transformers is not installed.
    """
    with torch.device("meta"):
        size, sides = configuration.size, cast(int, configuration.image_size)
        wanted = fresh_sam(sam_configuration(sides) if size == "vit_b" else small_configuration(sides))
    if path is not None:
        read_weights(path).fitted(wanted.state_dict())


@dataclass(frozen=True)
class _Frame:
    """Where a picture lies in SAM's square: from its upper left corner, over whole cells of the grid.

    Attributes:
        shape: of the picture, `(x, y)`.
        columns: cells along x.
        rows: cells along y.
    """

    shape: tuple[int, int]
    columns: int
    rows: int

    @classmethod
    def around(cls, shape: tuple[int, int], grid: int) -> _Frame:
        columns, rows = (max(1, round(grid * size / max(shape))) for size in shape)
        return cls(shape, columns, rows)


@dataclass(frozen=True, eq=False)
class _Said:
    """Prompts as SAM's decoder takes them.

    Attributes:
        clicks: `(batch, 1, click, feature)`; None where there are no slots for clicks.
        dense: `(batch, feature, row, column)`.
        positions: `(1, feature, row, column)`, of the cells.
    """

    clicks: torch.Tensor | None
    dense: torch.Tensor
    positions: torch.Tensor

    def repeated(self, count: int) -> _Said:
        """The same for `count` samples an image."""
        clicks = None if self.clicks is None else self.clicks.repeat_interleave(count, dim=0)
        return _Said(clicks, self.dense.repeat_interleave(count, dim=0), self.positions)


class _Fcomb(nn.Module):
    """Eq. 1 as a residual: `E_i = E_G + gain * Fcomb(E_G, z_i)`, three 1x1 convolutions, the last of them linear.

    The first convolution over embedding and sample together is the sum of two; `from_features` is computed once for
    all samples.
    """

    def __init__(self, width: int, dimension: int, first_gain: float) -> None:
        super().__init__()
        self.from_features = nn.Conv2d(width, width, 1)
        self.from_sample = nn.Linear(dimension, width, bias=False)
        self.middle = nn.Conv2d(width, width, 1)
        self.last = nn.Conv2d(width, width, 1)
        self.gain = nn.Parameter(torch.full((width, 1, 1), first_gain))

    def forward(self, features: torch.Tensor, seen: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
        """Embeddings `(batch, sample, feature, row, column)`; `seen` is `from_features(features)`."""
        styles = self.from_sample(samples)[..., None, None]
        hidden = F.relu(seen[:, None] + styles).flatten(0, 1)
        changes = self.last(F.relu(self.middle(hidden)))
        return features[:, None] + (self.gain * changes).unflatten(0, styles.shape[:2])


class _Film(nn.Module):
    """What a sample changes where SAM reads its masks off: scale and shift of each channel (Perez et al. 2018,
    arXiv:1709.07871) before the last activation, and how much each channel counts."""

    def __init__(self, width: int, dimension: int, first_gain: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dimension, 64), nn.ReLU(), nn.Linear(64, 3 * width))
        self.gain = nn.Parameter(torch.full((3 * width,), first_gain))

    def forward(
        self, upscaled: torch.Tensor, reading: torch.Tensor, samples: torch.Tensor, activation: nn.Module
    ) -> torch.Tensor:
        """Masks `(batch, sample, y, x)`; see `SamBackend._look`."""
        scale, shift, turn = (self.gain * self.layers(samples)).chunk(3, dim=-1)
        values = activation(upscaled[:, None] * (1 + scale[..., None, None]) + shift[..., None, None])
        return torch.einsum("bnc,bncyx->bnyx", reading[:, None] + turn, values)


def _parts(samples: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Samples that are decoded together: all of them where a gradient needs them all anyway."""
    return samples.split(samples.shape[1] if torch.is_grad_enabled() else SAMPLES_AT_ONCE, dim=1)


def _framed(dense: torch.Tensor, frame: _Frame, grid: int) -> torch.Tensor:
    """A dense prompt `(batch, 1, *low)`, which covers the picture, as SAM's mask of its square."""
    rows, columns = MASK_PIXELS_PER_CELL * frame.rows, MASK_PIXELS_PER_CELL * frame.columns
    size = dense.transpose(2, 3)
    if tuple(size.shape[2:]) != (rows, columns):
        size = F.interpolate(size, size=(rows, columns), mode="bilinear", align_corners=False)
    edge = MASK_PIXELS_PER_CELL * grid
    # Nothing lies outside the picture.
    return F.pad(size, (0, edge - columns, 0, edge - rows), value=-LARGEST_LOGIT)


def _unframed(masks: torch.Tensor, frame: _Frame) -> torch.Tensor:
    """SAM's masks `(batch, sample, y, x)` of its square as logits `(batch, sample, x, y)` of the picture."""
    rows, columns = MASK_PIXELS_PER_CELL * frame.rows, MASK_PIXELS_PER_CELL * frame.columns
    picture = masks[:, :, :rows, :columns].float()
    shape = (frame.shape[1], frame.shape[0])
    return F.interpolate(picture, size=shape, mode="bilinear", align_corners=False).transpose(2, 3)


def _even_mixture(channels: int) -> nn.Conv2d:
    mixture = nn.Conv2d(channels, COLOURS, 1, bias=False)
    nn.init.constant_(mixture.weight, 1 / channels)
    return mixture


def _colour(values: tuple[float, ...], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).reshape(-1, 1, 1)
