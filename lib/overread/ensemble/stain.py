"""Other laboratories' stains and other scanners' colours, for pictures of haematoxylin and eosin.

Tellez et al. 2019 (arXiv:1902.06543): of the variations compared there, those of the stains' concentrations (HED) made
networks least sensitive to the laboratory; strength 0.05 is their `HED-light`, 0.2 their `HED-strong`.
"""

from __future__ import annotations

import torch

# Optical density of red, green and blue per unit of haematoxylin, eosin and DAB (Ruifrok & Johnston 2001, Anal. Quant.
# Cytol. Histol. 23:291), each of length 1.
HED = torch.nn.functional.normalize(
    torch.tensor([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]]), dim=1
)
FROM_HED = torch.linalg.inv(HED)
# Optical density (natural logarithm) by which a concentration moves at most, per unit of strength.
SHIFT = 1.0
# Black has no finite density; one grey level of 8 bits is as dark as it gets.
DARKEST = 1 / 255
# Small changes as scanners make them: share of the saturation and of the brightness, and turns of the hue.
SATURATION = 0.1
BRIGHTNESS = 0.1
HUE = 0.02
LUMINANCE = torch.tensor([0.299, 0.587, 0.114])
# Mean optical density below which a pixel is glass, and what every colour varies at least, so that a map is found.
GLASS_DENSITY = 0.05
LEAST_MOMENT = 1e-3
# A picture's colours are measured on about so many pixels.
MEASURED_PIXELS = 10_000


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
    flat = picture.reshape(3, -1)
    every = max(1, flat.shape[1] // MEASURED_PIXELS)
    densities = -flat[:, ::every].float().clamp_min(DARKEST).log()
    tissue = densities[:, densities.mean(dim=0) > GLASS_DENSITY]
    if tissue.shape[1] < 2:
        tissue = densities
    return tissue @ tissue.T / tissue.shape[1] + LEAST_MOMENT * torch.eye(3)


def in_colours(picture: torch.Tensor, now: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """A picture in another one's colours: the linear map of densities that gives them its second moments.

    Of all such maps the one that moves densities least (Pitié & Kokaram 2007, doi:10.1049/cp:20070055, here without
    means, so that glass stays white).

    Args:
        picture: RGB `(3, *space)` in [0, 1].
        now, wanted: `colours_of` what it is a part of, and of the other.
    """
    root = _power(now, 0.5)
    inverse = _power(now, -0.5)
    matrix = inverse @ _power(root @ wanted @ root, 0.5) @ inverse
    flat = -picture.reshape(3, -1).clamp_min(DARKEST).log()
    return (matrix @ flat).neg_().exp_().clamp_(0, 1).reshape(picture.shape)


def _power(moments: torch.Tensor, exponent: float) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(moments.double())
    return ((vectors * values.clamp_min(1e-12) ** exponent) @ vectors.T).float()


def _colour_matrix(saturation: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Turn red, green and blue about the grey axis, and move them away from their luminance."""
    angle = 2 * torch.pi * turns
    third, cosine = 1 / 3, torch.cos(angle)
    beside = third * (1 - cosine)
    forth, back = beside - third**0.5 * torch.sin(angle), beside + third**0.5 * torch.sin(angle)
    same = cosine + beside
    hue = torch.stack([same, forth, back, back, same, forth, forth, back, same]).reshape(3, 3)
    return hue @ (saturation * torch.eye(3) + (1 - saturation) * LUMINANCE.expand(3, 3))
