"""Other laboratories' stains and other scanners' colours, for pictures of haematoxylin and eosin.

Tellez et al. 2019 (arXiv:1902.06543): of the variations compared there, those of the stains' concentrations (HED) made
networks least sensitive to the laboratory; strength 0.05 is their `HED-light`, 0.2 their `HED-strong`.
"""

from __future__ import annotations

import torch

from overread.imaging.slides.colours import DARKEST, map_between, moments_of

# Optical density of red, green and blue per unit of haematoxylin, eosin and DAB (Ruifrok & Johnston 2001, Anal. Quant.
# Cytol. Histol. 23:291), each of length 1.
HED = torch.nn.functional.normalize(
    torch.tensor([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]]), dim=1
)
FROM_HED = torch.linalg.inv(HED)
# Optical density (natural logarithm) by which a concentration moves at most, per unit of strength.
SHIFT = 1.0
# Small changes as scanners make them: share of the saturation and of the brightness, and turns of the hue.
SATURATION = 0.1
BRIGHTNESS = 0.1
HUE = 0.02
LUMINANCE = torch.tensor([0.299, 0.587, 0.114])


def vary_stain(picture: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    """RGB `(3, *space)` in [0, 1], stained and scanned otherwise; in [0, 1] again. The input stays as it is.

    Each stain's concentration c becomes c (1 + a) + b with a and b drawn from ± `strength`; then hue, saturation and
    brightness change a little.
    """
    drawn = 2 * torch.rand(9, generator=generator) - 1
    scale, shift = 1 + strength * drawn[:3], strength * SHIFT * drawn[3:6]
    colours = _colour_matrix(1 + SATURATION * drawn[6], HUE * drawn[7]) * (1 + BRIGHTNESS * drawn[8])
    stained = restain(picture, scale, shift).reshape(3, -1)
    return (colours @ stained).clamp_(0, 1).reshape(picture.shape)


def restain(picture: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """RGB `(3, *space)` whose concentrations of haematoxylin, eosin and DAB are multiplied and moved.

    Args:
        picture: in [0, 1].
        scale, shift: one number a stain; the shift is an optical density (natural logarithm).
    """
    # Concentrations are linear in the densities, so all of it is one matrix on the densities of red, green and blue.
    densities = FROM_HED @ torch.diag(scale) @ HED
    flat = -picture.reshape(3, -1).clamp_min(DARKEST).log()
    return torch.addmm((shift @ HED)[:, None], densities.T, flat).neg_().exp_().reshape(picture.shape)


def colours_of(picture: torch.Tensor) -> torch.Tensor:
    """How a picture's tissue is coloured: the second moments `(3, 3)` of the optical densities of red, green and blue.

    Args:
        picture: RGB `(3, *space)` in [0, 1].
    """
    flat = picture.reshape(3, -1).float().clamp_min(DARKEST)
    return torch.from_numpy(moments_of(-flat.log().numpy())).float()


def in_colours(picture: torch.Tensor, now: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """A picture in another one's colours, see `imaging.slides.colours`.

    Args:
        picture: RGB `(3, *space)` in [0, 1].
        now, wanted: `colours_of` what it is a part of, and of the other.
    """
    matrix = torch.from_numpy(map_between(now.double().numpy(), wanted.double().numpy())).float()
    flat = -picture.reshape(3, -1).clamp_min(DARKEST).log()
    return (matrix @ flat).neg_().exp_().clamp_(0, 1).reshape(picture.shape)


def _colour_matrix(saturation: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Turn red, green and blue about the grey axis, and move them away from their luminance."""
    angle = 2 * torch.pi * turns
    third, cosine = 1 / 3, torch.cos(angle)
    beside = third * (1 - cosine)
    forth, back = beside - third**0.5 * torch.sin(angle), beside + third**0.5 * torch.sin(angle)
    same = cosine + beside
    hue = torch.stack([same, forth, back, back, same, forth, forth, back, same]).reshape(3, 3)
    return hue @ (saturation * torch.eye(3) + (1 - saturation) * LUMINANCE.expand(3, 3))
