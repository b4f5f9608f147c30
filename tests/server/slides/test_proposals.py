"""Labels of patches are compared with what the champion had said there, as the kept maps tell it."""

from __future__ import annotations

import numpy as np
import pytest

from overread.domain import Region
from overread.ensemble.slides.prediction import predict_slide
from overread.ensemble.storage import load_ensemble
from overread.imaging.slides.slide import open_slide
from overread.queue.patches.files import SlideFiles, SlideState, slide_folder
from overread.queue.scoring import revision_of
from overread.server.models import ServedModels
from overread.server.settings import Settings
from overread.server.slides.maps import SlideMapStore
from overread.server.slides.proposals import proposed_in
from overread.server.slides.store import SlideStore
from support.slide_maps import blank, some_maps
from support.slide_store import RECIPE, SlideFolder, asap, rectangle
from support.slides import tissue_of


def test_the_likeliest_class_is_told_at_the_labels_own_pixels():
    predicted = blank(8, 16).astype(int)
    predicted[2:6, 4:12] = 1
    maps = some_maps(blank(8, 16), predicted=predicted)
    # Cells of 8 pixels: tumour from x 32 to 96, y 16 to 48.
    found = proposed_in(maps, Region(0, 0, 128, 64), (128, 64))
    assert found is not None
    assert found.shape == (128, 64)
    np.testing.assert_array_equal(np.flatnonzero(found[:, 32]), np.arange(32, 96))
    np.testing.assert_array_equal(np.flatnonzero(found[64]), np.arange(16, 48))
    part = proposed_in(maps, Region(20, 10, 40, 20), (20, 10))
    np.testing.assert_array_equal(part, proposed_in(maps, Region(0, 0, 128, 64), (64, 32))[10:30, 5:15])


def test_a_border_within_a_cell_is_found_there():
    maps = some_maps(blank(4, 8))
    # Of the cells in column 3 a quarter is tumour, all of those right of it: the border is at x 30.
    maps.probability[1, :, 3], maps.probability[1, :, 4:] = 0.25, 1
    maps.probability[0] = 1 - maps.probability[1]
    found = proposed_in(maps, Region(0, 0, 64, 32), (64, 32))
    assert found is not None
    assert int(np.flatnonzero(found[:, 16])[0]) == pytest.approx(30, abs=1)


def test_a_first_look_and_tissue_that_nobody_looked_at_propose_nothing():
    assert proposed_in(some_maps(blank(8, 8), is_coarse=True), Region(0, 0, 64, 64), (64, 64)) is None
    known = np.ones((8, 8), bool)
    known[0, 0] = False
    maps = some_maps(blank(8, 8), known=known)
    assert proposed_in(maps, Region(0, 0, 64, 64), (64, 64)) is None
    assert proposed_in(maps, Region(16, 0, 48, 64), (48, 64)) is not None


def test_what_a_reader_corrected_in_a_patch_is_kept_with_the_label(tmp_path):
    folder = SlideFolder(tmp_path)
    # Everything is Stroma to this champion: red is 200.
    path = folder.put(shade=200)
    ensemble = load_ensemble(folder.champions.current(RECIPE))
    with open_slide(path) as slide:
        maps = predict_slide(ensemble, slide, tissue=tissue_of(slide)).maps
    root = tmp_path / "maps"
    champion = ensemble.identity[:12]
    SlideFiles(slide_folder(root, RECIPE, champion, "one")).write(
        maps, SlideState(revision_of(path), 99, True, 0.0)
    )
    folder.accepted.settle(2000.0)
    store = SlideStore(
        str(folder.studies),
        ServedModels(folder.champions, Settings()),
        folder.accepted,
        maps=SlideMapStore(root),
    )
    for x, champion_then, drawn in (
        (0, champion, "Stroma"),
        (80, champion, "Tumor"),
        (160, "gone", "Stroma"),
    ):
        region = (x, 0, 80, 40)
        serving = folder.serve(region)
        with folder.database.writing() as c:
            c.exec_driver_sql(f"UPDATE servings SET champion = '{champion_then}' WHERE id = {serving.id}")
        folder.send(store, f"one-patch-{x}_0_80_40", asap((drawn, rectangle(*region)), box=region))
    rows = folder.rows()
    assert [row.dice_to_proposal for row in rows] == [1.0, 0.0, None]
    assert rows[0].details["voxels_changed"] == 0
