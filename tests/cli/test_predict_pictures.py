"""`overread predict` shows pictures to a model in the colours that it was trained in."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from overread.cli import app
from overread.ensemble import storage
from overread.imaging.slides.colours import mean_moments
from overread.imaging.slides.normalised import picture_in_colours
from overread.imaging.volumes import read_labelmap, read_volume
from overread.learning.champions import ChampionStore
from support.pictures import tissue
from support.slides import red_cuts

TINT = (0.55, 0.8, 0.9)


def pictures(folder: Path) -> tuple[np.ndarray, Path, Path]:
    """The same tissue of two laboratories."""
    folder.mkdir()
    plain, _ = tissue(np.random.default_rng(0))
    tinted, _ = tissue(np.random.default_rng(0), tint=TINT)
    paths = folder / "plain.png", folder / "tinted.png"
    for picture, path in zip((plain, tinted), paths, strict=True):
        Image.fromarray(picture).save(path)
    return plain, *paths


def test_a_picture_of_another_laboratory_looks_like_the_known_one(tmp_path: Path) -> None:
    plain, own, other = pictures(tmp_path / "in")
    reference = mean_moments([plain])
    known, foreign = read_volume([own]), read_volume([other])
    assert np.abs(picture_in_colours(known, reference).voxels - known.voxels).max() <= 1
    turned = picture_in_colours(foreign, reference)
    assert turned.voxels.dtype == foreign.voxels.dtype
    assert turned.grid == foreign.grid
    apart = [np.abs(volume.voxels - known.voxels).mean() for volume in (foreign, turned)]
    assert apart[1] < apart[0] / 3


def test_predict_answers_it_as_the_known_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, own, other = pictures(tmp_path / "in")
    cut = red_cuts(tmp_path / "red", (170,))
    ChampionStore(tmp_path / "models").publish("red", tmp_path / "red")

    def said(name: str) -> list[np.ndarray]:
        out = tmp_path / name
        arguments = ["predict", "red", str(own), str(other), "--out", str(out), "--device", "cpu"]
        command = CliRunner().invoke(app, [*arguments, "--models", str(tmp_path / "models")])
        assert command.exit_code == 0, command.output
        return [read_labelmap(out / f"{case}.nii.gz")[0] for case in ("plain", "tinted")]

    before = said("before")
    assert (before[0] != before[1]).mean() > 0.5
    known = replace(cut, reference=mean_moments([plain]))
    monkeypatch.setattr(storage, "load_ensemble", lambda *_: known)
    after = said("after")
    np.testing.assert_array_equal(after[0], before[0])
    assert (after[0] != after[1]).mean() < 0.1
