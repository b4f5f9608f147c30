"""Mirror images as views: the mean of what is said of each, clicks and chosen mask mirrored along."""

from __future__ import annotations

import pytest
import torch

from overread.meduhip.mirrors import AS_IT_IS, mirrors_along
from overread.meduhip.network import Configuration, MedUHIP
from overread.meduhip.prompts import Click, Prompts
from overread.meduhip.session import answer, begin, click
from overread.studies.meduhip.players import ModelImage
from overread.studies.meduhip.probabilistic_unet import ProbabilisticUNet

SHAPES = {2: (40, 36), 3: (20, 18, 12)}


def untrained(axes: int) -> MedUHIP:
    """With samples that differ and clicks that matter."""
    torch.manual_seed(1)
    model = MedUHIP(
        Configuration(backend=f"unet{axes}d", width=6, components=4, dimension=5, samples=6)
    ).eval()
    with torch.no_grad():
        for decoder in model.backend.decoders:  # type: ignore[attr-defined]
            torch.nn.init.normal_(decoder.last.weight, std=2.0)
    return model


def image_of(axes: int) -> torch.Tensor:
    return torch.randn(1, 1, *SHAPES[axes], generator=torch.Generator().manual_seed(2))


def test_views_are_all_sets_of_axes_that_training_mirrored() -> None:
    assert mirrors_along((0, 1), 2) == ((), (0,), (1,), (0, 1))
    assert mirrors_along((1,), 2) == ((), (1,))
    assert mirrors_along((), 3) == AS_IT_IS
    assert mirrors_along((0,), 3) == ((), (0,))
    # Eight views of a volume would cost too much.
    assert mirrors_along((0, 1, 2), 3) == ((), (0,))


@pytest.mark.parametrize("axes", [2, 3])
@torch.no_grad()
def test_what_is_said_is_the_mean_over_views_each_decoded_by_itself(axes: int) -> None:
    model, image = untrained(axes), image_of(axes)
    shape = SHAPES[axes]
    place = tuple(range(3, 3 + axes))
    dense = torch.randn(Prompts.none(1, axes).dense.shape[2:], generator=torch.Generator().manual_seed(3))
    samples = torch.randn(1, 6, 5, generator=torch.Generator().manual_seed(4))
    prompts = Prompts.of_clicks([Click(place, True), Click((0,) * axes, False)], axes, dense)
    mirrors = mirrors_along(range(axes), axes)
    expected = torch.zeros(1, 6, *shape)
    contexts = []
    for mirror in mirrors:
        there = tuple(shape[a] - 1 - place[a] if a in mirror else place[a] for a in range(axes))
        corner = tuple(shape[a] - 1 if a in mirror else 0 for a in range(axes))
        turned = dense.flip(mirror) if mirror else dense
        seen = Prompts.of_clicks([Click(there, True), Click(corner, False)], axes, turned)
        space = [2 + axis for axis in mirror]
        cache = model.encode(image.flip(space) if space else image)
        contexts.append(cache.context)
        logits = model.decode(cache, samples, seen)
        expected += (logits.flip(space) if space else logits) / len(mirrors)
    model.mirrors = mirrors
    cache = model.encode(image)
    said = model.decode(cache, samples, prompts)
    torch.testing.assert_close(said, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(cache.context, torch.stack(contexts).mean(dim=0))
    assert cache.bytes > 0


@torch.no_grad()
def test_of_the_mirror_image_the_mirror_image_is_said() -> None:
    model, image = untrained(2), image_of(2)
    plain = answer(model, ModelImage(model, model.encode(image)), begin(model, "case", "champion"))
    turned = answer(model, ModelImage(model, model.encode(image.flip(2))), begin(model, "case", "champion"))
    assert not torch.allclose(turned.logits.flip(0), plain.logits, atol=1e-2)
    model.mirrors = mirrors_along((0, 1), 2)
    opened, mirrored = (ModelImage(model, model.encode(each)) for each in (image, image.flip(2)))
    session = begin(model, "case", "champion")
    here, there = answer(model, opened, session), answer(model, mirrored, session)
    torch.testing.assert_close(there.logits.flip(0), here.logits, rtol=1e-3, atol=1e-3)
    wanted = not bool(here.logits[5, 7] > 0)
    last = SHAPES[2][0] - 1
    after = click(model, opened, session, here, Click((5, 7), wanted))
    after_there = click(model, mirrored, session, there, Click((last - 5, 7), wanted))
    moved, moved_there = answer(model, opened, after), answer(model, mirrored, after_there)
    # What the Weight Network makes of a place is not symmetric, so that only the first answer is the same to the end.
    assert bool(moved.logits[5, 7] > 0) == bool(moved_there.logits[last - 5, 7] > 0) == wanted


@torch.no_grad()
def test_the_probabilistic_u_net_looks_at_mirror_images_like_its_rivals() -> None:
    torch.manual_seed(1)
    model, image = ProbabilisticUNet(2, 1, 4).eval(), image_of(2)
    drawn = model.draw(model.encode(image), 3, torch.Generator().manual_seed(0))
    assert drawn.shape == (1, 3, *SHAPES[2])
    model.mirrors = mirrors_along((0, 1), 2)
    here = model.draw(model.encode(image), 3, torch.Generator().manual_seed(0))
    there = model.draw(model.encode(image.flip(2)), 3, torch.Generator().manual_seed(0))
    assert here.shape == drawn.shape
    torch.testing.assert_close(there.flip(2), here, rtol=1e-3, atol=1e-3)


def test_the_probabilistic_u_net_learns_and_draws_in_volumes_of_a_few_slices() -> None:
    torch.manual_seed(1)
    model = ProbabilisticUNet(3, 1, 4)
    image = torch.randn(1, 1, 48, 44, 5)
    loss = model.loss(image, (image[:, 0] > 0).float())
    loss.backward()
    assert bool(torch.isfinite(loss))
    drawn = model.eval().draw(model.encode(image), 2, torch.Generator().manual_seed(0))
    assert drawn.shape == (1, 2, 48, 44, 5)
