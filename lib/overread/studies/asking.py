"""One request to a server as 3D Slicer sends it, and all of the answer."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import requests
from requests_toolbelt import MultipartDecoder

from overread.domain import OverreadError

LONGEST_ANSWER_S = 600


@dataclass(frozen=True, eq=False)
class Answered:
    """What came back.

    Attributes:
        file: the label map.
        facts: the JSON beside it.
        seconds: until all of it was there.
    """

    file: bytes
    facts: dict[str, Any]
    seconds: float


def ask(url: str, model: str, image: str, params: Mapping[str, Any]) -> Answered:
    """Ask a model about an image of the server's studies.

    Raises:
        OverreadError: the server refused.
    """
    started = time.perf_counter()
    answer = requests.post(
        f"{url}/infer/{model}",
        params={"image": image, "output": "all"},
        files={"params": (None, json.dumps(dict(params)))},
        timeout=LONGEST_ANSWER_S,
    )
    seconds = time.perf_counter() - started
    if not answer.ok:
        raise OverreadError(f"{model} refused to answer about {image}: {answer.text}")
    facts, file = [part.content for part in MultipartDecoder.from_response(answer).parts]
    return Answered(file, json.loads(facts), seconds)
