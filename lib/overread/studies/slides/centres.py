"""Five laboratories: how each stains, and what its scanner makes of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from overread.domain import BadInputError

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class Stain:
    """Optical density (base 10) in red, green and blue of one unit of each dye, and how much of it the laboratory uses.

    Attributes:
        haematoxylin, eosin: directions of the dyes; scaled to length 1 when used.
        haematoxylin_strength, eosin_strength: 1 is the amount of centre A.
    """

    haematoxylin: RGB
    eosin: RGB
    haematoxylin_strength: float = 1.0
    eosin_strength: float = 1.0

    @property
    def matrix(self) -> np.ndarray:
        """(dye, channel): density that one unit of concentration in the tissue makes."""
        vectors = np.array([self.haematoxylin, self.eosin], np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors * np.array([[self.haematoxylin_strength], [self.eosin_strength]], np.float32)


@dataclass(frozen=True)
class Scanner:
    """What happens to light between slide and file.

    Attributes:
        glass: colour of empty glass, 0..255.
        gamma: exponent on the light, each channel; above 1 is darker.
        saturation: 1 leaves colours, 0 makes grey.
        blur_um: standard deviation of the optics' point spread, in µm.
        sharpen: share of the difference to a blurred copy that the scanner's software adds.
        noise: standard deviation of the sensor's noise, in grey levels.
        jpeg_quality: 1..100.
    """

    glass: RGB
    gamma: RGB
    saturation: float
    blur_um: float
    sharpen: float
    noise: float
    jpeg_quality: int


@dataclass(frozen=True)
class Centre:
    """A laboratory with its stain and its scanner."""

    name: str
    stain: Stain
    scanner: Scanner


# Ruifrok & Johnston 2001 (Anal Quant Cytol Histol 23:291), table of optical densities.
RUIFROK_HAEMATOXYLIN, RUIFROK_EOSIN = (0.65, 0.70, 0.29), (0.07, 0.99, 0.11)
# Macenko et al. 2009 (ISBI), the reference slide of their published code.
MACENKO_HAEMATOXYLIN, MACENKO_EOSIN = (0.5626, 0.7201, 0.4062), (0.2159, 0.8012, 0.5581)

# A and B have published dyes. C, D and E are made from them such that C is faded and soft, D dark, violet and
# sharpened, E orange with weak nuclei and much compressed.
CENTRES: dict[str, Centre] = {
    centre.name: centre
    for centre in (
        Centre(
            "A",
            Stain(MACENKO_HAEMATOXYLIN, MACENKO_EOSIN),
            Scanner((244, 243, 245), (1.0, 1.0, 1.0), 1.0, 0.30, 0.0, 1.2, 88),
        ),
        Centre(
            "B",
            Stain(RUIFROK_HAEMATOXYLIN, RUIFROK_EOSIN, 0.95, 0.9),
            Scanner((247, 242, 233), (0.95, 1.0, 1.05), 0.88, 0.55, 0.0, 1.5, 80),
        ),
        Centre(
            "C",
            Stain((0.60, 0.74, 0.30), (0.12, 0.96, 0.25), 0.62, 0.60),
            Scanner((232, 237, 246), (1.05, 0.95, 0.95), 0.85, 1.0, 0.0, 0.8, 75),
        ),
        Centre(
            "D",
            Stain((0.60, 0.74, 0.30), (0.20, 0.92, 0.34), 1.3, 1.0),
            Scanner((240, 236, 244), (1.15, 1.0, 0.95), 1.05, 0.45, 0.9, 1.8, 85),
        ),
        Centre(
            "E",
            Stain((0.66, 0.66, 0.36), (0.08, 0.86, 0.50), 0.7, 1.05),
            Scanner((236, 232, 222), (0.95, 1.0, 1.1), 0.95, 0.7, 0.3, 2.5, 60),
        ),
    )
}


def centre_named(name: str) -> Centre:
    """The centre of that name.

    Raises:
        BadInputError: there is none.
    """
    if name not in CENTRES:
        raise BadInputError(f"there is no centre {name!r}; the centres are {', '.join(CENTRES)}")
    return CENTRES[name]
