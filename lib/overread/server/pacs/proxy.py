"""OHIF's way to the PACS: DICOMweb through this server, searches, retrievals and storing only."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

import requests
from anyio import to_thread
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from overread.domain import BadInputError
from overread.server.pacs.senders import segmentations_in
from overread.server.routes import USER, User, signed_in

if TYPE_CHECKING:
    from overread.server.pacs.client import Pacs
    from overread.server.pacs.exchange import Exchange

PREFIX = "/proxy/dicom"
Service = Literal["qido", "wado", "stow"]
# PS3.18 chapter 10: what a path of DICOMweb begins with, and what its parts are made of.
RESOURCES = ("studies", "series", "instances", "bulkdata")
PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._,:-]*")
PASSED_ON = ("accept", "content-type")
PASSED_BACK = ("content-type", "content-encoding", "content-length", "warning")
CHUNK = 1 << 18


def proxy_router(pacs: Pacs, exchange: Exchange) -> APIRouter:
    """`/proxy/dicom/{qido,wado,stow}/…`, as the OHIF in MONAI Label's wheel is built to ask."""
    router = APIRouter()

    @router.get(f"{PREFIX}/{{service}}/{{path:path}}", include_in_schema=False)
    def look(http: Request, service: Service, path: str, user: User = USER) -> Response:
        with pacs.talking():
            answer = pacs.session.get(
                address(pacs, service, path),
                params=http.query_params.multi_items(),
                headers=headers(http),
                stream=True,
            )
        return passed_back(answer)

    @router.post(f"{PREFIX}/{{service}}/{{path:path}}", include_in_schema=False)
    async def store(http: Request, service: Service, path: str, user: User = USER) -> Response:
        if not path.startswith("studies"):
            raise BadInputError(f"only studies are stored, not {path!r}")
        body = await http.body()

        def send() -> requests.Response:
            if sender := signed_in(user):
                for uid in segmentations_in(http.headers.get("content-type", ""), body):
                    exchange.labels_in.note_sender(uid, sender)
            with pacs.talking():
                # OHIF stores where it retrieves.
                return pacs.session.post(
                    address(pacs, "stow", path), data=body, headers=headers(http), stream=True
                )

        answer = await to_thread.run_sync(send)
        exchange.wake()
        return passed_back(answer)

    return router


def address(pacs: Pacs, service: Service, path: str) -> str:
    """Where a request goes. Raises BadInputError for a path that is no DICOMweb resource."""
    parts = [part for part in path.split("/") if part]
    if not parts or parts[0] not in RESOURCES or not all(PART.fullmatch(part) for part in parts):
        raise BadInputError(f"{path!r} is no DICOMweb resource; those begin with {', '.join(RESOURCES)}")
    # Some OHIF asks the search service for metadata, which is the retrieval's.
    service = "wado" if parts[-1] == "metadata" else service
    prefix = pacs.prefixes[service].strip("/")
    return "/".join([pacs.url, *([prefix] if prefix else []), *parts])


def headers(http: Request) -> dict[str, str]:
    """Of a request's headers those that the PACS is to see: nobody's cookies or tokens."""
    return {name: value for name, value in http.headers.items() if name in PASSED_ON}


def passed_back(answer: requests.Response) -> Response:
    """The PACS' answer, its bytes as they come."""
    kept = {name: value for name, value in answer.headers.items() if name.lower() in PASSED_BACK}
    return StreamingResponse(
        answer.raw.stream(CHUNK, decode_content=False), status_code=answer.status_code, headers=kept
    )
