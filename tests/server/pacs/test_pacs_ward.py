"""A ward with a real Orthanc: the server waits for it, serves its series, stores labels and takes others' in."""

from __future__ import annotations

import html
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import requests
from highdicom.seg import Segmentation
from monailabel.client import MONAILabelClient
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, generate_uid

import overread
from overread.domain.labels import IGNORE
from overread.imaging.dicom.origin import Origin, plain_name
from overread.imaging.dicom.parametric import read_doubt_map
from overread.imaging.dicom.segmentation import SEG_CLASS, label_segmentation, read_segmentation_object
from overread.imaging.dicom.series import Series, read_series
from overread.imaging.volumes import read_array, read_labelmap, write_nifti
from overread.learning.accepted import AcceptedLabels
from overread.learning.process import images_below
from overread.server.maps import MapKey, MapStore
from overread.server.pacs.exchange import SEEN, SENT
from overread.state.database import Database, default_path
from support.dicom import compressed, slices, written
from support.orthanc import Orthanc
from support.servers import CLASSES, app_copy, marker_voxels, publish_threshold, running_server

pytestmark = pytest.mark.slow

RECIPE = "phantom"
STUDY, CT, MR = generate_uid(), generate_uid(), generate_uid()
TILTED, SINGLE, UNEVEN, FOREIGN = (generate_uid() for _ in range(4))
VOXELS = marker_voxels().astype(np.int16)
TRUTH = np.select([VOXELS > 120, VOXELS > 60], [2, 1], 0).astype(np.uint8)
FORCED = {"result_extension": ".nrrd", "result_dtype": "uint8"}
# What the issue promises of labels of others; the server asks every second here.
MINUTE_S = 60
CONF = ["pacs_seconds", "1", "pacs_maps", "yes", "scoring", "no", "control_share", "off", "threads", "1"]
PARAMETRIC_MAP = "1.2.840.10008.5.1.4.1.1.30"


@dataclass(frozen=True)
class Ward:
    """The server, its PACS and its app folder."""

    url: str
    orthanc: Orthanc
    app: Path

    def info(self) -> dict:
        """What the server says of the PACS."""
        answer = requests.get(f"{self.url}/info/", timeout=60)
        assert answer.ok, answer.text
        return answer.json()["pacs"]

    def state(self) -> dict:
        """Queue and training at a glance."""
        return requests.get(f"{self.url}/overread/state", timeout=60).json()["queue"]

    def series(self, uid: str) -> Series:
        """A series as it lies in the PACS."""
        return read_series(pydicom.dcmread(BytesIO(content)) for content in self.orthanc.instances(uid))

    def infer(self, uid: str) -> np.ndarray:
        """The label map that OHIF gets: its request, letter by letter."""
        answer = requests.post(
            f"{self.url}/infer/{RECIPE}",
            params={"image": uid, "output": "image"},
            data={"params": json.dumps({**FORCED, "result_compress": False, "doubt": "off"})},
            timeout=120,
        )
        assert answer.ok, answer.text
        file = self.app / "answer.nrrd"
        file.write_bytes(answer.content)
        return read_labelmap(file)[0]

    def submit(self, uid: str, labels: np.ndarray, reader: str) -> dict:
        """Submit a label as 3D Slicer does."""
        image = self.app / "pacs" / f"{uid}.nii.gz"
        file = self.app / "submitted.nii.gz"
        write_nifti(file, labels, read_labelmap(image)[1])
        info = {"label_info": [{"name": name} for name in CLASSES[1:]], "model": RECIPE}
        answer = MONAILabelClient(self.url, str(self.app), reader).save_label(uid, str(file), params=info)
        return (answer if isinstance(answer, dict) else json.loads(answer))["accepted"]

    def derived(self, kind: str, series: str) -> list[Dataset]:
        """What the PACS holds of a kind of object that was made of a series."""
        found = []
        for uid in self.orthanc.series():
            if uid in (CT, MR, TILTED, SINGLE, UNEVEN, FOREIGN):
                continue
            for content in self.orthanc.instances(uid):
                instance = pydicom.dcmread(BytesIO(content))
                referenced = instance.ReferencedSeriesSequence[0].SeriesInstanceUID
                if instance.SOPClassUID == kind and referenced == series:
                    found.append(instance)
        return found


def until(true: Callable[[], object], within_s: float = MINUTE_S) -> None:
    """Wait for it; fails where it does not come true in time."""
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.3)


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """A PACS that is not started yet."""
    orthanc = Orthanc(tmp_path_factory.mktemp("orthanc") / "pacs")
    yield orthanc
    orthanc.stop()


@pytest.fixture(scope="module")
def offline() -> Iterator[None]:
    """Nothing beyond this machine can be reached: what a program would download, fails."""
    with pytest.MonkeyPatch.context() as network:
        for name in ("http_proxy", "https_proxy"):
            network.setenv(name, "http://127.0.0.1:9")
            network.setenv(name.upper(), "http://127.0.0.1:9")
        network.setenv("no_proxy", "127.0.0.1")
        network.setenv("NO_PROXY", "127.0.0.1")
        yield


@pytest.fixture(scope="module")
def ward(offline: None, orthanc: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    """The server was started before its PACS, which then came up with its series."""
    base = tmp_path_factory.mktemp("ward")
    app = app_copy(base / "app")
    publish_threshold(app)
    with running_server(app, orthanc.dicomweb, CONF) as url:
        ward = Ward(url, orthanc, app)
        until(lambda: ward.info()["reachable"] is False)
        before = ward.info()
        missing = requests.post(f"{url}/infer/{RECIPE}", params={"image": CT}, timeout=60)
        looked = requests.get(f"{url}/proxy/dicom/qido/studies", timeout=60)
        orthanc.start()
        orthanc.upload(files(base / "files"))
        until(lambda: ward.info()["reachable"] and ward.info()["fetched"] >= 4)
        assert "does not answer" in before["trouble"]
        assert before["fetched"] == 0
        for refusal in (missing, looked):
            assert refusal.status_code == 503, refusal.text
            assert "does not answer" in refusal.json()["detail"]
        yield ward


def files(folder: Path) -> list[Path]:
    """A study of two series, a tilted one, a single slice, one that is uneven; some compressed."""
    study = {"study": STUDY, "patient": "anna"}
    ct = [compressed(each, JPEG2000Lossless) for each in slices(VOXELS, series=CT, **study)]
    mr = slices(VOXELS, series=MR, modality="MR", orientation=(0, 1, 0, 0, 0, -1), **study)
    tilted = slices(VOXELS, series=TILTED, patient="ben", shift_mm=(0, 0.7, 0))
    single = slices(VOXELS[:, :, 4:5], series=SINGLE, patient="carl", modality="DX", without=("PatientID",))
    uneven = slices(VOXELS[:, :, :4], series=UNEVEN, patient="dora", offsets_mm=[0, 3, 6, 12])
    foreign = slices(VOXELS, series=FOREIGN, patient="emil", modality="PT")
    return [
        path
        for name, made in {
            "ct": ct,
            "mr": mr,
            "tilted": tilted,
            "single": single,
            "uneven": uneven,
            "foreign": foreign,
        }.items()
        for path in written(made, folder / name)
    ]


def test_every_series_is_a_case_or_is_refused_in_words(ward):
    until(lambda: ward.info()["fetched"] == 5 and ward.info()["refused"])
    told = ward.info()
    assert told["series"] == 6
    assert list(told["refused"]) == [UNEVEN]
    assert "3 mm apart, but 6 mm" in told["refused"][UNEVEN]
    assert ward.state()["total"] == 5
    refused = requests.post(f"{ward.url}/infer/{RECIPE}", params={"image": UNEVEN}, timeout=60)
    assert refused.status_code == 400
    assert "3 mm apart" in refused.json()["detail"]


def test_what_the_model_says_lies_on_the_voxels_of_each_modality(ward):
    for uid in (CT, MR, TILTED, FOREIGN):
        assert np.array_equal(ward.infer(uid), TRUTH), uid
    assert np.array_equal(ward.infer(SINGLE), TRUTH[:, :, 4:5])


def test_the_next_sample_says_what_ohif_shows(ward):
    answer = requests.post(f"{ward.url}/activelearning/random", json={}, timeout=60).json()
    assert answer["SeriesInstanceUID"] == answer["id"]
    assert {"Modality", "StudyDate", "StudyTime", "PatientID", "StudyInstanceUID"} <= answer.keys()
    index = requests.get(f"{ward.url}/datastore/", params={"output": "all"}, timeout=60).json()
    assert index["objects"][CT]["image"]["info"]["StudyInstanceUID"] == STUDY
    tilted = index["objects"][TILTED]["image"]["info"]
    assert any("tilted by 13" in sentence for sentence in tilted["warnings"])
    assert any(
        "no PatientID" in sentence for sentence in index["objects"][SINGLE]["image"]["info"]["warnings"]
    )


def test_an_accepted_label_is_in_the_pacs_as_the_mask_that_was_submitted(ward):
    accepted = TRUTH.copy()
    accepted[6:9, 10:12, 2] = 2
    ward.infer(TILTED)
    client = MONAILabelClient(ward.url, str(ward.app), "anna")
    client.infer(RECIPE, TILTED, dict(FORCED))
    facts = ward.submit(TILTED, accepted, "anna")
    until(lambda: SENT in names_in(ward.app / "pacs"))
    series = ward.series(TILTED)
    label = next(each for each in ward.derived(SEG_CLASS, TILTED) if each.SegmentationType == "BINARY")
    back = read_segmentation_object(label, series.geometry)
    assert back.names == CLASSES[1:]
    assert np.array_equal(back.masks, [accepted == 1, accepted == 2])
    # Slices 0, 1 and 8 to 11 hold nothing, and are there.
    assert label.NumberOfFrames == 2 * VOXELS.shape[2]
    assert label.StudyInstanceUID == series.study_uid
    assert (label.PatientID, label.Manufacturer, label.SoftwareVersions) == (
        "ben",
        "Overread",
        overread.__version__,
    )
    assert plain_name(label.ContentCreatorName) == "anna"
    assert facts["champion"]
    for segment in label.SegmentSequence:
        algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == (RECIPE, facts["champion"])
    places = sorted(
        {
            tuple(map(float, frame.PlanePositionSequence[0].ImagePositionPatient))
            for frame in label.PerFrameFunctionalGroupsSequence
        },
        key=lambda place: place[2],
    )
    assert np.allclose(places, series.geometry.positions, atol=1e-6)


def test_probabilities_and_doubt_go_along(ward):
    series = ward.series(TILTED)
    champion = ward.derived(SEG_CLASS, TILTED)[0].DeviceSerialNumber
    maps = MapStore(ward.app / "maps")
    key = MapKey(RECIPE, champion, TILTED)
    doubts = ward.derived(PARAMETRIC_MAP, TILTED)
    assert doubts
    for instance in doubts:
        mapping = instance.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
        name, _, unit = mapping.LUTExplanation.partition(" in ")
        kept = read_array_of(maps.path(key, name))
        assert np.array_equal(read_doubt_map(instance, series.geometry), kept)
        assert kept.max() > 0
        assert unit in ("nat", "1")
    soft = next(each for each in ward.derived(SEG_CLASS, TILTED) if each.SegmentationType == "FRACTIONAL")
    soft = Segmentation.from_dataset(soft, copy=False)
    uids = [str(each.SOPInstanceUID) for each in series.geometry.instances]
    fractions = soft.get_pixels_by_source_instance(uids).transpose(3, 2, 1, 0)
    for fraction, name in zip(fractions, CLASSES[1:], strict=True):
        assert (
            np.abs(fraction - read_array_of(maps.path(key, f"probability_{name}"))).max() <= 0.5 / 255 + 1e-6
        )
    # What was derived is no new case.
    assert ward.info()["series"] == 6


def test_what_ohif_users_store_is_learnt_from_within_a_minute(ward):
    waiting = ward.state()["waiting"]
    by_hand = TRUTH.copy()
    by_hand[0:3, 0:3, 5] = 1
    instance = foreign_label(ward.series(FOREIGN), by_hand, "Carla^OHIF")
    # OHIF stores through the server, below the address where it retrieves.
    sent = stow(f"{ward.url}/proxy/dicom/wado/studies", instance)
    assert sent.ok, sent.text
    until(lambda: ward.state()["waiting"] == waiting - 1)
    cases = {case.id: case for case in learnt(ward)}
    assert cases[FOREIGN].raters == ("Carla OHIF",)
    assert np.array_equal(read_labelmap(cases[FOREIGN].label)[0], by_hand)
    assert cases[FOREIGN].patient == "emil"
    shown = requests.get(f"{ward.url}/datastore/label", params={"label": FOREIGN, "tag": "final"}, timeout=60)
    assert shown.ok
    # It is not stored a second time.
    assert len(ward.derived(SEG_CLASS, FOREIGN)) == 1


def test_what_no_person_made_or_no_model_knows_is_not_learnt_from(ward):
    series = ward.series(MR)
    machine = foreign_label(series, TRUTH, "Robot^")
    for segment in machine.SegmentSequence:
        segment.SegmentAlgorithmType = "AUTOMATIC"
    unknown = foreign_label(series, TRUTH, "Carla^", names=("background", "organ", "spleen"))
    waiting = ward.state()["waiting"]
    for instance in (machine, unknown):
        assert stow(f"{ward.orthanc.dicomweb}/studies", instance).ok
    log = ward.app / "pacs" / SEEN

    def verdicts() -> dict[str, Any]:
        return dict(json.loads(line) for line in log.read_text().splitlines())

    until(lambda: {machine.SOPInstanceUID, unknown.SOPInstanceUID} <= verdicts().keys())
    assert "AUTOMATIC" in verdicts()[machine.SOPInstanceUID]["left_alone"]
    # Who drew it is told, on the first page too; what a machine drew is nobody's loss.
    (told,) = ward.info()["segmentations_refused"]
    assert told["segmentation"] == unknown.SOPInstanceUID
    assert told["study"] == unknown.StudyInstanceUID
    assert told["drew"] == "Carla"
    assert "'Spleen'" in told["because"]
    assert told["because"] in html.unescape(requests.get(ward.url, timeout=60).text)
    assert ward.state()["waiting"] == waiting
    assert MR not in {case.id for case in learnt(ward)}


def test_a_pacs_that_is_killed_is_waited_for_and_nothing_is_lost(ward):
    ward.orthanc.kill()
    until(lambda: ward.info()["reachable"] is False)
    assert np.array_equal(ward.infer(CT), TRUTH)
    accepted = TRUTH.copy()
    accepted[TRUTH == 2] = 1
    facts = ward.submit(CT, accepted, "ben")
    assert facts["revision"] == 1
    until(lambda: ward.info()["labels_waiting"] == 1)
    ward.orthanc.start()
    until(lambda: ward.info()["reachable"] and not ward.info()["labels_waiting"])
    label = next(each for each in ward.derived(SEG_CLASS, CT) if each.SegmentationType == "BINARY")
    back = read_segmentation_object(label, ward.series(CT).geometry)
    assert np.array_equal(back.masks, [accepted == 1, accepted == 2])
    assert ward.info()["fetched"] == 5


def test_an_answer_can_be_a_dicom_segmentation(ward):
    answer = requests.post(
        f"{ward.url}/infer/{RECIPE}", params={"image": MR, "output": "dicom_seg"}, timeout=120
    )
    assert answer.ok, answer.text
    assert answer.headers["content-type"] == "application/dicom"
    back = read_segmentation_object(pydicom.dcmread(BytesIO(answer.content)), ward.series(MR).geometry)
    assert back.is_automatic
    assert {*CLASSES[1:], "doubt: high"} <= set(back.names)
    tumour = back.masks[back.names.index("tumour")]
    assert np.array_equal(tumour, TRUTH == 2)


def test_the_proxy_asks_what_it_is_asked_and_nothing_else(ward):
    found = requests.get(f"{ward.url}/proxy/dicom/qido/series", params={"Modality": "MR"}, timeout=60).json()
    assert [each["0020000E"]["Value"][0] for each in found] == [MR]
    metadata = requests.get(f"{ward.url}/proxy/dicom/wado/studies/{STUDY}/series/{CT}/metadata", timeout=60)
    assert len(metadata.json()) == VOXELS.shape[2]
    for path in (
        "qido/..%2f..%2fsystem",
        "wado/system",
        "qido/studies/%2e%2e/%2e%2e/system",
        "wado/studies/a b",
    ):
        refused = requests.get(f"{ward.url}/proxy/dicom/{path}", timeout=60)
        assert refused.status_code in (400, 404), path
    assert requests.get(f"{ward.url}/proxy/dicom/delete/studies", timeout=60).status_code == 422
    assert requests.post(f"{ward.url}/proxy/dicom/stow/instances", timeout=60).status_code == 400


def test_images_are_changed_in_the_pacs_only(ward, tmp_path):
    file = tmp_path / "other.nii.gz"
    write_nifti(file, VOXELS, read_labelmap(ward.app / "pacs" / f"{CT}.nii.gz")[1])
    with file.open("rb") as stream:
        put = requests.put(
            f"{ward.url}/datastore/image", params={"image": "other"}, files={"file": stream}, timeout=60
        )
    assert put.status_code == 400
    assert "images come from the PACS" in put.json()["detail"]
    gone = requests.delete(f"{ward.url}/datastore/", params={"id": CT}, timeout=60)
    assert gone.status_code == 400
    nowhere = requests.post(f"{ward.url}/infer/{RECIPE}", params={"image": generate_uid()}, timeout=60)
    assert nowhere.status_code == 404


def test_a_series_that_leaves_the_pacs_is_no_case_any_more_and_its_labels_stay(ward):
    found = requests.post(
        f"{ward.orthanc.url}/tools/find",
        json={"Level": "Series", "Query": {"SeriesInstanceUID": CT}},
        timeout=60,
    ).json()
    requests.delete(f"{ward.orthanc.url}/series/{found[0]}", timeout=60)
    until(lambda: ward.state()["total"] == 4)
    assert CT not in {case.id for case in learnt(ward)}
    assert list((ward.app / "pacs" / "accepted" / CT).glob("ben-1.nii.gz"))


def read_array_of(path: Path) -> np.ndarray:
    """Voxels of a map."""
    return read_array(path)[0]


def names_in(folder: Path) -> set[str]:
    """Names of the files in a folder."""
    return {path.name for path in folder.iterdir()}


def learnt(ward: Ward) -> list:
    """What a training would see now."""
    database = Database.open(default_path(ward.app))
    try:
        accepted = AcceptedLabels(ward.app / "pacs" / "accepted", database)
        cases = accepted.cases(RECIPE, images_below(ward.app / "pacs").get)
    finally:
        database.close()
    assert all((read_labelmap(case.label)[0] != IGNORE).all() for case in cases)
    return cases


def foreign_label(
    series: Series, labels: np.ndarray, creator: str, names: tuple[str, ...] = CLASSES
) -> Dataset:
    """A segmentation as another program stores it, with its own UIDs and spelling."""
    made = label_segmentation(
        series.geometry, labels, [name.capitalize() for name in names], Origin(generate_uid(), "x")
    )
    made.Manufacturer, made.ManufacturerModelName, made.ContentCreatorName = "OHIF", "OHIF", creator
    return made


def stow(url: str, instance: Dataset) -> requests.Response:
    """Store a file by STOW-RS."""
    file = BytesIO()
    pydicom.dcmwrite(file, instance, write_like_original=False)
    body = b"--part\r\nContent-Type: application/dicom\r\n\r\n" + file.getvalue() + b"\r\n--part--\r\n"
    kind = 'multipart/related; type="application/dicom"; boundary=part'
    return requests.post(url, data=body, headers={"Content-Type": kind}, timeout=60)
