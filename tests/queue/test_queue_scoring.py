"""A case's row holds what can be computed by hand from what the members say."""

from __future__ import annotations

import math
import os
from dataclasses import replace

import numpy as np
import pytest

from overread.domain import BadInputError, Grid, NotFoundError
from overread.ensemble.ensemble import Ensemble
from overread.ensemble.storage import load_ensemble
from overread.ensemble.threshold import write_threshold_ensemble
from overread.imaging.volumes import Volume
from overread.learning.champions import HASH_LENGTH
from overread.queue.features import LENGTH
from overread.queue.scoring import cold_score, failed_score, revision_of, score_case
from overread.state.scores import COLD
from support.servers import CLASSES, CUTS, OFFSETS
from support.styles import CORE_BOX, MIDDLE_BOX, OUTER_BOX, SHAPE, publish_styles, shells

SPACING_MM = (1.0, 2.0, 3.0)


def ensemble(folder, offsets=OFFSETS) -> Ensemble:
    write_threshold_ensemble(folder, "phantom", CLASSES, CUTS, offsets, sharpness=1.0, patch=(16, 16, 16))
    return load_ensemble(folder)


def volume(voxels: np.ndarray) -> Volume:
    return Volume(voxels[None].astype(np.float32), Grid(voxels.shape, np.diag([*SPACING_MM, 1.0])))


def scored(folder, voxels: np.ndarray, **changes):
    return score_case(ensemble(folder, **changes), volume(voxels), "phantom", "case1", "12-34", 99.0)


def doubtful() -> np.ndarray:
    """A cube of 20 x 20 x 20 with 4 x 4 x 4 voxels of 61, where the members give organ 0.88, 1 and 0."""
    voxels = np.zeros((20, 20, 20))
    voxels[8:12, 8:12, 8:12] = 61
    return voxels


def entropy(*shares: float) -> float:
    return -sum(share * math.log(share) for share in shares)


def test_the_doubt_is_a_mean_in_and_near_the_structure(tmp_path):
    row = scored(tmp_path, doubtful())
    # logits: margin to the cut at 60, 50 and 70, against its opposite.
    organ = np.mean([1 / (1 + math.exp(-2 * margin)) for margin in (1, 11, -9)])
    # Within 5 voxels of the 4 x 4 x 4 structure are 14 x 14 x 14 voxels; only those of the structure are doubtful.
    share = 4**3 / 14**3
    assert row.doubt == pytest.approx(share * entropy(organ, 1 - organ), rel=1e-3)
    assert row.class_doubt["organ"] == pytest.approx(organ * row.doubt, rel=1e-3)
    assert row.class_doubt["tumour"] == pytest.approx(0, abs=1e-6)


def test_the_volume_is_in_mm3(tmp_path):
    row = scored(tmp_path, doubtful())
    assert row.foreground_mm3 == {"organ": 4**3 * 6.0, "tumour": 0.0}


def test_the_quality_is_the_disagreement_of_the_members(tmp_path):
    # Two of three draw the structure: one of three pairs agrees.
    assert scored(tmp_path, doubtful()).quality == pytest.approx(2 / 3)


@pytest.mark.parametrize(("count", "quality"), [(1, 0.0), (2, 2 / 3)])
def test_members_are_not_said_to_disagree_about_a_speck(tmp_path, count, quality):
    # A voxel has 6 mm³, a speck less than 10.
    voxels = np.zeros((20, 20, 20))
    voxels[8, 8, 8 : 8 + count] = 61
    assert scored(tmp_path, voxels).quality == pytest.approx(quality)


def test_one_member_alone_has_no_quality(tmp_path):
    assert scored(tmp_path, doubtful(), offsets=(0.0,)).quality is None


def test_members_that_differ_by_style_have_no_quality(tmp_path):
    styles = replace(ensemble(tmp_path), differ_by_style=True)
    row = score_case(styles, volume(doubtful()), "phantom", "case1", "12-34", 99.0)
    assert row.quality is None
    assert row.doubt is not None
    assert row.doubt > 0


def test_members_that_cannot_tell_kinds_of_doubt_apart_have_no_parts(tmp_path):
    assert scored(tmp_path, doubtful()).parts == {}


def test_a_model_with_styles_says_whose_the_doubt_is(tmp_path):
    champion = publish_styles(tmp_path, "shells")
    image = Volume(shells()[None], Grid(SHAPE, np.eye(4)))
    row = score_case(load_ensemble(champion), image, "shells", "case1", "12-34", 99.0)
    # The components are sure, and each draws another shell.
    assert row.parts["style"] > 10 * row.parts["within"] > 0
    assert row.parts["members"] == 0
    box = tuple(slice(max(0, edge.start - 5), edge.stop + 5) for edge in MIDDLE_BOX)
    # Within 5 voxels of the middle box, which two of three hold, every voxel has its variance over the three.
    share = np.zeros(SHAPE)
    for where in (OUTER_BOX, MIDDLE_BOX, CORE_BOX):
        share[where] += 1 / 3
    assert row.parts["style"] == pytest.approx((share * (1 - share))[box].mean(), rel=0.05)


def test_where_nothing_is_predicted_the_doubt_is_a_mean_over_the_image(tmp_path):
    row = scored(tmp_path, np.full((10, 10, 10), 51.0))
    organ = np.mean([1 / (1 + math.exp(-2 * margin)) for margin in (-9, 1, -19)])
    assert row.doubt == pytest.approx(entropy(organ, 1 - organ), rel=1e-3)
    assert row.foreground_mm3 == {"organ": 0.0, "tumour": 0.0}


def test_the_row_says_whose_it_is(tmp_path):
    row = scored(tmp_path, doubtful())
    assert row.champion == load_ensemble(tmp_path).identity[:HASH_LENGTH]
    assert (row.recipe, row.case_id, row.revision, row.scored_at) == ("phantom", "case1", "12-34", 99.0)
    assert (len(row.features), row.error) == (LENGTH, None)
    assert row.took_s > 0


def test_a_volume_that_the_ensemble_cannot_read_is_refused(tmp_path):
    with pytest.raises(BadInputError, match="expects 1 channels"):
        score_case(
            ensemble(tmp_path),
            Volume(np.zeros((2, 4, 4, 4), np.float32), Grid((4, 4, 4), np.eye(4))),
            "phantom",
            "case1",
            "",
            0.0,
        )


def test_a_cold_score_holds_features_only():
    row = cold_score(volume(doubtful()), "phantom", "case1", "12-34", 99.0)
    assert (row.champion, row.doubt, row.quality, row.class_doubt) == (COLD, None, None, {})
    assert len(row.features) == LENGTH


def test_a_failed_score_holds_the_reason():
    row = failed_score("phantom", "abc", "case1", "12-34", "it is no volume", 0.5, 99.0)
    assert (row.error, row.doubt, row.features) == ("it is no volume", None, ())


def test_another_file_under_the_same_name_has_another_revision(tmp_path):
    path = tmp_path / "case.nii.gz"
    path.write_bytes(b"one")
    os.utime(path, ns=(0, 1))
    first = revision_of(path)
    os.utime(path, ns=(0, 2))
    second = revision_of(path)
    path.write_bytes(b"three")
    os.utime(path, ns=(0, 2))
    assert len({first, second, revision_of(path)}) == 3
    assert revision_of(path) == revision_of(path)


def test_a_file_that_is_not_there_has_no_revision(tmp_path):
    with pytest.raises(NotFoundError, match=r"gone.nii.gz cannot be found: No such file"):
        revision_of(tmp_path / "gone.nii.gz")
