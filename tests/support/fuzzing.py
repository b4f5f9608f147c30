"""Requests and files that no client should send, made from what the server says of itself and from good files."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from support.servers import tail

# Requests of each kind and files of each kind; `OVERREAD_FUZZ=1000` looks for longer, and each time for others.
EXAMPLES = int(os.environ.get("OVERREAD_FUZZ", "0")) or 8
IS_LONG = EXAMPLES > 100
# An answer takes this long on a busy machine; what takes longer hangs.
PATIENCE_S = 120
STORE_FOLDERS = ("labels", "accepted", ".incoming", "patches")

SETTINGS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=not IS_LONG,
    # What is found is told as it was sent: the server's state is another one the second time.
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)


def words(text: str) -> list[str]:
    """The words of a line."""
    return text.split()


# What clients say in `params`, `wsi` and JSON bodies; each key gets values of every kind.
KEYS = words(
    "background bbox brush candidate client_id consensus device doubt foreground image image_size label label_info "
    "labels level location max_workers measure members min_poly_area minutes model organ output params patch_size "
    "preference purpose region restore_label_idx result_compress result_dtype result_extension roi segmentationMeta "
    "size slice slices start status strategy style tile_size tumour user wsi_tiles"
)
PARTS = words("axis indices name idx id location size status comment")
WORDS = [
    *words(
        "all 0 1 -1 off on final approved .nrrd .nii.gz .json .exe uint8 float64 complex128 cuda cpu latest asap"
    ),
    *words(
        "champion scratch organ tumour predictive_entropy variance ../../x /etc/passwd first é %s {} ' \" <b>"
    ),
    *("", "\x00", "\ud800", "\u202e", "bands only"),
]
NUMBERS = st.sampled_from(
    [0, 1, -1, 2, 7, 255, 256, 1 << 31, -(1 << 31), 1 << 63, 10**30, 0.5, -0.0, 1e308, 1e-308]
)
PLAIN = st.one_of(
    st.none(), st.booleans(), NUMBERS, st.sampled_from(WORDS), st.text(max_size=8), st.integers(-3, 60)
)
POINTS = st.lists(st.lists(st.one_of(st.integers(-3, 60), NUMBERS), max_size=4), max_size=4)
VALUES = st.one_of(
    PLAIN,
    POINTS,
    st.lists(PLAIN, max_size=4),
    st.dictionaries(st.sampled_from([*KEYS, *PARTS]), PLAIN, max_size=3),
    st.lists(st.dictionaries(st.sampled_from(PARTS), PLAIN, max_size=3), max_size=3),
)
OBJECTS = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=5)
JSON_TEXT = st.one_of(OBJECTS, VALUES).map(json.dumps) | st.sampled_from(
    ["", "{", "[", '{"a":NaN}', "[" * 2000, "nul"]
)


@dataclass(frozen=True)
class Place:
    """A running server that must come to no harm.

    Attributes:
        base: everything that belongs to the test lies below.
        header: what lets the requests in.
    """

    url: str
    base: Path
    app_dir: Path
    studies: Path
    header: Mapping[str, str]

    def ask(self, method: str, path: str, **arguments: Any) -> requests.Response:
        """One request, whose answer must be one."""
        began = time.monotonic()
        try:
            answer = requests.request(
                method, f"{self.url}{path}", headers=dict(self.header), timeout=PATIENCE_S, **arguments
            )
        except requests.Timeout as error:
            raise AssertionError(
                f"{method} {path} hangs: no answer in {PATIENCE_S} s; {arguments}"
            ) from error
        self.check(answer, f"after {time.monotonic() - began:.1f} s, sent {str(arguments)[:2000]}")
        return answer

    def check(self, answer: requests.Response, sent: object = "") -> None:
        """No answer is the server's fault, tells a path of its machine, or shows where it went wrong."""
        about = (
            f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text[:500]}; {sent}"
        )
        assert answer.status_code < 500, f"{about}\n{self._last_log()}"
        if answer.status_code >= 400:
            assert "Traceback" not in answer.text, about
            assert str(self.base) not in answer.text, about

    def outside(self) -> set[Path]:
        """What lies neither in the app's folder nor with the studies, and folders that no store makes there."""
        own = (self.app_dir, self.studies)
        return {p for p in self.base.rglob("*") if not any(folder in p.parents for folder in own)} | {
            p for p in self.studies.iterdir() if p.is_dir() and p.name not in STORE_FOLDERS
        }

    def leftovers(self) -> list[Path]:
        """What waits in the folder for temporary files though nobody asks any more."""
        return sorted((self.app_dir / "tmp").iterdir())

    def _last_log(self) -> str:
        log = max(self.base.glob("server-*.log"), key=lambda path: path.stat().st_mtime)
        return tail(log, 4000)


def described(place: Place, known: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The server's OpenAPI description, in which names that exist are likely and parameters are JSON of our words.

    Args:
        known: values that exist, by the name of the parameter.
    """
    spec = deepcopy(place.ask("GET", "/openapi.json").json())
    schemathesis.openapi.format("words", JSON_TEXT)
    for operations in spec["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", []):
                if parameter["name"] in known:
                    values = {"enum": list(known[parameter["name"]])}
                    parameter["schema"] = {"anyOf": [values, values, values, {"type": "string"}]}
            body = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if body is not None:
                body["schema"] = {
                    "type": "object",
                    "properties": {key: {} for key in KEYS},
                    "additionalProperties": False,
                }
    for form in spec["components"]["schemas"].values():
        for name, field in form.get("properties", {}).items():
            if name in ("params", "info", "wsi") and field.get("type") == "string":
                field["format"] = "words"
    return spec


def fuzz_operations(place: Place, known: Mapping[str, Sequence[str]], restore: Callable[[], None]) -> None:
    """Send requests to each of the server's addresses, good ones and bad ones.

    Args:
        restore: puts back what requests may remove, before each address.
    """
    schema = schemathesis.openapi.from_dict(described(place, known))
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) > 20
    # Wrong passwords in a row lock the address out.
    for operation in sorted(operations, key=lambda one: (one.method.upper() == "DELETE", one.path)):
        restore()

        @SETTINGS
        @given(case=operation.as_strategy())
        def run(case: schemathesis.Case) -> None:
            try:
                answer = case.call(base_url=place.url, headers=dict(place.header), timeout=PATIENCE_S)
            except requests.exceptions.Timeout as error:
                raise AssertionError(f"no answer in {PATIENCE_S} s to {case.as_curl_command()}") from error
            except (requests.exceptions.InvalidHeader, UnicodeEncodeError):
                return
            assert answer.status_code < 500, (
                f"{answer.status_code} {answer.text[:500]}\n{case.as_curl_command()[:3000]}\n"
                + (place._last_log())
            )
            assert "Traceback" not in answer.text

        run()


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    """A good file after something happened to it, most often to its header."""
    content = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["cut", "flip", "number", "insert", "repeat", "zero", "text"]))
        # Headers are at the beginning, and small.
        most = draw(st.sampled_from([64, 400, 2000, max(1, len(content))]))
        at = draw(st.integers(0, max(0, min(most, len(content)) - 1)))
        if kind == "cut":
            del content[at:]
        elif kind == "flip" and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "number":
            # Of the sizes that headers have: the smallest, the largest, no number.
            value = draw(
                st.sampled_from(
                    [b"\x00", b"\xff", b"\x7f", b"\x80", b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f"]
                )
            )
            width = draw(st.sampled_from([1, 2, 4, 8]))
            content[at : at + width] = (value * width)[:width]
        elif kind == "insert":
            content[at:at] = draw(st.binary(min_size=1, max_size=40))
        elif kind == "repeat":
            content += content[at:]
        elif kind == "zero":
            content[at : at + draw(st.integers(1, 64))] = b"\x00"
        else:
            content[at:at] = draw(st.sampled_from(TEXTS))
        del content[2_000_000:]
    return bytes(content)


TEXTS = (
    b"\ndata file: /etc/passwd\n",
    b"\nsizes: 1000000 1000000 1000000\n",
    b"\nspace directions: none none none\n",
    b"\nencoding: bzip2\n",
    b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>',
    b"&b;",
    b"<Annotation><Coordinates>",
    b"%n%s",
    b"\xef\xbb\xbf",
    b"NaN",
    b"1e999",
)


def fuzz_files(files: Mapping[str, bytes], send: Callable[[str, bytes], None]) -> None:
    """Send damaged files, each also under the names of the other kinds.

    Args:
        files: good ones, by name.
    """

    @SETTINGS
    @given(data=st.data())
    def run(data: st.DataObject) -> None:
        for name, good in files.items():
            content = data.draw(damaged(good), label=name)
            send(data.draw(st.sampled_from([name] * 3 + sorted(files)), label="sent as"), content)

    run()


@contextmanager
def unharmed(place: Place) -> Iterator[None]:
    """Whatever is sent meanwhile, the server goes on, wrote nothing outside and left nothing behind."""
    before = place.outside()
    yield
    assert place.outside() == before
    assert place.ask("GET", "/datastore/?output=all").ok
    assert place.ask("GET", "/info/").ok
    assert place.leftovers() == []
