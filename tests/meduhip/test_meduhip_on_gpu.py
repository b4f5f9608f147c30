"""MedUHIP on a GPU says what it says on the CPU, and trains there."""

import copy

import numpy as np
import pytest
import torch

from overread.meduhip.episode import EpisodeOptions, play
from overread.meduhip.network import Configuration, MedUHIP
from overread.meduhip.prompts import Click, Prompts
from overread.meduhip.session import answer, begin, click, none_of_these, pick
from overread.studies.meduhip.players import ModelImage

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")

SHAPES = {"unet2d": (48, 40), "unet3d": (32, 32, 16)}
# Convolutions on a GPU round their factors to 10 bits (TF32).
ROUNDING = 2e-2


def models(backend: str) -> tuple[MedUHIP, MedUHIP]:
    """The same untrained model on either device, with samples that differ."""
    model = MedUHIP(Configuration(backend=backend, width=6, components=4, dimension=5, samples=12)).eval()
    with torch.no_grad():
        for decoder in model.backend.decoders:  # type: ignore[attr-defined]
            torch.nn.init.normal_(decoder.last.weight, std=2.0)
    return model, copy.deepcopy(model).cuda()


@pytest.mark.parametrize("backend", SHAPES)
def test_a_session_says_the_same(backend: str) -> None:
    here, there = models(backend)
    voxels = torch.randn(1, 1, *SHAPES[backend])
    with torch.no_grad():
        images = (
            ModelImage(here, here.encode(voxels)),
            ModelImage(there, there.encode(voxels.cuda())),
        )
    place = tuple(n // 2 for n in SHAPES[backend])
    shown = []
    for model, image in zip((here, there), images, strict=True):
        session = begin(model, "case", "champion")
        for foreground in (True, False):
            session = click(model, image, session, answer(model, image, session), Click(place, foreground))
        given = answer(model, image, session)
        session = none_of_these(pick(model, image, session, given, 0))
        last = answer(model, image, session)
        assert not bool(last.logits[place] > 0)
        shown.append(given.logits.cpu())
    largest = float(shown[0].abs().max())
    assert torch.allclose(shown[0], shown[1], atol=ROUNDING * largest)


@pytest.mark.parametrize("pick_share", [0.0, 1.0])
def test_an_episode_has_gradients_there(pick_share: float) -> None:
    model = models("unet2d")[1].train()
    images = torch.randn(2, 1, 48, 40, device="cuda")
    raters = torch.zeros(2, 3, 48, 40, device="cuda")
    raters[:, :2, 10:30, 10:30] = 1
    options = EpisodeOptions(turns=3, samples=4, pick_share=pick_share)
    losses = play(model, images, raters, options, np.random.default_rng(0), precision=torch.bfloat16)
    losses.total.backward()
    # The Weight Network's last layer starts at 0, so that what comes before it has none yet.
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.segmentation_parameters())


@pytest.mark.parametrize("backend", SHAPES)
def test_half_precision_says_nearly_the_same(backend: str) -> None:
    here, there = models(backend)
    voxels = torch.randn(1, 1, *SHAPES[backend])
    samples, nothing = torch.randn(1, 12, 5), Prompts.none(1, voxels.ndim - 2)
    with torch.no_grad():
        ours = here.decode(here.encode(voxels), samples, nothing)
        with torch.autocast("cuda", torch.bfloat16):
            theirs = there.decode(there.encode(voxels.cuda()), samples.cuda(), nothing.to("cuda"))
    assert torch.allclose(ours, theirs.float().cpu(), atol=5 * ROUNDING * float(ours.abs().max()))


def test_sam_says_the_same() -> None:
    pytest.importorskip("transformers")
    here = MedUHIP(Configuration(backend="sam")).eval()
    there = copy.deepcopy(here).cuda()
    voxels = torch.rand(1, 1, 40, 36)
    shown = []
    for model, given in ((here, voxels), (there, voxels.cuda())):
        with torch.no_grad():
            image = ModelImage(model, model.encode(given))
        session = begin(model, "case", "champion")
        session = click(model, image, session, answer(model, image, session), Click((20, 18), True))
        shown.append(answer(model, image, session).logits.cpu())
    assert torch.allclose(shown[0], shown[1], atol=ROUNDING * float(shown[0].abs().max()))
