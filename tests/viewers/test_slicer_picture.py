"""The README's picture shows the image beside the classes and the bands of doubt, as 3D Slicer draws them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from overread.domain import BadInputError
from overread.studies.slicer_picture import main
from overread.studies.slicer_scene import NEEDS
from support.servers import publish_threshold, write_case


@pytest.mark.skipif(
    importlib.util.find_spec("slicer_core") is None, reason=f"Slicer's core is not installed; {NEEDS}"
)
def test_the_right_panel_has_the_bands_and_the_left_one_the_image_alone(tmp_path: Path) -> None:
    champion, image = publish_threshold(tmp_path), write_case(tmp_path, "case")
    picture = tmp_path / "pictures" / "slicer.png"
    main(["--model", str(champion), "--image", str(image), "--out", str(picture)])

    pixels = np.asarray(Image.open(picture)).astype(int)
    assert pixels.shape == (644, 1206, 3)
    left, right = pixels[:600, :600], pixels[:600, 606:]
    assert left.max() > 100
    assert np.ptp(left, axis=-1).max() == 0, "grey only"
    red, green, blue = np.moveaxis(right, -1, 0)
    assert ((red > 200) & (green < 110) & (blue < 60)).sum() > 100, "outline of doubt: high"
    assert ((red > 200) & (green > 180) & (blue < 80)).sum() > 100, "outline of doubt: moderate"


def test_an_ensemble_without_bands_cannot_be_drawn(tmp_path: Path) -> None:
    champion, image = publish_threshold(tmp_path, bands=False), write_case(tmp_path, "case")
    with pytest.raises(BadInputError, match="no calibrated bands for predictive_entropy"):
        main(["--model", str(champion), "--image", str(image), "--out", str(tmp_path / "slicer.png")])
