"""Claim: an ensemble that was trained on one laboratory's colours sees every slide in them, and so do its children."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from overread.domain import BadInputError, PixelSize
from overread.ensemble.ensemble import Ensemble
from overread.ensemble.slides.glance import glance
from overread.ensemble.slides.prediction import predict_slide
from overread.ensemble.storage import load_ensemble, read_description, reference_of
from overread.ensemble.training import train_ensemble
from overread.imaging.dataset import read_dataset
from overread.imaging.slides.normalised import colours_of_slide
from overread.learning.central import take_stock
from overread.learning.options import RetrainingOptions
from overread.learning.retraining import retrain
from overread.learning.training_set import training_set
from overread.meduhip.lessons import SingleLessons
from support.pictures import EXACT, TINY, write_tissue
from support.slides import red_cuts, slide_of, tissue_of


def described(folder: Path, **values: object) -> Path:
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


def stripes(strength: float) -> np.ndarray:
    """Bars of two densities of a purple dye, `(row, column, 3)`; the stain of another laboratory is stronger."""
    amounts = np.where(np.arange(192) // 24 % 2, 0.9, 0.4)[None, :, None] * np.ones((96, 1, 1))
    return np.rint(255 * np.exp(-strength * amounts * np.array([0.6, 0.8, 0.4]))).astype(np.uint8)


def test_slides_of_any_stain_are_answered_as_the_known_one(tmp_path: Path) -> None:
    weak, strong = (slide_of(tmp_path / f"{s}.tif", stripes(s)) for s in (1.0, 1.8))
    cuts = red_cuts(tmp_path / "red", (170,))
    known = replace(cuts, reference=colours_of_slide(weak, PixelSize(1.0)))
    said = {}
    for name, ensemble in (("plain", cuts), ("known", known)):
        for slide in (weak, strong):
            labels = predict_slide(ensemble, slide, tissue=tissue_of(slide)).labels
            said[name, slide.id] = labels.read(0, 0, *labels.size)
    assert 0.4 < (said["plain", "1.0"] == 1).mean() < 0.6
    np.testing.assert_array_equal(said["known", "1.0"], said["plain", "1.0"])
    assert (said["plain", "1.8"] != said["plain", "1.0"]).mean() > 0.3
    np.testing.assert_array_equal(said["known", "1.8"], said["known", "1.0"])
    looks = [
        glance(known, slide, tissue_of(slide), 1.0, np.random.default_rng(0)).probability
        for slide in (weak, strong)
    ]
    np.testing.assert_allclose(looks[0], looks[1], atol=0.05)


def test_slides_of_one_centre_are_seen_through_one_map(tmp_path: Path) -> None:
    at = PixelSize(1.0)
    paths = [tmp_path / f"{s}.tif" for s in (1.0, 1.8)]
    slides = [slide_of(path, stripes(float(path.stem))) for path in paths]
    cuts = red_cuts(tmp_path / "red", (170,))
    mean = np.mean([colours_of_slide(slide, at) for slide in slides], axis=0)
    known = replace(cuts, reference=mean)

    def said(ensemble: Ensemble) -> list[np.ndarray]:
        found = [predict_slide(ensemble, slide, tissue=tissue_of(slide)).labels for slide in slides]
        return [labels.read(0, 0, *labels.size) for labels in found]

    alone, plain = said(known), said(cuts)
    assert (alone[1] != plain[1]).mean() > 0.2
    rows = "".join(f"{path.stem},{path.stem},east\n" for path in paths)
    (tmp_path / "patients.csv").write_text("case,patient,centre\n" + rows)
    # The centre's own colours are the known ones, so nothing moves.
    for now, before in zip(said(known), plain, strict=True):
        np.testing.assert_array_equal(now, before)


def test_it_is_kept_with_the_ensemble_and_by_what_is_trained_from_it(tmp_path: Path) -> None:
    colours = (np.eye(3) * 0.5 + 0.1).tolist()
    folder = described(write_tissue(tmp_path / "data", 6), colours=colours)
    dataset = read_dataset(folder)
    options = replace(EXACT, iterations=2)
    trained = train_ensemble("tissue", dataset, tmp_path / "work", options, {**TINY, "norm": "batch"})
    np.testing.assert_allclose(load_ensemble(trained).reference, colours)
    central = take_stock(folder, dataset, frozenset())
    cases = training_set(trained, central, [], 0)
    short = RetrainingOptions(iterations=1, device="cpu", precision="float32", threads=1)
    child = read_description(retrain(trained, cases, tmp_path / "again", short, stop=threading.Event()))
    np.testing.assert_allclose(reference_of(child), colours)
    plain = read_dataset(write_tissue(tmp_path / "plain", 6))
    assert plain.colours is None
    other = train_ensemble("tissue", plain, tmp_path / "other", options, {**TINY, "norm": "batch"})
    assert load_ensemble(other).reference is None
    # The colours are part of what a champion is.
    one, two = read_description(trained), read_description(other)
    assert one["identity"] != two["identity"]


def test_meduhip_models_which_do_not_are_not_trained_on_such_pictures(tmp_path: Path) -> None:
    dataset = read_dataset(described(write_tissue(tmp_path, 2), colours=np.eye(3).tolist()))
    with pytest.raises(BadInputError, match="MedUHIP models see slides as they are"):
        SingleLessons(dataset)
