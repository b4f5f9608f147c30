"""The PACS over DICOMweb: what it holds, its files, and what is stored into it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import requests
from dicomweb_client.api import DICOMwebClient
from monailabel.config import settings as monai_settings
from pydicom.dataset import Dataset

from overread.domain import BadInputError, NotFoundError, OverreadError, UnavailableError

logger = logging.getLogger(__name__)

# To connect, and to wait for the next bytes: a PACS may fetch a series from its archive first.
TIMEOUT_S = (5.0, 60.0)
PAGE = 500
# As stored, so that nothing is decoded and coded again on the way; we read every syntax.
AS_STORED = (("application/dicom", "*"),)
# What OHIF shows of the next case, and what tells series apart.
FIELDS = (
    "Modality",
    "SeriesDescription",
    "PatientID",
    "StudyDate",
    "StudyTime",
    "NumberOfSeriesRelatedInstances",
)
KEYWORDS = {
    "00080060": "Modality",
    "0008103E": "SeriesDescription",
    "00100020": "PatientID",
    "00080020": "StudyDate",
    "00080030": "StudyTime",
    "0020000D": "StudyInstanceUID",
    "0020000E": "SeriesInstanceUID",
    "00081190": "RetrieveURL",
}
INSTANCES = "00201209"


@dataclass(frozen=True)
class SeriesEntry:
    """A series as the PACS lists it.

    Attributes:
        uid, study_uid, modality: of the series.
        count: its files; None where the PACS does not say.
        info: what viewers show of it, plain JSON in DICOM's keywords.
    """

    uid: str
    study_uid: str
    modality: str
    count: int | None
    info: Mapping[str, Any]


class Session(requests.Session):
    """A session whose requests end in time."""

    def request(self, *arguments: Any, **options: Any) -> requests.Response:
        """As `requests.Session.request`, with a timeout."""
        options["timeout"] = options.get("timeout") or TIMEOUT_S
        return super().request(*arguments, **options)


class Pacs:
    """A DICOMweb server.

    Args:
        url: its base, such as `http://127.0.0.1:8042/dicom-web`.

    Attributes:
        shown_url: the same without a user's name and password.
    """

    def __init__(self, url: str) -> None:
        self.url = url.strip().rstrip("/")
        parts = urlsplit(self.url)
        self.shown_url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        self.session = Session()
        user, password = (
            monai_settings.MONAI_LABEL_DICOMWEB_USERNAME,
            monai_settings.MONAI_LABEL_DICOMWEB_PASSWORD,
        )
        if user and password:
            self.session.auth = (user, password)
        self.prefixes = {
            "qido": monai_settings.MONAI_LABEL_QIDO_PREFIX or "",
            "wado": monai_settings.MONAI_LABEL_WADO_PREFIX or "",
            "stow": monai_settings.MONAI_LABEL_STOW_PREFIX or "",
        }
        self._client = DICOMwebClient(
            url=self.url,
            session=self.session,
            qido_url_prefix=self.prefixes["qido"] or None,
            wado_url_prefix=self.prefixes["wado"] or None,
            stow_url_prefix=self.prefixes["stow"] or None,
        )
        # Who asks again, when, and what the log says of it, is decided here.
        self._client.set_http_retry_params(retry=False)
        logging.getLogger("retrying").setLevel(logging.ERROR)

    def series(self, filters: Mapping[str, str]) -> list[SeriesEntry]:
        """All series that match. Raises UnavailableError where the PACS does not answer."""
        found: dict[str, SeriesEntry] = {}
        with self.talking():
            while True:
                page = self._client.search_for_series(
                    search_filters=dict(filters), fields=FIELDS, limit=PAGE, offset=len(found)
                )
                before = len(found)
                for item in page:
                    entry = _entry(item)
                    if entry is not None:
                        found[entry.uid] = entry
                # A server without paging sends the same again.
                if len(page) < PAGE or len(found) == before:
                    return list(found.values())

    def instances(self, entry: SeriesEntry) -> list[str]:
        """SOPInstanceUIDs of a series."""
        with self.talking():
            listed = self._client.search_for_instances(entry.study_uid, entry.uid)
        return [str(item["00080018"]["Value"][0]) for item in listed if item.get("00080018", {}).get("Value")]

    def files(self, entry: SeriesEntry) -> Iterator[Dataset]:
        """The files of a series, one after another, in the transfer syntax they are stored in."""
        with self.talking(BadInputError):
            yield from self._client.iter_series(entry.study_uid, entry.uid, AS_STORED)

    def file(self, entry: SeriesEntry, sop_uid: str) -> Dataset:
        """One file."""
        with self.talking(BadInputError):
            return self._client.retrieve_instance(entry.study_uid, entry.uid, sop_uid, AS_STORED)

    def store(self, instance: Dataset, study_uid: str) -> None:
        """Store a file by STOW-RS. Raises BadInputError where the PACS refuses it."""
        with self.talking():
            answer = self._client.store_instances([instance], study_uid)
        failed = answer.get("FailedSOPSequence") or []
        if failed:
            raise BadInputError(
                f"{self.shown_url} refused {instance.SOPInstanceUID}: failure {failed[0].get('FailureReason')}"
            )

    @contextmanager
    def talking(self, nonsense: type[OverreadError] = UnavailableError) -> Iterator[None]:
        """Turn what goes wrong on the way into words.

        Args:
            nonsense: raised where an answer came whole and cannot be read: of a file that is damaged in the PACS, or
                of an address where no PACS is.

        Raises:
            UnavailableError: no answer, or one that says to come again. NotFoundError: it is not there.
            BadInputError: the PACS refuses.
        """
        try:
            yield
        except OverreadError:
            raise
        except requests.HTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            if status == 404:
                raise NotFoundError(f"{self.shown_url} does not have that") from error
            if status in (401, 403):
                raise UnavailableError(
                    f"{self.shown_url} wants another user or password (status {status}); "
                    "set MONAI_LABEL_DICOMWEB_USERNAME and MONAI_LABEL_DICOMWEB_PASSWORD"
                ) from error
            if 400 <= status < 500 and status not in (408, 429):
                raise BadInputError(f"{self.shown_url} refuses with status {status}") from error
            raise UnavailableError(f"{self.shown_url} answers with status {status}") from error
        except requests.JSONDecodeError as error:
            raise nonsense(f"{self.shown_url} answers with what is no DICOMweb: {error}") from error
        except (requests.RequestException, OSError) as error:
            raise UnavailableError(f"{self.shown_url} does not answer ({type(error).__name__})") from error
        except Exception as error:  # pydicom and the client raise what they like on what they cannot read
            raise nonsense(f"{self.shown_url} answers with what is no DICOMweb: {error}") from error


def _entry(item: Mapping[str, Any]) -> SeriesEntry | None:
    info = {}
    for tag, keyword in KEYWORDS.items():
        values = item.get(tag, {}).get("Value") or []
        if values:
            info[keyword] = values[0] if isinstance(values[0], int | float) else str(values[0])
    if not info.get("SeriesInstanceUID") or not info.get("StudyInstanceUID"):
        return None
    count = str((item.get(INSTANCES, {}).get("Value") or [""])[0])
    return SeriesEntry(
        uid=str(info["SeriesInstanceUID"]),
        study_uid=str(info["StudyInstanceUID"]),
        modality=str(info.get("Modality", "")),
        count=int(count) if count.isdigit() else None,
        info=info,
    )
