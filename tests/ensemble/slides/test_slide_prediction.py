"""A slide is answered pixel by pixel as its members see it, the same whatever the way through it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch

from overread.domain import BadInputError, Region
from overread.ensemble.ensemble import Calibration, DoubtBands, Ensemble
from overread.ensemble.slides.maps import SlideMaps
from overread.ensemble.slides.prediction import SlideOptions, SlidePrediction, predict_slide
from overread.ensemble.training import StoppedError
from overread.imaging.slides.mosaic import LabelMosaic
from overread.imaging.slides.slide import Slide
from support.slides import grey, random_networks, red_cuts, slide_of, tissue_of

FIELDS = ("known", "probability", "class_doubt", "sizes", "overlaps")


def all_of(mosaic: LabelMosaic) -> np.ndarray:
    return mosaic.read(0, 0, *mosaic.size)


def same_cells(one: SlideMaps, other: SlideMaps, region: Region, atol: float = 0) -> None:
    cells = (..., *one.cells(region))
    for name in FIELDS:
        np.testing.assert_allclose(getattr(one, name)[cells], getattr(other, name)[cells], atol=atol)
    for name, values in one.maps.items():
        np.testing.assert_allclose(values[cells], other.maps[name][cells], atol=atol)


@pytest.fixture
def noisy(tmp_path: Path) -> Slide:
    rng = np.random.default_rng(0)
    return slide_of(tmp_path / "noisy.tif", rng.integers(0, 255, (150, 210, 3), dtype=np.uint8))


def test_labels_are_those_of_the_pixels(noisy: Slide, tmp_path: Path) -> None:
    prediction = predict_slide(red_cuts(tmp_path / "red", (100, 200)), noisy, tissue=tissue_of(noisy))
    red = noisy.read_into(noisy.bounds, noisy.size_px)[..., 0].astype(int)
    np.testing.assert_array_equal(all_of(prediction.labels), (red > 100) * 1 + (red > 200))
    assert prediction.region == noisy.bounds
    assert prediction.pixel_size.um == 1.0
    assert prediction.maps.known.all()
    assert 0 <= prediction.report.waited_share <= 1


def test_members_see_x_along_their_first_axis(tmp_path: Path) -> None:
    columns = np.tile(np.arange(96) * 2, (48, 1))

    def rises_along_first_axis(windows: torch.Tensor) -> torch.Tensor:
        assert windows.shape[1:] == (3, 32, 16)
        rise = windows[:, 0, 8:9] - windows[:, 0, :1]
        rise = rise[:, :, :1].expand(-1, 32, 16)
        return torch.stack([-rise, rise], dim=1)

    ensemble = replace(red_cuts(tmp_path / "red", patch=(32, 16)), members=[rises_along_first_axis])
    slide = slide_of(tmp_path / "rising.tif", grey(columns))
    assert (all_of(predict_slide(ensemble, slide, tissue=tissue_of(slide)).labels) == 1).all()


@pytest.mark.parametrize("region", [Region(37, 41, 70, 53), Region(0, 100, 13, 50), Region(200, 0, 500, 7)])
@pytest.mark.parametrize(
    "options", [SlideOptions(batch=1, workers=1, ahead=1, strip_bytes=1), SlideOptions(batch=3)]
)
def test_a_region_is_answered_as_within_the_whole_slide(
    noisy: Slide, tmp_path: Path, region: Region, options: SlideOptions
) -> None:
    ensemble = red_cuts(tmp_path / "red", (100, 200), (0, -20, 20), sharpness=0.05)
    tissue = tissue_of(noisy)
    whole = predict_slide(ensemble, noisy, tissue=tissue)
    part = predict_slide(ensemble, noisy, region=region, tissue=tissue, options=options)
    box = part.region
    for name in ("labels", "some", "every"):
        there = all_of(getattr(whole, name))[box.y : box.bottom, box.x : box.right]
        np.testing.assert_array_equal(all_of(getattr(part, name)), there)
    # Cells are float16; sums in another order may be rounded to the neighbour.
    same_cells(part.maps, whole.maps, box, atol=2e-3)
    assert part.maps.known.sum() == part.maps.known[part.maps.cells(box)].size


def test_networks_answer_a_region_and_bands_as_the_whole_slide(noisy: Slide) -> None:
    ensemble, tissue = random_networks(), tissue_of(noisy)
    whole = predict_slide(ensemble, noisy, tissue=tissue, options=SlideOptions(precision="full"))
    options = SlideOptions(precision="full", batch=5, strip_bytes=1)
    banded = predict_slide(ensemble, noisy, tissue=tissue, options=options)
    same_cells(banded.maps, whole.maps, noisy.bounds, atol=1e-3)
    assert (all_of(banded.labels) != all_of(whole.labels)).mean() < 1e-3
    region = Region(50, 60, 40, 40)
    part = predict_slide(ensemble, noisy, region=region, tissue=tissue, options=options)
    same_cells(part.maps, whole.maps, region, atol=1e-3)
    assert part.report.tiles < whole.report.tiles


def test_blended_logits_do_not_depend_on_the_way(noisy: Slide, monkeypatch: pytest.MonkeyPatch) -> None:
    """The members' blended logits themselves, before they are rounded to cells."""
    from overread.ensemble.slides import prediction as module

    ensemble, tissue = random_networks(), tissue_of(noisy)
    field = torch.zeros(2, 2, 150, 210)

    class Watched(module.Strip):
        def __init__(self, *arguments) -> None:
            def watch(row: int, column: int, logits: torch.Tensor, answered: torch.Tensor) -> None:
                field[:, :, row : row + logits.shape[2], column : column + logits.shape[3]] = logits
                arguments[-1](row, column, logits, answered)

            super().__init__(*arguments[:-1], watch)

    monkeypatch.setattr(module, "Strip", Watched)
    predict_slide(ensemble, noisy, tissue=tissue, options=SlideOptions(precision="full"))
    whole = field.clone()
    assert (whole != 0).all()
    field.zero_()
    predict_slide(
        ensemble,
        noisy,
        region=Region(64, 64, 32, 32),
        tissue=tissue,
        options=SlideOptions(precision="full", batch=3, strip_bytes=1),
    )
    torch.testing.assert_close(field[..., 64:96, 64:96], whole[..., 64:96, 64:96], atol=1e-4, rtol=0)


def test_some_every_and_bands_are_worked_out_by_hand(tmp_path: Path) -> None:
    bands = {"predictive_entropy": DoubtBands("predictive_entropy", 0.6, 0.3, 0, 0, 0, 0, 1)}
    ensemble = red_cuts(tmp_path / "red", (100,), (0, 40), sharpness=9, calibration=Calibration(bands=bands))
    stripes = np.repeat([50, 120, 200, 90], 16)
    slide = slide_of(tmp_path / "stripes.tif", grey(np.tile(stripes, (32, 1))))
    found = predict_slide(ensemble, slide, tissue=tissue_of(slide))

    def by_stripe(mosaic: LabelMosaic) -> list[int]:
        picture = all_of(mosaic)
        assert (picture == picture[:1]).all()
        return picture[0, ::16].tolist()

    assert by_stripe(found.some) == [0, 1, 1, 0]
    assert by_stripe(found.every) == [0, 0, 1, 0]
    assert by_stripe(found.bands) == [0, 2, 0, 0]
    maps = found.maps
    np.testing.assert_allclose(maps.sizes[:, 0, 0, ::2], [[0, 1, 1, 0], [0, 0, 1, 0]])
    np.testing.assert_allclose(maps.overlaps[0, 0, 0, ::2], [0, 0, 1, 0])
    np.testing.assert_allclose(maps.probability[1, 0, ::2], [0, 0.5, 1, 0], atol=1e-3)
    np.testing.assert_allclose(maps.maps["mutual_information"][0, ::2], [0, np.log(2), 0, 0], atol=1e-3)
    np.testing.assert_allclose(maps.class_doubt[0, 0, ::2], [0, np.log(2) / 2, 0, 0], atol=1e-3)


def test_cells_are_means_also_where_pixels_do_not_divide_them(tmp_path: Path) -> None:
    red = np.zeros((64, 64))
    red[:, 12:] = 200
    slide = slide_of(tmp_path / "half.tif", grey(red))
    found = predict_slide(red_cuts(tmp_path / "red", um=3.0), slide, tissue=tissue_of(slide))
    # Pixels 0-3 are dark. By their centres (1.5, 4.5, 7.5 | 10.5, 13.5 µm) cell 0 has three and cell 1 has two.
    np.testing.assert_allclose(found.maps.sizes[0, 0, 0, :3], [0, 0.5, 1], atol=1e-3)
    assert found.labels.size == (22, 22)
    assert found.region == slide.bounds


def test_what_has_no_tissue_is_background_and_not_looked_at(tmp_path: Path) -> None:
    slide = slide_of(tmp_path / "bright.tif", grey(np.full((256, 256), 200)))
    mask = np.zeros((32, 32), bool)
    mask[4:8, 20:24] = True
    ensemble = red_cuts(tmp_path / "red")
    found = predict_slide(ensemble, slide, tissue=tissue_of(slide, mask))
    picture = all_of(found.labels)
    assert (picture[32:64, 160:192] == 1).all()
    assert not picture[128:].any()
    np.testing.assert_array_equal(found.maps.known, mask)
    assert found.report.tiles <= 9
    nothing = predict_slide(ensemble, slide, tissue=tissue_of(slide, np.zeros_like(mask)))
    assert not all_of(nothing.labels).any()
    assert not nothing.maps.known.any()
    assert (nothing.maps.probability[0] == 1).all()
    assert nothing.report.tiles == 0
    assert "0 windows" in nothing.report.words()


def test_a_slide_smaller_than_a_window_is_answered(tmp_path: Path) -> None:
    slide = slide_of(tmp_path / "small.tif", grey(np.full((20, 13), 200)))
    found = predict_slide(red_cuts(tmp_path / "red", patch=(640, 640)), slide, tissue=tissue_of(slide))
    assert found.labels.size == (13, 20)
    assert (all_of(found.labels) == 1).all()


def test_maps_are_filled_region_by_region(noisy: Slide, tmp_path: Path) -> None:
    ensemble, tissue = red_cuts(tmp_path / "red"), tissue_of(noisy)
    maps = SlideMaps.empty(noisy, ensemble, tissue)
    maps.is_coarse = True
    for left in (0, 104):
        region = Region(left, 0, 106, 150)
        found = predict_slide(ensemble, noisy, region=region, maps=maps, measure="variance")
        assert found.maps is maps
    assert maps.known.all()
    assert maps.is_coarse
    whole = predict_slide(ensemble, noisy, tissue=tissue, measure="variance")
    same_cells(maps, whole.maps, noisy.bounds)
    assert not predict_slide(ensemble, noisy, maps=maps).maps.is_coarse
    assert "variance" in maps.maps


def test_progress_ends_at_one_and_a_stop_is_heard(noisy: Slide, tmp_path: Path) -> None:
    ensemble, tissue = red_cuts(tmp_path / "red"), tissue_of(noisy)
    told: list[float] = []
    predict_slide(ensemble, noisy, tissue=tissue, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1
    stop = Event()
    stop.set()
    with pytest.raises(StoppedError, match="looking at noisy was stopped"):
        predict_slide(ensemble, noisy, tissue=tissue, stop=stop)


def test_a_cascade_takes_the_first_members_word_where_it_is_sure(tmp_path: Path) -> None:
    red = np.full((64, 256), 200)
    red[:, 180:] = 101
    slide = slide_of(tmp_path / "two.tif", grey(red))
    ensemble = red_cuts(tmp_path / "red", (100,), (0, 150), sharpness=0.5)
    tissue = tissue_of(slide)

    def ask(cascade: float | None) -> SlidePrediction:
        return predict_slide(ensemble, slide, tissue=tissue, options=SlideOptions(cascade=cascade, batch=4))

    full, never, always, some = ask(None), ask(0.0), ask(100.0), ask(0.1)
    assert full.report.spared == never.report.spared == 0
    np.testing.assert_array_equal(never.maps.sizes, full.maps.sizes)
    assert always.report.spared == 1
    np.testing.assert_array_equal(always.maps.sizes[1], full.maps.sizes[0])
    assert 0 < some.report.spared < 1
    assert some.report.evaluations < full.report.evaluations
    # Sure on the left, where the second member would have disagreed; asked on the right.
    np.testing.assert_array_equal(some.maps.sizes[1, 0, :, 1], 1)
    np.testing.assert_array_equal(some.maps.sizes[1, 0, :, -1], 0)
    assert "the cascade spared" in some.report.words()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"um_per_px": None}, "does not say how many micrometres"),
        ({"patch": (8, 8, 8)}, "a slide is a picture of three"),
        ({"channels": ("H", "E")}, "2-D windows of 2 channels"),
    ],
)
def test_an_ensemble_that_knows_no_slides_is_refused(
    noisy: Slide, tmp_path: Path, changed: dict[str, object], words: str
) -> None:
    ensemble: Ensemble = replace(red_cuts(tmp_path / "red"), **changed)
    with pytest.raises(BadInputError, match=words):
        predict_slide(ensemble, noisy, tissue=tissue_of(noisy))


def test_members_that_scale_each_picture_by_itself_are_refused(noisy: Slide) -> None:
    with pytest.raises(BadInputError, match="zscore"):
        predict_slide(random_networks(kind="zscore"), noisy, tissue=tissue_of(noisy))


def test_what_cannot_be_asked_is_named(noisy: Slide, tmp_path: Path) -> None:
    ensemble, tissue = red_cuts(tmp_path / "red"), tissue_of(noisy)
    with pytest.raises(BadInputError, match=r"lies outside noisy, which has 210 x 150 pixels"):
        predict_slide(ensemble, noisy, region=Region(210, 0, 5, 5), tissue=tissue)
    with pytest.raises(BadInputError, match="red has 1 members, 2 were asked for"):
        predict_slide(ensemble, noisy, tissue=tissue, options=SlideOptions(members=2))
    other = SlideMaps.empty(noisy, ensemble, tissue, members=3)
    with pytest.raises(BadInputError, match="3 members; noisy has"):
        predict_slide(ensemble, noisy, maps=other)
    with pytest.raises(BadInputError, match="step is 2"):
        SlideOptions(step=2)
    with pytest.raises(BadInputError, match="batch is 0"):
        SlideOptions(batch=0)
