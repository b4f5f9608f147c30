"""OHIF in a browser, with an Orthanc and the real server: organ, doubt, points, export, next sample, training."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
import requests
from monailabel.client import MONAILabelClient
from playwright.sync_api import Browser
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from overread.access import Role, UsersFile
from overread.access.users import default_users
from overread.imaging.volumes import read_labelmap, write_nifti
from overread.learning.accepted import AcceptedLabels
from overread.learning.process import images_below
from overread.server.pacs.exchange import SEEN
from overread.state.audit import newest
from overread.state.database import Database, default_path
from support.champions import publish_beginner
from support.datasets import ball, write_balls
from support.dicom import slices, written
from support.ohif import AUTO, LEARNING, POINTS, Ohif, running_chromium
from support.orthanc import Orthanc, running_orthanc
from support.servers import app_copy, marker_voxels, publish_threshold, running_server
from support.styles import (
    CORE_BOX,
    MIDDLE_BOX,
    OUTER_BOX,
    THRESHOLDS,
    publish_styles,
    shells,
)

pytestmark = pytest.mark.slow

MARKER_STUDY, MARKER = generate_uid(), generate_uid()
SHELLS_STUDY, SHELLS = generate_uid(), generate_uid()
BALLS = {generate_uid(): generate_uid() for _ in range(4)}
# Sagittal slices, turned by 20 degrees: OHIF's views cut across them.
C, S = np.cos(np.deg2rad(20)), np.sin(np.deg2rad(20))
OBLIQUE = (-S, C, 0.0, 0.0, 0.0, -1.0)
WHOLE = "shells (whole answer)"
CANDIDATES = ("candidate A", "candidate B", "candidate C", "candidate D")
DOUBTS = ("doubt: high", "doubt: moderate")
PASSWORD = "reads all day long"
CONF = ["pacs_seconds", "1", "scoring", "no", "control_share", "off", "queue_recipe", "ball", "threads", "1"]
MINUTE_S = 60
READ, CORRECTED, NESTED, SIGNED = "read in OHIF", "corrected in OHIF", "nested in OHIF", "anna's in OHIF"
# A voxel in the region of candidate B, one in the body, one in the core.
IN_B, IN_BODY, IN_CORE = (20, 20, 8), (5, 5, 5), (15, 15, 4)


@dataclass(frozen=True)
class Ward:
    """A server between a PACS and browsers.

    Attributes:
        url: of the server.
        app: its folder.
        orthanc: the PACS.
        balls: labels that readers would give, by series.
    """

    url: str
    app: Path
    orthanc: Orthanc
    balls: dict[str, np.ndarray]

    def stored(self, name: str) -> Dataset:
        """The segmentation that the PACS has under a name."""
        modalities = self.orthanc.series()
        files = [self.orthanc.instances(uid) for uid in modalities if modalities[uid] == "SEG"]
        (found,) = [
            instance
            for each in files
            for instance in map(pydicom.dcmread, map(BytesIO, each))
            if instance.get("SeriesDescription") == name
        ]
        return found

    def waiting(self) -> int:
        """Cases in the queue."""
        return requests.get(f"{self.url}/overread/state", timeout=60).json()["queue"]["waiting"]

    def learnt_of(self, name: str, recipe: str, series: str) -> tuple[np.ndarray, str]:
        """What a training makes of a stored segmentation, and whose it is, as soon as it was taken in."""
        uid = str(self.stored(name).SOPInstanceUID)
        ledger, ends = self.app / "pacs" / SEEN, time.monotonic() + MINUTE_S
        while not ledger.exists() or uid not in ledger.read_text():
            assert time.monotonic() < ends, f"{name} was not taken in within a minute"
            time.sleep(0.3)
        assert uid in ledger.read_text()
        database = Database.open(default_path(self.app))
        try:
            accepted = AcceptedLabels(self.app / "pacs" / "accepted", database)
            row = accepted.newest(series)
            assert row is not None
            assert row.details["pacs_instance"] == uid, ledger.read_text()
            with database.reading() as c:
                said = newest(c, "label accepted", series)
            assert said is not None
            assert (said.details["file"], said.actor) == (row.file, row.rater)
            cases = {case.id: case for case in accepted.cases(recipe, images_below(self.app / "pacs").get)}
            return read_labelmap(cases[series].label)[0], row.rater
        finally:
            database.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def ward(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    """Three kinds of champions; a CT that knows what it shows, one with styles, and balls to learn from."""
    base = tmp_path_factory.mktemp("ohif")
    app = app_copy(base / "app")
    marker = slices(
        marker_voxels().astype(np.int16),
        study=MARKER_STUDY,
        series=MARKER,
        orientation=OBLIQUE,
        patient="mia",
    )
    # A PACS hands slices out in any order, numbered from either end.
    for number, instance in enumerate(reversed(marker)):
        instance.InstanceNumber = number + 1
    nested = slices(
        shells().astype(np.int16),
        study=SHELLS_STUDY,
        series=SHELLS,
        spacing_mm=(1, 1),
        distance_mm=1,
        patient="shelly",
    )
    rng = np.random.default_rng(7)
    drawn = {series: ball((16, 16, 16), rng) for series in BALLS.values()}
    files = [*marker[::2], *marker[1::2], *nested]
    for number, (study, series) in enumerate(BALLS.items()):
        image = np.rint(drawn[series][0]).astype(np.int16)
        files += slices(image, study=study, series=series, modality="MR", patient=f"bea {number}")
    with running_orthanc(base / "pacs", written(files, base / "files")) as orthanc:
        publish_threshold(app)
        publish_styles(app, "shells")
        pair = (THRESHOLDS, (THRESHOLDS[2], THRESHOLDS[2] + 1, THRESHOLDS[0]))
        publish_styles(app, "pair", classes=("background", "organ", "tumour"), structures=pair)
        publish_beginner(app, write_balls(base / "central", 10), base / "work")
        with running_server(app, orthanc.dicomweb, CONF) as url:
            yield Ward(url, app, orthanc, {series: label for series, (_, label) in drawn.items()})


@pytest.fixture(scope="module")
def ohif(browser: Browser, ward: Ward) -> Ohif:
    """The viewer, whose pages take long to open."""
    viewer = Ohif(browser, ward.url)
    viewer.open(MARKER_STUDY)
    return viewer


def box(where: tuple[slice, ...]) -> np.ndarray:
    mask = np.zeros(shells().shape, bool)
    mask[where] = True
    return mask


OUTER, MIDDLE, CORE = box(OUTER_BOX), box(MIDDLE_BOX), box(CORE_BOX)


def assert_shown(ohif: Ohif, expected: dict[str, np.ndarray]) -> None:
    """These labels are on these voxels, and no other label is anywhere."""
    shown = ohif.shown()
    assert expected.keys() <= shown.keys()
    for label, voxels in shown.items():
        np.testing.assert_array_equal(voxels, expected.get(label, np.zeros_like(voxels)), err_msg=label)


def test_organ_and_doubt_lie_on_their_voxels_under_their_names(ohif: Ohif) -> None:
    ohif.run(AUTO, "phantom")
    # The viewer's own table goes by the letters of all models' names, not by the models' values.
    segments = ohif.segments()
    assert list(segments) == sorted(segments)
    assert segments["organ"] != 1
    voxels = marker_voxels().astype(np.int16)
    bands = {"doubt: high": voxels == 61, "doubt: moderate": voxels == 70}
    assert_shown(ohif, {"organ": voxels == 90, "tumour": voxels == 150, **bands})
    wanted = {"doubt: high": [255, 77, 13, 255], "doubt: moderate": [255, 217, 26, 255]}
    ohif.wait_for_colours(DOUBTS, lambda colours: colours == wanted)
    ohif.set_options("phantom", doubt="bands only")
    ohif.run(AUTO, "phantom")
    assert_shown(ohif, bands)


def test_what_is_exported_is_learnt_from_within_a_minute(ohif: Ohif, ward: Ward) -> None:
    ohif.set_options("phantom", doubt="bands inside the labels")
    ohif.run(AUTO, "phantom")
    shown, waiting = ohif.shown(), ward.waiting()
    assert shown["doubt: high"].any()
    ohif.export(READ)
    stored = ward.stored(READ)
    segments = {each.SegmentLabel: int(each.SegmentNumber) for each in stored.SegmentSequence}
    # All classes of all models, which no model has; frames for those with a voxel only; nobody's name.
    assert segments == ohif.segments()
    assert {"ball", "tumour", "candidate A", *DOUBTS} < set(segments)
    numbers = {
        int(frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        for frame in stored.PerFrameFunctionalGroupsSequence
    }
    assert numbers == {segments[name] for name, voxels in shown.items() if voxels.any()}
    assert stored.SegmentationType == "BINARY"
    assert not stored.get("ContentCreatorName")

    learnt, rater = ward.learnt_of(READ, "phantom", MARKER)
    assert rater == "PACS"
    # In the doubt's place is the class that lay under it, as for a label from 3D Slicer.
    np.testing.assert_array_equal(learnt == 2, shown["tumour"])
    np.testing.assert_array_equal(learnt == 1, shown["organ"] | np.any([shown[d] for d in DOUBTS], axis=0))
    assert ward.waiting() == waiting - 1


def test_what_was_exported_is_opened_corrected_and_exported_again(browser: Browser, ward: Ward) -> None:
    viewer = Ohif(browser, ward.url)
    viewer.open_stored(MARKER_STUDY, READ)
    before = viewer.shown()
    viewer.paint("tumour", 9)
    shown = viewer.shown()
    assert (shown["tumour"] & ~before["tumour"]).any()
    viewer.export(CORRECTED)
    learnt, _ = ward.learnt_of(CORRECTED, "phantom", MARKER)
    np.testing.assert_array_equal(learnt == 2, shown["tumour"])
    np.testing.assert_array_equal(learnt == 1, shown["organ"] | np.any([shown[d] for d in DOUBTS], axis=0))
    assert (viewer.strangers, viewer.complaints) == ([], [])
    viewer.page.close()


def test_the_next_sample_is_opened_and_training_starts_and_stops(
    ohif: Ohif, ward: Ward, tmp_path: Path
) -> None:
    learning = ohif.tab(LEARNING)
    learning.get_by_role("button", name="Update Model").click()
    ohif.page.get_by_text("Failed to RUN training").wait_for()

    client = MONAILabelClient(ward.url, str(tmp_path), "anna")
    for series in list(BALLS.values())[:3]:
        _, grid = read_labelmap(ward.app / "pacs" / f"{series}.nii.gz")
        write_nifti(tmp_path / "label.nii.gz", ward.balls[series].astype(np.uint8), grid)
        params = {"label_info": [{"name": "ball"}], "model": "ball"}
        client.save_label(series, str(tmp_path / "label.nii.gz"), params=params)
    learning.get_by_role("button", name="Update Model").click()
    ohif.page.get_by_text("Model update task STARTED").wait_for()
    running = requests.get(f"{ward.url}/train/", params={"check_if_running": True}, timeout=60).json()
    assert (running["status"], running["request"]["model"]) == ("RUNNING", "ball")
    learning.get_by_role("button", name="Stop Training").click()
    ohif.page.get_by_text("Model update task STOPPED").wait_for()
    assert requests.get(f"{ward.url}/train/", timeout=60).json()["status"] == "STOPPED"

    learning.get_by_role("button", name="Next Sample").click()
    fields = ohif.next_sample()
    series = {MARKER: MARKER_STUDY, SHELLS: SHELLS_STUDY} | {uid: study for study, uid in BALLS.items()}
    assert fields["Study Instance UID"] == series[fields["Series Instance UID"]]
    assert fields["Series Instance UID"] not in list(BALLS.values())[:3]
    assert "pairwise_dice" in fields["Patient ID"]
    with ohif.page.expect_navigation():
        ohif.page.get_by_role("button", name="OK").click()
    ohif.wait_for_volume()
    assert ohif.page.url.endswith(f"StudyInstanceUIDs={fields['Study Instance UID']}")
    assert ohif.series() == fields["Series Instance UID"]


def test_points_teach_a_model_that_takes_turns(ohif: Ohif, ward: Ward) -> None:
    ohif.open(SHELLS_STUDY)
    # Two classes, of which one is clicked on: what has the other's value is not painted as background.
    ohif.point("pair", "organ", (11, 11, 3))
    ohif.point("pair", "background", IN_BODY)
    ohif.run(POINTS, "pair")
    shown = ohif.shown()
    assert shown["organ"][11, 11, 3]
    assert not shown["background"].any()
    assert not shown["tumour"].any()

    ohif.run(AUTO, WHOLE)
    regions = {"candidate B": OUTER & ~MIDDLE, "candidate C": MIDDLE & ~CORE}
    assert_shown(ohif, {"organ": CORE, **regions})
    ohif.wait_for_colours(
        CANDIDATES, lambda colours: len({tuple(colour) for colour in colours.values()}) == len(CANDIDATES)
    )

    # A click in the region of B picks it; the whole answer shows what the point tab cannot paint over.
    ohif.point("shells", "organ", IN_B)
    asked = ohif.run(POINTS, "shells").request.post_data or ""
    assert f'"organ":[[{",".join(map(str, IN_B))}]]' in asked
    ohif.run(AUTO, WHOLE)
    np.testing.assert_array_equal(~np.any(list(ohif.shown().values()), axis=0), ~OUTER)
    shown = ohif.shown()
    assert shown["organ"][IN_B]

    # Other models know all classes of this label too. It is learnt by the one that was asked, without its candidates.
    assert any(shown[name].any() for name in CANDIDATES)
    ohif.export(NESTED)
    learnt, _ = ward.learnt_of(NESTED, "shells", SHELLS)
    np.testing.assert_array_equal(learnt == 1, OUTER)

    ohif.set_options(WHOLE, candidates="off")
    ohif.run(AUTO, WHOLE)
    assert_shown(ohif, {"organ": OUTER})
    ohif.point("shells", "background", IN_CORE)
    ohif.run(POINTS, "shells")
    shown = ohif.shown()
    assert not shown["organ"][IN_CORE]
    assert shown["organ"][IN_B]
    assert not shown["background"].any()


def test_no_page_asked_another_machine_or_failed(ohif: Ohif) -> None:
    assert ohif.strangers == []
    assert ohif.complaints == []


def test_with_users_a_reader_logs_in_on_a_page_and_works_as_before(browser: Browser, ward: Ward) -> None:
    # The first user turns the login on, also of a server that runs.
    UsersFile(default_users(ward.app)).add("anna", Role.READER, PASSWORD, time.time())
    viewer = Ohif(browser, ward.url)
    viewer.page.goto(f"{ward.url}/ohif/monai-label?StudyInstanceUIDs={MARKER_STUDY}")
    assert "/login?next=" in viewer.page.url
    viewer.page.get_by_label("Name").fill("anna")
    viewer.page.get_by_label("Password").fill(PASSWORD)
    with viewer.page.expect_navigation():
        viewer.page.get_by_role("button", name="Log in").click()
    assert viewer.page.url.endswith(f"/ohif/monai-label?StudyInstanceUIDs={MARKER_STUDY}")
    viewer.open(MARKER_STUDY)
    viewer.run(AUTO, "phantom")
    np.testing.assert_array_equal(viewer.shown()["organ"], marker_voxels().astype(np.int16) == 90)
    shown = viewer.shown()
    viewer.export(SIGNED)
    learnt, rater = ward.learnt_of(SIGNED, "phantom", MARKER)
    np.testing.assert_array_equal(learnt == 2, shown["tumour"])
    assert rater == "anna"
    assert viewer.complaints == []
