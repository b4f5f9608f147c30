"""QuPath's MONAI Label extension, as far as the server can tell: the Java program in `tests/viewers/qupath`."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from shapely import Polygon, make_valid
from shapely.geometry.base import BaseGeometry

SOURCE = Path(__file__).parents[1] / "viewers" / "qupath" / "QuPathClient.java"
Points = Sequence[tuple[int, int]]


class RefusedError(Exception):
    """The server's answer was none that QuPath takes: its status and body."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"{status} {body}")
        self.status, self.body = status, body


@dataclass(frozen=True)
class Drawn:
    """One annotation object that appeared in the viewer."""

    name: str
    colour: str
    shape: BaseGeometry


class QuPath:
    """One open QuPath; each method is one entry of its menu."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process, self._folder = process, folder

    def info(self) -> dict[str, Any]:
        """What the extension learns of the server."""
        return json.loads(self._one("info", self._say("info")))

    def next_patch(
        self, strategy: str, image: str, image_size: tuple[int, int], patch_size: tuple[int, int]
    ) -> tuple[dict[str, Any], tuple[int, int, int, int]]:
        """Ctrl+N with `Next Patch` ticked: the whole answer, and the rectangle that is drawn."""
        lines = self._say("next", strategy, image, numbers(image_size), numbers(patch_size))
        x, y, width, height = json.loads(self._one("bbox", lines))
        return json.loads(self._one("sample", lines)), (x, y, width, height)

    def next_slide(self, strategy: str) -> dict[str, Any]:
        """Ctrl+N without an open image: the slide that is opened."""
        return json.loads(self._one("sample", self._say("next", strategy, "", "0,0", "1024,1024")))

    def annotate(
        self,
        model: str,
        image: str,
        box: tuple[int, int, int, int],
        positive: Points = (),
        negative: Points = (),
    ) -> list[Drawn]:
        """Ctrl+M in a rectangle, with points of class Positive and Negative in it: what is drawn."""
        lines = self._say("annotate", model, image, numbers(box), points(positive), points(negative))
        assert self._one("exists", lines) == "true"
        return drawn(lines)

    def upload(self, model: str, picture: Path, positive: Points = ()) -> list[Drawn]:
        """Ctrl+M on an image that the server does not have."""
        lines = self._say("upload", model, str(picture), points(positive), "")
        assert self._one("exists", lines) == "false"
        return drawn(lines)

    def submit_slide(self, image: str, objects: Sequence[tuple[str, Points]]) -> dict[str, Any]:
        """Alt+M, `No`: everything that is outlined on the slide. The answer to the label."""
        return json.loads(self._all("saved", self._say("slide", image, self._objects(objects)))[-1])

    def submit_patch(
        self,
        image: str,
        box: tuple[int, int, int, int],
        picture: Path,
        objects: Sequence[tuple[str, Points]],
    ) -> dict[str, Any]:
        """Alt+M, `Yes`: the selected rectangle as a picture, with what is outlined in it. The answer to the label."""
        words = (image, numbers(box), str(picture), self._objects(objects))
        return json.loads(self._all("saved", self._say("patch", *words))[-1])

    def train(self, model: str) -> dict[str, Any]:
        """Ctrl+T."""
        return json.loads(self._one("training", self._say("train", model)))

    def _say(self, *words: str) -> list[str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\t".join(words) + "\n")
        self._process.stdin.flush()
        lines = []
        while (line := self._process.stdout.readline().rstrip("\n")) != ".":
            assert line, "the Java program ended"
            lines.append(line)
        for line in lines:
            if line.startswith("refused "):
                _, status, body = line.split(" ", 2)
                raise RefusedError(int(status), body)
            assert not line.startswith("failed "), line
        return lines

    def _objects(self, objects: Sequence[tuple[str, Points]]) -> str:
        file = self._folder / "objects.txt"
        file.write_text("".join(f"{name}|#ff0000|{points(ring)}\n" for name, ring in objects))
        return str(file)

    @staticmethod
    def _all(word: str, lines: Sequence[str]) -> list[str]:
        return [line.removeprefix(f"{word} ") for line in lines if line.startswith(f"{word} ")]

    def _one(self, word: str, lines: Sequence[str]) -> str:
        found = self._all(word, lines)
        assert len(found) == 1, lines
        return found[0]


@contextmanager
def open_qupath(url: str, folder: Path) -> Iterator[QuPath]:
    """QuPath with this server in its preferences; skips the test where there is no Java compiler."""
    if shutil.which("javac") is None:
        pytest.skip("no javac: QuPath's client needs a JDK 17 (Debian: openjdk-17-jdk-headless)")
    subprocess.run(["javac", "-Xlint:all", "-Werror", "-d", str(folder), str(SOURCE)], check=True)
    process = subprocess.Popen(
        ["java", "-cp", str(folder), SOURCE.stem, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    try:
        yield QuPath(process, folder)
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.wait(timeout=30)
        process.stdout.close()


def drawn(lines: Sequence[str]) -> list[Drawn]:
    """Objects that the extension adds to the image."""
    found = []
    for line in lines:
        if line.startswith("drawn "):
            name, colour, ring = line.removeprefix("drawn ").split("|")
            corners = [tuple(float(number) for number in point.split(",")) for point in ring.split()]
            found.append(Drawn(name, colour, make_valid(Polygon(corners))))
    return found


def numbers(values: Sequence[int]) -> str:
    """Such as `1,2,3`."""
    return ",".join(str(int(value)) for value in values)


def points(ring: Points) -> str:
    """Such as `1,2 3,4`."""
    return " ".join(numbers(point) for point in ring)


def square(x: int, y: int, edge: int) -> Points:
    """Corners of a square from its upper left one."""
    return [(x, y), (x + edge, y), (x + edge, y + edge), (x, y + edge)]
