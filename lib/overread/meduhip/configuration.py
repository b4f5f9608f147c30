"""What a MedUHIP model is made of, in plain values: kept with the model, and what a recipe may say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from overread.domain import BadInputError
from overread.meduhip.clustering import CLUSTERERS, DEFAULT_CLUSTERING

SAM = "sam"
# Number of axes of the images, by backend.
AXES = {"unet2d": 2, "unet3d": 3, SAM: 2}
# By size of SAM: pixels a side that it sees, and how samples enter, unless somebody says otherwise.
SAM_DEFAULTS: dict[str, dict[str, Any]] = {
    "small": {"image_size": 128, "fusion": "late"},
    "vit_b": {"image_size": 512, "fusion": "early"},
}
# Side of a cell of its grid, in pixels.
SAM_CELLS = {"small": 8, "vit_b": 16}
# Fields that other backends lack.
OF_SAM = ("size", "image_size", "fusion", "intensities", "freeze_encoder")
FUSIONS = ("early", "late")
INTENSITIES = ("sam", "medsam")


@dataclass(frozen=True)
class Configuration:
    """The sizes of a MedUHIP model: with its weights, all that is needed to make it again.

    Attributes:
        backend: `unet2d`, `unet3d` or `sam`.
        channels: of the image.
        structures: number of foreground classes.
        width: of a U-Net's finest level; `sam` has its own.
        components: M, Gaussians in the sampling space.
        dimension: D of the sampling space.
        samples: N, masks a turn.
        candidates: K, the most that are offered.
        prompt_width: of the prompt encoder's vector; even.
        clustering: what groups the samples into candidates: `kmedoids`, or the paper's `kmeans`.
        size: of `sam`: `small`, or `vit_b` as published.
        image_size: of `sam`: pixels a side that it sees, whole cells of 16 (`small`: 8); None takes 512 (`small`: 128).
        fusion: of `sam`: `early` or `late`, see `SamBackend`; None takes `early` (`small`: `late`).
        intensities: of `sam`: what its weights were trained with, `sam` or `medsam`, see `SamBackend`.
        freeze_encoder: of `sam`: whether training leaves the image encoder as it was.
    """

    backend: str = "unet2d"
    channels: int = 1
    structures: int = 1
    width: int = 24
    components: int = 8
    dimension: int = 16
    samples: int = 16
    candidates: int = 4
    prompt_width: int = 64
    clustering: str = DEFAULT_CLUSTERING
    size: str = "small"
    image_size: int | None = None
    fusion: str | None = None
    intensities: str = "sam"
    freeze_encoder: bool = False

    def __post_init__(self) -> None:
        if self.backend not in AXES:
            raise BadInputError(f"no MedUHIP backend is called {self.backend!r}; there are {', '.join(AXES)}")
        for name in ("channels", "structures", "width", "components", "dimension", "samples", "candidates"):
            if getattr(self, name) < 1:
                raise BadInputError(
                    f"{name} of a MedUHIP model is {getattr(self, name)}, expected at least 1"
                )
        # As many sines as cosines.
        if self.prompt_width < 2 or self.prompt_width % 2:
            raise BadInputError(
                f"prompt_width of a MedUHIP model is {self.prompt_width}, expected an even number from 2"
            )
        if self.clustering not in CLUSTERERS:
            raise BadInputError(f"clustering is {self.clustering!r}, expected {_either(CLUSTERERS)}")
        if self.backend == SAM:
            self._settle_sam()
        else:
            self._refuse_sam()

    def _settle_sam(self) -> None:
        """Check what is about SAM; what was left open is the size's own, and is kept with the model."""
        if self.size not in SAM_DEFAULTS:
            raise BadInputError(f"size of SAM is {self.size!r}, expected {_either(SAM_DEFAULTS)}")
        for name, usual in SAM_DEFAULTS[self.size].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, usual)
        for name, known in (("fusion", FUSIONS), ("intensities", INTENSITIES)):
            if getattr(self, name) not in known:
                raise BadInputError(f"{name} of SAM is {getattr(self, name)!r}, expected {_either(known)}")
        cell = SAM_CELLS[self.size]
        if not isinstance(self.image_size, int) or self.image_size < cell or self.image_size % cell:
            raise BadInputError(
                f"image_size of SAM is {self.image_size!r}, expected a multiple of its {cell} pixel cells"
            )
        if not isinstance(self.freeze_encoder, bool):
            raise BadInputError(f"freeze_encoder is {self.freeze_encoder!r}, expected True or False")

    def _refuse_sam(self) -> None:
        for field in fields(self):
            if field.name in OF_SAM and getattr(self, field.name) != field.default:
                raise BadInputError(
                    f"{field.name} is {getattr(self, field.name)!r}, which only the backend {SAM} has; backend is "
                    f"{self.backend!r}"
                )

    @property
    def axes(self) -> int:
        """2 for pictures, 3 for volumes."""
        return AXES[self.backend]


def _either(names: Iterable[str]) -> str:
    return " or ".join(repr(name) for name in sorted(names))
