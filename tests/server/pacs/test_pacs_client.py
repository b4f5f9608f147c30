"""Whatever a PACS answers becomes a list, or a sentence."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from monailabel.config import settings as monai_settings
from pydicom.dataset import Dataset

from overread.domain import BadInputError, NotFoundError, UnavailableError
from overread.server.pacs.client import PAGE, Pacs, SeriesEntry
from support.dicom import slices

ENTRY = SeriesEntry("1.2.3", "1.2", "CT", 1, {})
DICOM_JSON = "application/dicom+json"


@pytest.fixture
def answering() -> Iterator[Callable[..., Pacs]]:
    """A PACS that gives one answer to everything."""
    servers = []

    def start(
        status: int = 200, kind: str = DICOM_JSON, body: bytes = b"[]", promised: int | None = None
    ) -> Pacs:
        class Handler(BaseHTTPRequestHandler):
            seen: list[dict[str, str]] = []  # noqa: RUF012

            def do_GET(self) -> None:
                self.seen.append({"path": self.path, **dict(self.headers.items())})
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body) if promised is None else promised))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.do_GET()

            def log_message(self, *_) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        pacs = Pacs(f"http://127.0.0.1:{server.server_address[1]}/dicom-web/")
        pacs.seen = Handler.seen  # type: ignore[attr-defined]
        return pacs

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (500, UnavailableError, "answers with status 500"),
        (503, UnavailableError, "answers with status 503"),
        (429, UnavailableError, "answers with status 429"),
        (401, UnavailableError, "wants another user or password"),
        (404, NotFoundError, "does not have that"),
        (400, BadInputError, "refuses with status 400"),
    ],
)
def test_a_refusal_is_a_sentence(answering, status, kind, words):
    with pytest.raises(kind, match=words):
        answering(status).series({})


def test_a_web_page_is_no_pacs(answering):
    with pytest.raises(UnavailableError, match="no DICOMweb"):
        answering(200, "text/html", b"<html>").series({})


def test_a_series_that_breaks_off_in_the_middle_is_not_there(answering):
    part = b"--x\r\nContent-Type: application/dicom\r\n\r\n" + b"\0" * 128 + b"DICM\2\0\0\0UL\4\0"
    pacs = answering(200, 'multipart/related; type="application/dicom"; boundary=x', part, promised=10_000)
    with pytest.raises(UnavailableError):
        list(pacs.files(ENTRY))


def test_a_damaged_file_is_the_files_fault(answering):
    part = b"--x\r\nContent-Type: application/dicom\r\n\r\nno DICOM at all\r\n--x--"
    pacs = answering(200, 'multipart/related; type="application/dicom"; boundary=x', part)
    with pytest.raises(BadInputError, match="no DICOMweb"):
        list(pacs.files(ENTRY))


def test_nobody_at_the_door_is_said_once_and_not_by_the_client_as_well(caplog):
    with pytest.raises(UnavailableError, match=r"http://127.0.0.1:9/dicom-web does not answer"):
        Pacs("http://127.0.0.1:9/dicom-web").series({})
    assert caplog.records == []


def test_entries_without_a_uid_are_passed_over_and_counts_may_be_missing(answering):
    listed = [
        {"0020000D": {"Value": ["1.2"]}, "0020000E": {"Value": ["1.2.3"]}, "00080060": {"Value": ["MR"]}},
        {"0020000D": {"Value": ["1.2"]}},
    ]
    (entry,) = answering(body=json.dumps(listed).encode()).series({"Modality": "MR"})
    assert (entry.uid, entry.modality, entry.count) == ("1.2.3", "MR", None)


def test_a_server_that_knows_no_pages_is_not_asked_for_ever(answering):
    listed = [
        {"0020000D": {"Value": ["1.2"]}, "0020000E": {"Value": [f"1.2.{n}"]}, "00201209": {"Value": [3]}}
        for n in range(PAGE)
    ]
    pacs = answering(body=json.dumps(listed).encode())
    assert len(pacs.series({})) == PAGE
    assert len(pacs.seen) == 2


def test_user_and_password_are_sent_and_not_shown(answering, monkeypatch):
    monkeypatch.setattr(monai_settings, "MONAI_LABEL_DICOMWEB_USERNAME", "ward")
    monkeypatch.setattr(monai_settings, "MONAI_LABEL_DICOMWEB_PASSWORD", "secret")
    pacs = answering()
    pacs.series({})
    assert pacs.seen[0]["Authorization"].startswith("Basic ")
    assert Pacs("https://ward:secret@pacs.example/dicom-web").shown_url == "https://pacs.example/dicom-web"


def test_a_file_that_the_pacs_does_not_take_is_named(answering):
    failed, one = Dataset(), Dataset()
    one.ReferencedSOPInstanceUID, one.ReferencedSOPClassUID, one.FailureReason = "1.2.3.4", "1.2", 43264
    failed.FailedSOPSequence = [one]
    pacs = answering(body=failed.to_json().encode())
    (instance,) = slices(np.zeros((2, 2, 1), np.int16))
    with pytest.raises(BadInputError, match=r"refused .* failure 43264"):
        pacs.store(instance, "1.2")
