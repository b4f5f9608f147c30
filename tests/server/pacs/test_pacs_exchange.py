"""Store and exchange against a real Orthanc, without a server around them: what grows, breaks off, or comes twice."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
import requests
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from overread.domain import BadInputError, NotFoundError, UnavailableError
from overread.imaging.dicom.origin import Origin
from overread.imaging.dicom.segmentation import Segments, label_segmentation
from overread.imaging.volumes import read_array, read_labelmap, write_nifti
from overread.learning.accepted import AcceptedLabels
from overread.learning.backup import make_backup
from overread.learning.champions import ChampionStore
from overread.learning.restoring import restore_backup
from overread.server.maps import MapStore
from overread.server.models import ServedModels
from overread.server.pacs.client import Pacs
from overread.server.pacs.exchange import SEEN, SENT, Exchange
from overread.server.pacs.labels_in import label_map
from overread.server.pacs.ledger import Ledger
from overread.server.pacs.senders import segmentations_in
from overread.server.pacs.store import PacsStore
from overread.server.settings import Settings
from overread.state.database import Database
from overread.state.labels import WITHDRAWN, LabelRow, labels
from support.dicom import slices, written
from support.orthanc import Orthanc, running_orthanc
from support.rated import shared
from support.servers import CLASSES, publish_threshold

pytestmark = [
    pytest.mark.slow,
    # Stores of one process watch one folder here, as those of two starts never do.
    pytest.mark.filterwarnings("ignore:Callback with id:RuntimeWarning"),
]

SHAPE = (8, 6, 4)
VOXELS = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
LABELS = (VOXELS % 3).astype(np.uint8)


@dataclass
class Side:
    """Our side of the exchange, as a server would have it; `again` is its next start."""

    folder: Path
    url: str
    settings: Settings

    def __post_init__(self) -> None:
        self.database = Database.open(f"sqlite:///{self.folder / 'overread.db'}")
        self.accepted = AcceptedLabels(self.folder / "pacs" / "accepted", self.database)
        self.models = ServedModels(ChampionStore(self.folder / "model"), self.settings)
        self.maps = MapStore(self.folder / "maps")
        pacs = Pacs(self.url)
        self.store = PacsStore(self.folder / "pacs", self.models, self.maps, self.accepted, pacs)
        self.exchange = Exchange(pacs, self.store, self.accepted, self.maps, self.models, self.settings)

    def again(self, **changes) -> Side:
        """The same after a restart."""
        return Side(self.folder, changes.get("url", self.url), changes.get("settings", self.settings))

    def rows(self, case: str) -> list[LabelRow]:
        """Labels of a case, also those out of use."""
        with self.database.reading() as c:
            return labels(c, case_id=case)

    def submit(self, case: str, values: np.ndarray, reader: str = "anna") -> None:
        """Submit a label as a client does."""
        image = self.store.known_image(case)
        file = self.folder / "label.nii.gz"
        write_nifti(file, values, read_labelmap(image)[1])
        info = {"label_info": [{"name": name} for name in CLASSES[1:]], "client_id": reader}
        self.store.submit(case, file, "final", info)


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """A PACS that runs."""
    with running_orthanc(tmp_path_factory.mktemp("orthanc") / "pacs") as orthanc:
        yield orthanc


@pytest.fixture
def side(orthanc: Orthanc, tmp_path: Path) -> Side:
    """Our side, with the threshold champion; it serves the patient of this test only."""
    publish_threshold(tmp_path)
    (tmp_path / "pacs").mkdir()
    return Side(tmp_path, orthanc.dicomweb, Settings(pacs_filter=(("PatientID", tmp_path.name),)))


@pytest.fixture
def upload(orthanc: Orthanc, tmp_path: Path) -> Callable[..., str]:
    """Put a series of this test's patient into the PACS; its UID."""

    def send(voxels: np.ndarray = VOXELS, **options) -> str:
        uid = options.setdefault("series", generate_uid())
        orthanc.upload(written(slices(voxels, patient=tmp_path.name, **options), tmp_path / "files" / uid))
        return uid

    return send


@contextmanager
def failing_on(orthanc: Orthanc, series: str) -> Iterator[str]:
    """The address of the PACS with an archive that has lost the files of one series."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if f"/series/{series}" in self.path:
                self.send_error(500)
                return
            answer = requests.get(
                orthanc.url + self.path, headers={"Accept": self.headers["Accept"]}, timeout=30
            )
            self.send_response(answer.status_code)
            self.send_header("Content-Type", answer.headers.get("Content-Type", ""))
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/dicom-web"
    finally:
        server.shutdown()
        server.server_close()


def foreign(side: Side, case: str, values: np.ndarray, names: tuple[str, ...] = CLASSES) -> Dataset:
    """A segmentation that another program would store."""
    made = label_segmentation(side.store.geometry(case), values, names, Origin(generate_uid(), "carla"))
    made.Manufacturer = made.ManufacturerModelName = "Other"
    return made


def store(side: Side, instance: Dataset) -> None:
    """Store it by STOW-RS."""
    Pacs(side.url).store(instance, str(instance.StudyInstanceUID))


def test_a_series_that_is_still_sent_is_served_when_it_is_whole(side, orthanc, upload, tmp_path):
    study = generate_uid()
    uid = upload(VOXELS[:, :, :2], study=study)
    side.exchange.look()
    assert side.store.list_images() == []
    rest = slices(VOXELS, series=uid, study=study, patient=tmp_path.name)[2:]
    orthanc.upload(written(rest, tmp_path / "rest"))
    side.exchange.look()
    assert side.store.list_images() == []
    side.exchange.look()
    assert side.store.list_images() == [uid]


def test_a_series_that_grows_after_its_label_takes_the_label_out_of_use(side, orthanc, upload, tmp_path):
    study, uid = generate_uid(), generate_uid()
    upload(VOXELS[:, :, :3], series=uid, study=study)
    side.submit(uid, LABELS[:, :, :3])
    orthanc.upload(
        written(slices(VOXELS, series=uid, study=study, patient=tmp_path.name)[3:], tmp_path / "rest")
    )
    side.exchange.look()
    side.exchange.look()
    assert np.array_equal(read_array(side.store.known_image(uid))[0], VOXELS)
    assert [row.status for row in side.rows(uid)] == [WITHDRAWN]
    assert side.store.get_unlabeled_images() == [uid]


def test_a_series_is_fetched_when_it_is_asked_for(side, upload):
    uid = upload()
    assert np.array_equal(read_array(side.store.known_image(uid))[0], VOXELS)
    assert side.store.patient_of(uid) == side.folder.name


def test_a_filter_holds_for_what_is_asked_for_too(side, upload):
    upload(modality="MR")
    ct = upload()
    side = side.again(settings=Settings(pacs_filter=(*side.settings.pacs_filter, ("Modality", "MR"))))
    side.exchange.look()
    side.exchange.look()
    assert [side.store.get_image_info(uid)["Modality"] for uid in side.store.list_images()] == ["MR"]
    with pytest.raises(NotFoundError, match="the PACS has no series"):
        side.store.known_image(ct)
    with pytest.raises(NotFoundError, match="images are named by SeriesInstanceUID"):
        side.store.known_image("case0")


def test_what_was_fetched_is_served_while_the_pacs_is_away(side, upload):
    uid, later = upload(), upload()
    side.store.known_image(uid)
    side = side.again(url="http://127.0.0.1:9/dicom-web")
    assert side.store.list_images() == [uid]
    side.submit(uid, LABELS)
    with pytest.raises(UnavailableError, match="does not answer"):
        side.exchange.look()
    assert len(side.exchange.labels_out.waiting()) == 1
    with pytest.raises(UnavailableError, match="does not answer"):
        side.store.known_image(later)


def test_a_label_of_others_is_taken_in_once_whatever_is_lost(side, upload):
    uid = upload()
    store(side, foreign(side, uid, LABELS))
    side.exchange.look()
    assert [row.rater for row in side.rows(uid)] == ["carla"]
    # The note of it was lost in a crash.
    (side.folder / "pacs" / SEEN).unlink()
    side = side.again()
    side.exchange.look()
    assert len(side.rows(uid)) == 1
    assert side.store.get_unlabeled_images() == []


def test_a_label_of_ours_is_stored_once_and_never_taken_in(side, upload, orthanc):
    uid = upload()
    side.submit(uid, LABELS)
    before = set(orthanc.series())
    side.exchange.look()
    (ours,) = set(orthanc.series()) - before
    assert len(orthanc.instances(ours)) == 1
    # The note of it was lost in a crash: it is stored under the same UIDs.
    (side.folder / "pacs" / SENT).unlink()
    side = side.again()
    side.exchange.look()
    assert set(orthanc.series()) - before == {ours}
    assert len(orthanc.instances(ours)) == 1
    assert [row.rater for row in side.rows(uid)] == ["anna"]


def test_a_withdrawn_label_of_ours_is_not_taken_in_after_a_restore(side, upload, tmp_path):
    uid = upload()
    side.submit(uid, LABELS)
    side.exchange.look()
    side.accepted.withdraw(uid, None, "anna", "the wrong patient", time.time())
    backup, fresh = tmp_path / "backup", tmp_path / "fresh"
    make_backup(backup, side.folder / "pacs", side.folder / "model", side.database)
    restore_backup(backup, fresh / "pacs", fresh / "model", fresh / "overread.db")
    there = Side(fresh, side.url, side.settings)
    there.store.known_image(uid)
    there.exchange.look()
    assert [row.status for row in there.rows(uid)] == [WITHDRAWN]


def test_a_correction_is_a_second_object(side, upload, orthanc):
    uid = upload()
    before = set(orthanc.series())
    side.submit(uid, LABELS)
    side.exchange.look()
    side.submit(uid, np.where(LABELS == 2, 1, LABELS))
    side.exchange.look()
    assert len(set(orthanc.series()) - before) == 2


def test_labels_are_shown_again_when_a_series_comes_back(side, upload, orthanc):
    uid = upload()
    side.submit(uid, LABELS)
    side.store.forget({uid})
    assert side.store.list_images() == []
    side.store.known_image(uid)
    assert side.store.get_unlabeled_images() == []
    assert np.array_equal(read_labelmap(side.store.known_label(uid, "final"))[0], LABELS)


def test_classes_of_other_models_that_are_only_listed_do_not_keep_a_label_out(side, upload):
    publish_threshold(side.folder, "other", classes=("background", "organ", "vessel"))
    listed, drawn = upload(), upload()
    names = (*CLASSES, "vessel")
    store(side, foreign(side, listed, LABELS, names))
    store(side, foreign(side, drawn, np.where(VOXELS == 5, 3, LABELS), names))
    side.exchange.look()
    assert [(row.recipe, row.rater) for row in side.rows(listed)] == [("phantom", "carla")]
    assert np.array_equal(read_labelmap(side.accepted.folder / side.rows(listed)[0].file)[0], LABELS)
    assert side.rows(drawn) == []


def test_an_empty_class_tells_models_apart_for_who_saw_no_answer(side, upload):
    publish_threshold(side.folder, "a", classes=("background", "organ"), cuts=[60], bands=False)
    uid = upload()
    organ = np.minimum(LABELS, 1)
    store(side, foreign(side, uid, organ))
    side.exchange.look()
    assert [row.recipe for row in side.rows(uid)] == ["phantom"]


def test_whoever_was_signed_in_made_the_label_whatever_its_file_says(side, upload):
    uid = upload()
    instance = foreign(side, uid, LABELS)
    side.exchange.labels_in.note_sender(str(instance.SOPInstanceUID), "ben")
    store(side, instance)
    side = side.again()
    side.exchange.look()
    assert [row.rater for row in side.rows(uid)] == ["ben"]


def test_segmentations_are_found_in_what_is_stored(side, upload):
    uid = upload()
    image, label = slices(VOXELS)[0], foreign(side, uid, LABELS)
    parts = []
    for instance in (image, label):
        file = BytesIO()
        pydicom.dcmwrite(file, instance, write_like_original=False)
        parts.append(b"Content-Type: application/dicom\r\n\r\n" + file.getvalue())
    body = (
        b"--part\r\n"
        + b"\r\n--part\r\n".join([*parts, b"no header", b"\r\n\r\nno DICOM"])
        + b"\r\n--part--\r\n"
    )
    kind = 'multipart/related; type="application/dicom"; boundary="part"'
    assert list(segmentations_in(kind, body)) == [label.SOPInstanceUID]
    assert list(segmentations_in("application/json", body)) == []


def test_a_segmentation_that_names_no_series_is_found_by_its_images(side, upload):
    uid = upload()
    instance = foreign(side, uid, LABELS)
    del instance.ReferencedSeriesSequence
    store(side, instance)
    side.exchange.look()
    assert [row.case_id for row in side.rows(uid)] == [uid]


def test_a_segmentation_of_a_series_that_is_not_served_waits_for_nothing(side, upload):
    uid = upload()
    instance = foreign(side, uid, LABELS)
    instance.ReferencedSeriesSequence[0].SeriesInstanceUID = generate_uid()
    instance.ReferencedSeriesSequence[0].ReferencedInstanceSequence = []
    for frame in instance.PerFrameFunctionalGroupsSequence:
        for derivation in frame.DerivationImageSequence:
            derivation.SourceImageSequence = []
    store(side, instance)
    side.exchange.look()
    verdict = Ledger(side.folder / "pacs" / SEEN).get(instance.SOPInstanceUID)
    assert verdict["left_alone"] == "it names no series that is served here"
    assert side.exchange.state()["segmentations_refused"] == []


def test_what_was_drawn_in_vain_is_told_until_a_later_one_is_taken_in(side, upload):
    study = generate_uid()
    uid, other = upload(study=study), upload(study=study)
    in_vain = foreign(side, uid, LABELS, names=("background", "organ", "nothing known"))
    store(side, in_vain)
    side.exchange.look()
    (told,) = side.exchange.state()["segmentations_refused"]
    assert told["segmentation"] == in_vain.SOPInstanceUID
    assert "nothing known" in told["because"].lower()
    # Noted for good.
    assert side.again().exchange.state()["segmentations_refused"] == [told]
    # One of another series of the study does not make up for it.
    store(side, foreign(side, other, LABELS))
    side.exchange.look()
    assert side.exchange.state()["segmentations_refused"] == [told]
    store(side, foreign(side, uid, LABELS))
    side.exchange.look()
    assert side.exchange.state()["segmentations_refused"] == []


def test_what_the_pacs_refuses_is_told_and_holds_nothing_up(side, upload, tmp_path):
    uid = upload()
    side.submit(uid, LABELS)
    side.submit(uid, LABELS, "ben")
    first = side.rows(uid)[0]
    (side.accepted.folder / first.file).unlink()
    side.exchange.look()
    assert list(side.exchange.labels_out.refused) == [first.file]
    assert "does not exist" in side.exchange.state()["labels_refused"][first.file]
    assert side.exchange.state()["labels_waiting"] == 0


def test_a_series_that_the_pacs_fails_to_give_keeps_no_other_waiting(side, upload, orthanc, caplog):
    lost, whole = upload(), upload()
    with failing_on(orthanc, lost) as url:
        side = side.again(url=url)
        for _ in range(3):
            side.exchange.look()
        assert side.store.list_images() == [whole]
        assert caplog.text.count(f"Series {lost} is passed over") == 1
    side = side.again(url=orthanc.dicomweb)
    side.exchange.look()
    side.exchange.look()
    assert set(side.store.list_images()) == {lost, whole}


def test_a_series_that_was_refused_is_served_when_what_it_lacked_has_come(side, orthanc, upload, tmp_path):
    uid, study = generate_uid(), generate_uid()
    made = slices(VOXELS, series=uid, study=study, patient=tmp_path.name)
    orthanc.upload(written([made[0], made[1], made[3]], tmp_path / "first"))
    side.exchange.look()
    side.exchange.look()
    assert "lie 4.5 mm apart" in side.exchange.state()["refused"][uid]
    with pytest.raises(BadInputError, match="cannot be served"):
        side.store.known_image(uid)
    orthanc.upload(written([made[2]], tmp_path / "rest"))
    side.exchange.look()
    side.exchange.look()
    assert side.store.list_images() == [uid]
    assert side.exchange.state()["refused"] == {}


def test_a_series_larger_than_allowed_is_refused(side, upload):
    uid = upload()
    side = side.again(settings=Settings(pacs_filter=side.settings.pacs_filter, max_upload_bytes=100))
    with pytest.raises(BadInputError, match="its voxels take more than"):
        side.store.known_image(uid)


def test_a_real_ct_and_the_label_that_another_program_made_of_it(orthanc, tmp_path):
    folder = shared("dicom_series") / "ct_3slice_with_seg"
    publish_threshold(tmp_path, classes=("background", "liver"), cuts=[60], bands=False)
    (tmp_path / "pacs").mkdir()
    orthanc.upload([*sorted((folder / "ct").glob("*.dcm")), folder / "seg" / "liver.dcm"])
    uid = str(pydicom.dcmread(folder / "ct" / "01.dcm", stop_before_pixels=True).SeriesInstanceUID)
    side = Side(tmp_path, orthanc.dicomweb, Settings(pacs_filter=(("SeriesInstanceUID", uid),)))
    side.exchange.look()
    mask, grid = read_labelmap(folder / "seg" / "liver_seg.nrrd")
    (row,) = side.rows(uid)
    kept, kept_grid = read_labelmap(side.accepted.folder / row.file)
    assert np.array_equal(kept, mask > 0)
    assert kept_grid.difference_from(grid) is None
    assert (row.recipe, row.rater) == ("phantom", "PACS")


def test_where_segments_overlap_classes_win_over_doubt_and_later_ones_over_earlier():
    masks = np.zeros((3, 4, 1, 1), bool)
    masks[0, 0:2], masks[1, 1:3], masks[2, 0:4] = True, True, True
    segments = Segments(("organ", "tumour", "doubt: high"), masks, False, "", "")
    assert label_map(segments, segments.names)[:, 0, 0].tolist() == [1, 2, 2, 3]


def test_more_segments_than_8_bits_hold_are_refused():
    segments = Segments(tuple(map(str, range(300))), np.zeros((300, 1, 1, 1), bool), False, "", "")
    with pytest.raises(BadInputError, match="300 segments"):
        label_map(segments, segments.names)


def test_half_a_line_of_a_ledger_is_nothing(tmp_path):
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.note("one", 1)
    ledger.note("two", {"a": 2})
    path.write_text(path.read_text() + '["three", {"b')
    ledger = Ledger(path)
    assert (ledger.get("one"), ledger.get("two"), ledger.get("three")) == (1, {"a": 2}, None)
    ledger.note("four", 4)
    assert Ledger(path).get("four") == 4


def test_the_thread_goes_on_whatever_happens_until_it_is_closed(request, side, upload):
    uid = upload()
    side = side.again(settings=Settings(pacs_filter=side.settings.pacs_filter, pacs_look_s=0.2))
    (side.folder / "pacs" / "incoming").mkdir()
    side.exchange.open()
    request.addfinalizer(side.exchange.close)
    deadline = time.monotonic() + 30
    while side.store.list_images() != [uid]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    side.submit(uid, LABELS)
    side.exchange.wake()
    while not (side.folder / "pacs" / SENT).exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    told = side.exchange.state()
    assert told["reachable"]
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/dicom-web", told["address"])
    side.exchange.close()
    assert "pacs" not in {thread.name for thread in threading.enumerate()}
