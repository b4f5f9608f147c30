"""What the real server offers is in 3D Slicer's core as named segments on the right voxels, turn after turn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from overread.domain import BadInputError, Grid
from overread.imaging.lattice import in_order_of
from overread.imaging.volumes import read_array, read_labelmap, write_nifti
from overread.server.labels import accept, names_in_order, read_submission
from overread.server.maps import Proposal
from overread.server.overlays import CANDIDATE_NAMES
from overread.studies.candidates_picture import Told, draw_turns, two_turns
from overread.studies.slicer_scene import SlicerScene
from support.servers import ROOT, oblique_grid, publish_threshold
from support.styles import CORE_BOX, MIDDLE_BOX, OUTER_BOX, SHAPE, publish_styles, shells

pytestmark = pytest.mark.slow

# As the server lists them to Slicer.
LABELS = (*CANDIDATE_NAMES, "organ")


def box(where: tuple[slice, ...]) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[where] = True
    return mask


OUTER, MIDDLE, CORE = box(OUTER_BOX), box(MIDDLE_BOX), box(CORE_BOX)


def inspect(image: Path, answers: list[tuple[Path, dict[str, int]]], folder: Path) -> list[dict[str, Any]]:
    """In Slicer's process: import each answer in turn; after each, what there is, in the file's voxel order."""
    scene = SlicerScene(image, LABELS)
    _, stored = read_array(image)
    seen = []
    for number, answer in enumerate(answers):
        scene.import_result(*answer)
        submission = folder / f"submitted_{number}.nii.gz"
        seen.append(
            {
                "names": scene.segment_names(),
                "segments": {
                    name: in_order_of(voxels, scene.volume_grid(), stored, 1e-4)
                    for name, voxels in scene.segment_voxels().items()
                },
                "label_info": scene.submit(submission),
                "submission": submission,
            }
        )
    return seen


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Grid, Told, Told]:
    """An oblique image, and what the real server says of it at first and after candidate B was chosen."""
    folder = tmp_path_factory.mktemp("candidates")
    champion = publish_styles(folder / "trained", "shells")
    grid = oblique_grid(SHAPE)
    write_nifti(folder / "shells.nii.gz", shells(), grid)
    (folder / "work").mkdir()
    first, then = two_turns(
        ROOT / "apps" / "radiology", champion, folder / "shells.nii.gz", "organ", "B", folder / "work"
    )
    return folder / "shells.nii.gz", grid, first, then


def test_candidates_are_named_segments_on_the_voxels_that_they_are_about(
    asked: tuple[Path, Grid, Told, Told], tmp_path: Path, in_slicer: Callable[..., Any]
) -> None:
    image, grid, first, then = asked
    answers = [(one.file, one.facts["label_names"]) for one in (first, then)]
    offered, chosen = in_slicer(inspect, image, answers, tmp_path)

    # Two of three styles hold the middle shell, so it is shown; B adds the outer one, C removes all but the core.
    expected = {
        "organ": CORE,
        "candidate A": np.zeros(SHAPE, bool),
        "candidate B": OUTER & ~MIDDLE,
        "candidate C": MIDDLE & ~CORE,
        "candidate D": np.zeros(SHAPE, bool),
    }
    for name, voxels in expected.items():
        np.testing.assert_array_equal(offered["segments"][name], voxels, err_msg=name)
    assert [one["letter"] for one in first.facts["candidates"]["organ"]] == ["A", "B", "C"]
    submitted = read_submission(offered["submission"], grid)
    accepted = accept(
        submitted,
        names_in_order(offered["label_info"]),
        ("background", "organ"),
        lambda: Proposal(MIDDLE.astype(np.uint8), grid, False, classes_hold_candidates=True),
    )
    np.testing.assert_array_equal(
        accepted.labels == 1, MIDDLE, err_msg="what is left returns to the proposal"
    )

    assert chosen["names"] == offered["names"], "names and their order are those of before"
    organ = chosen["segments"]["organ"]
    np.testing.assert_array_equal(organ, read_labelmap(then.file)[0] == 1)
    # But for edges, which the way to the model's voxels and back rounds, more of them where more samples differ.
    assert (organ != OUTER).sum() < 0.05 * (OUTER & ~MIDDLE).sum()
    assert not any(chosen["segments"][name].any() for name in CANDIDATE_NAMES)


def test_the_picture_shows_what_was_offered_and_what_came_of_it(
    asked: tuple[Path, Grid, Told, Told], tmp_path: Path, in_slicer: Callable[..., Any]
) -> None:
    in_slicer(len, "skips where Slicer's core is not installed")
    image, _, first, then = asked
    picture = tmp_path / "pictures" / "candidates.png"
    draw_turns(image, first, then, "organ", "B", picture)
    pixels = np.asarray(Image.open(picture)).astype(int)
    assert pixels.shape[1] == 3 * 480 + 2 * 6
    plain, offered, chosen = (pixels[:480, start : start + 480] for start in (0, 486, 972))
    assert np.ptp(plain, axis=-1).max() == 0, "grey only"

    def orange(panel: np.ndarray) -> int:
        red, green, blue = np.moveaxis(panel, -1, 0)
        return int(((red > 150) & (green > 90) & (blue < 90) & (red - green > 20)).sum())

    def blue(panel: np.ndarray) -> int:
        return int((panel[..., 2] - panel[..., 0] > 25).sum())

    assert orange(offered) > 1000, "candidate B"
    assert orange(chosen) == 0
    assert blue(offered) > 100, "the outline of what no candidate changes"
    assert blue(chosen) > 100, "that of the organ after B was chosen"


def test_only_a_model_that_takes_turns_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="expected a MedUHIP model with the class liver"):
        two_turns(tmp_path, publish_threshold(tmp_path), tmp_path / "image.nii.gz", "liver", "B", tmp_path)
