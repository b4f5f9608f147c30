"""The backend `sam` is SAM where samples say nothing, whichever way a picture lies, and samples change what it says."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from overread.domain import BadInputError
from overread.meduhip.episode import EpisodeOptions, play
from overread.meduhip.network import Configuration, MedUHIP
from overread.meduhip.prompts import LARGEST_LOGIT, NO_CLICK, Click, Prompts
from overread.meduhip.sam import COLOUR_DEVIATION, COLOUR_MEAN, SAMPLES_AT_ONCE, SamBackend
from overread.meduhip.sam_model import _only_sound_torchvision

pytest.importorskip("transformers")

FUSIONS = ("early", "late")


@pytest.fixture(scope="module")
def vit_b() -> SamBackend:
    """SAM's own shapes, random weights, for pictures of 8 x 8 cells."""
    torch.manual_seed(0)
    backend = SamBackend.vit_b(3, 1, 4, image_size=128)
    with torch.no_grad():
        for name, parameter in backend.sam.vision_encoder.named_parameters():
            if "pos" in name:
                parameter.normal_(std=0.1)
    return backend


def small(fusion="early", channels: int = 1, structures: int = 1, **options) -> SamBackend:
    torch.manual_seed(1)
    return SamBackend.small(channels, structures, 4, image_size=64, fusion=fusion, **options)


def silenced(backend: SamBackend) -> SamBackend:
    """Samples say nothing."""
    for name, parameter in backend.named_parameters():
        if name.endswith("gain"):
            torch.nn.init.zeros_(parameter)
    return backend


def picture(*shape: int) -> torch.Tensor:
    """Noise from exactly 0 to exactly 1."""
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(2))
    return (noise - noise.min()) / (noise.max() - noise.min())


def as_sam_sees(image: torch.Tensor) -> torch.Tensor:
    """`(batch, colour, x, y)` in SAM's colours, `(batch, colour, y, x)`."""
    colours = image.permute(0, 1, 3, 2).expand(-1, 3, -1, -1)
    return (colours - torch.tensor(COLOUR_MEAN).reshape(3, 1, 1)) / torch.tensor(COLOUR_DEVIATION).reshape(
        3, 1, 1
    )


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("said", ["nothing", "clicks", "clicks and mask"])
def test_is_transformers_sam_where_samples_say_nothing(vit_b, fusion, said):
    backend = silenced(SamBackend(vit_b.sam, 3, 1, 4, fusion=fusion))
    image = picture(1, 3, 128, 128)
    prompts, theirs = Prompts.none(1, 2), {}
    if said != "nothing":
        prompts = Prompts.of_clicks([Click((100, 20), True), Click((30, 90), False)], 2)
        theirs = {
            "input_points": torch.tensor([[[[100.0, 20.0], [30.0, 90.0]]]]),
            "input_labels": torch.tensor([[[1, 0]]]),
        }
    if said == "clicks and mask":
        mask = 5 * torch.randn(1, 1, 32, 32)
        prompts = Prompts(prompts.places, prompts.sides, mask.transpose(2, 3), torch.ones(1))
        theirs["input_masks"] = mask
    with torch.no_grad():
        expected = vit_b.sam(pixel_values=as_sam_sees(image), multimask_output=False, **theirs).pred_masks[0]
        large = F.interpolate(expected, size=(128, 128), mode="bilinear", align_corners=False)
        logits = backend.decode(backend.encode(image), torch.randn(1, 3, 4), prompts)
    assert logits.shape == (1, 3, 128, 128)
    assert expected.std() > 0.01
    for sample in logits[0]:
        torch.testing.assert_close(sample, large[0, 0].T, atol=1e-4, rtol=0)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize(
    ("shape", "size"), [((64, 40), (64, 40)), ((24, 64), (24, 64)), ((32, 12), (64, 24))]
)
def test_x_stays_x_and_y_stays_y(fusion, shape, size):
    """A picture that is longer one way, and a click that is not in its middle."""
    backend = silenced(small(fusion))
    image = picture(1, 1, *shape)
    scale = size[0] / shape[0]
    place = (shape[0] - 3, 5)
    mask = 5 * torch.randn(1, 1, size[0] // 2, size[1] // 2, generator=torch.Generator().manual_seed(4))
    clicked = Prompts.of_clicks([Click(place, True)], 2)
    prompts = Prompts(clicked.places, clicked.sides, mask, torch.ones(1))

    enlarged = F.interpolate(image, size=size, mode="bilinear", align_corners=False, antialias=True)
    enlarged = (enlarged - enlarged.min()) / (enlarged.max() - enlarged.min())
    pixels, square = as_sam_sees(enlarged), torch.full((1, 1, 32, 32), -LARGEST_LOGIT)
    square[0, 0, : size[1] // 2, : size[0] // 2] = mask[0, 0].T
    centre = [(at + 0.5) * scale - 0.5 for at in place]
    with torch.no_grad():
        expected = backend.sam(
            pixel_values=F.pad(pixels, (0, 64 - size[0], 0, 64 - size[1])),
            input_points=torch.tensor([[[centre]]]),
            input_labels=torch.tensor([[[1]]]),
            input_masks=square,
            multimask_output=False,
        ).pred_masks[0]
        logits = backend.decode(backend.encode(image), torch.zeros(1, 1, 4), prompts)
    there = expected[:, :, : size[1] // 2, : size[0] // 2]
    there = F.interpolate(there, size=(shape[1], shape[0]), mode="bilinear", align_corners=False)
    torch.testing.assert_close(logits[0, 0], there[0, 0].T, atol=1e-4, rtol=0)
    assert logits.shape == (1, 1, *shape)


def test_clicks_of_transposed_places_are_other_clicks():
    backend = silenced(small())
    with torch.no_grad():
        cache = backend.encode(picture(1, 1, 64, 64))
        one, other = (
            backend.decode(cache, torch.zeros(1, 1, 4), Prompts.of_clicks([Click(place, True)], 2))
            for place in ((60, 4), (4, 60))
        )
    assert (one - other).abs().max() > 1e-3


def test_an_empty_slot_is_sams_padding():
    backend = silenced(small())
    image = picture(1, 1, 64, 64)
    empty = Prompts(
        torch.zeros(1, 1, 2), torch.full((1, 1), float(NO_CLICK)), torch.zeros(1, 1, 64, 64), torch.zeros(1)
    )
    with torch.no_grad():
        cache = backend.encode(image)
        logits = backend.decode(cache, torch.zeros(1, 1, 4), empty)
        expected = backend.sam(
            image_embeddings=cache.features,
            input_points=torch.full((1, 1, 1, 2), 17.0),
            input_labels=torch.full((1, 1, 1), -1),
            multimask_output=False,
        ).pred_masks[0]
    large = F.interpolate(expected, size=(64, 64), mode="bilinear", align_corners=False)
    torch.testing.assert_close(logits[0, 0], large[0, 0].T, atol=1e-4, rtol=0)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_images_of_a_batch_do_not_mix(fusion):
    backend = small(fusion)
    images, samples = picture(2, 1, 40, 64), torch.randn(2, 3, 4)
    prompts = Prompts(
        torch.tensor([[[3.0, 50.0]], [[30.0, 9.0]]]),
        torch.tensor([[1.0], [0.0]]),
        torch.randn(2, 1, 64, 64),
        torch.tensor([1.0, 0.0]),
    )
    with torch.no_grad():
        together = backend.decode(backend.encode(images), samples, prompts)
        for at in range(2):
            one = slice(at, at + 1)
            own = Prompts(prompts.places[one], prompts.sides[one], prompts.dense[one], prompts.has_dense[one])
            alone = backend.decode(backend.encode(images[one]), samples[one], own)
            torch.testing.assert_close(together[one], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_samples_in_parts_are_the_samples_at_once(fusion):
    backend = small(fusion)
    samples = torch.randn(1, SAMPLES_AT_ONCE + 3, 4)
    cache, prompts = backend.encode(picture(1, 1, 50, 50)), Prompts.of_clicks([Click((7, 40), True)], 2)
    at_once = backend.decode(cache, samples, prompts)
    with torch.no_grad():
        in_parts = backend.decode(cache, samples, prompts)
    torch.testing.assert_close(in_parts, at_once.detach(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_gradients_reach_all_that_fuses_and_the_image_encoder(fusion):
    backend = small(fusion, structures=2)
    samples = torch.randn(1, 2, 4, requires_grad=True)
    logits = backend.decode(backend.encode(picture(1, 1, 48, 64)), samples, Prompts.none(1, 2), structure=1)
    logits.square().mean().backward()
    used = dict(backend.fusions[1].named_parameters())
    if fusion == "late":
        # Samples enter where masks are read off, and nowhere else.
        del used["from_sample.weight"]
        used.update({f"film.{name}": parameter for name, parameter in backend.films[1].named_parameters()})
    used["encoder"] = backend.sam.vision_encoder.patch_embed.projection.weight
    reached = {name for name, p in used.items() if p.grad is not None and p.grad.abs().max() > 0}
    assert reached == set(used)
    assert samples.grad is not None
    assert samples.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in backend.fusions[0].parameters())


def test_first_convolution_is_that_over_embedding_and_sample_together():
    """Eq. 1, literally: the sample is put beside the embedding in every cell."""
    fcomb = small().fusions[0]
    features, samples = torch.randn(2, 64, 3, 5), torch.randn(2, 3, 4)
    weight = torch.cat([fcomb.from_features.weight, fcomb.from_sample.weight[..., None, None]], dim=1)
    with torch.no_grad():
        embeddings = fcomb(features, fcomb.from_features(features), samples)
        for at in range(3):
            beside = torch.cat([features, samples[:, at, :, None, None].expand(-1, -1, 3, 5)], dim=1)
            hidden = F.relu(F.conv2d(beside, weight, fcomb.from_features.bias))
            expected = features + fcomb.gain * fcomb.last(F.relu(fcomb.middle(hidden)))
            torch.testing.assert_close(embeddings[:, at], expected, atol=1e-5, rtol=1e-4)


def test_weights_that_were_read_are_changed_little_at_first(vit_b):
    assert vit_b.fusions[0].gain.shape == (256, 1, 1)
    assert (vit_b.fusions[0].gain == 0.1).all()


def test_context_is_of_the_picture_and_not_of_what_is_empty():
    backend = small()
    with torch.no_grad():
        cache = backend.encode(picture(1, 1, 64, 16))
    assert cache.features.shape == (1, 64, 8, 8)
    torch.testing.assert_close(cache.context, cache.features[:, :, :2, :8].mean(dim=(2, 3)))
    assert backend.context_width == cache.context.shape[1]


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("shape", [(37, 90), (130, 20), (1, 9)])
def test_pictures_of_any_size_and_channels(channels, shape):
    backend = small("late", channels)
    with torch.no_grad():
        logits = backend.decode(
            backend.encode(torch.randn(1, channels, *shape)), torch.randn(1, 2, 4), Prompts.none(1, 2)
        )
    assert logits.shape == (1, 2, *shape)
    assert logits.isfinite().all()


def test_units_of_the_picture_do_not_matter():
    backend, image = small(), picture(1, 1, 64, 64)
    with torch.no_grad():
        features = [backend.encode(values).features for values in (image, 1000 * image - 300)]
    torch.testing.assert_close(*features, atol=1e-3, rtol=1e-3)
    assert backend.encode(torch.full((1, 1, 9, 9), 7.0)).features.isfinite().all()


def test_medsam_sees_grey_from_0_to_1():
    sam = small().sam
    image = picture(1, 1, 64, 64)
    with torch.no_grad():
        features = SamBackend(sam, 1, 1, 4, intensities="medsam").encode(image).features
        expected = sam.vision_encoder(image.transpose(2, 3).expand(-1, 3, -1, -1)).last_hidden_state
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-4)


def test_wrong_images_and_options_are_told():
    backend = small()
    with pytest.raises(BadInputError, match=r"\(1, 2, 9, 9\), expected \(batch, 1, x, y\)"):
        backend.encode(torch.zeros(1, 2, 9, 9))
    with pytest.raises(BadInputError, match="fusion is 'middle'"):
        small("middle")
    with pytest.raises(BadInputError, match="intensities are 'hounsfield'"):
        SamBackend(backend.sam, 1, 1, 4, intensities="hounsfield")


def test_plays_an_episode():
    torch.manual_seed(0)
    model = MedUHIP(Configuration(backend="sam", components=3, dimension=4))
    raters = (torch.rand(1, 2, 24, 32) > 0.5).float()
    losses = play(
        model, torch.randn(1, 1, 24, 32), raters, EpisodeOptions(turns=2, samples=4), np.random.default_rng(0)
    )
    losses.total.backward()
    gain = model.backend.films[0].gain
    assert losses.total.isfinite()
    assert gain.grad is not None
    assert gain.grad.abs().max() > 0


def test_everything_else_works_without_transformers():
    program = """
import sys
sys.modules["transformers"] = None
from overread.domain import BadInputError
from overread.meduhip.network import Configuration, MedUHIP
MedUHIP(Configuration(width=4))
try:
    MedUHIP(Configuration(backend="sam"))
except BadInputError as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip().endswith("pip install -c constraints.txt -e '.[sam]' in the project's folder")
    assert "needs the package transformers" in ran.stdout


def test_a_torchvision_that_does_not_load_is_passed_over(tmp_path, monkeypatch):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError('operator does not exist')")
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with _only_sound_torchvision():
        assert importlib.util.find_spec("torchvision") is None
    assert importlib.util.find_spec("torchvision") is not None
