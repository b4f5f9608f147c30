"""What QuPath sends and reads, for tests in Python."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import requests
from shapely.geometry import Polygon

from overread.domain import Region

PATCH = [256, 192]
# QuPath says nothing of itself; it is called by where it runs.
CLIENT = "at 127.0.0.1"


# Names as hospitals give them; QuPath's image ids are file names without their last suffix.
SLIDE = "case 1 & 2"


@dataclass(frozen=True)
class Server:
    """A running server and its folders."""

    url: str
    app_dir: Path
    studies: Path

    def get(self, path: str, **query: Any) -> requests.Response:
        """Any address."""
        return requests.get(f"{self.url}{path}", params=query, timeout=60)

    def annotate(self, body: str, **query: Any) -> requests.Response:
        """QuPath's *Annotations…*: JSON that nothing declares to be JSON."""
        wished = {"image": SLIDE, "output": "asap"} | query
        return requests.post(f"{self.url}/infer/wsi/blobs", params=wished, data=body.encode(), timeout=120)

    def next(self, strategy: str, body: str) -> requests.Response:
        """QuPath's *Next Sample*, also without a content type."""
        return requests.post(f"{self.url}/activelearning/{strategy}", data=body.encode(), timeout=60)


# The members' pixels are two of the slide's: an outline may lie one of theirs away.
NEAR = 4.0


def body(region: Region | None = None, positive: Any = (), negative: Any = (), **others: Any) -> str:
    """As QuPath writes it."""
    x, y, width, height = region.bbox if region else (0, 0, 0, 0)
    asked = {"level": 0, "location": [x, y], "size": [width, height], "tile_size": [1024, 1024]}
    asked["min_poly_area"] = 30
    asked["params"] = {"foreground": list(positive), "background": list(negative), "max_workers": 1}
    return json.dumps(asked | others)


def around(*regions: Region, margin: int = 60) -> Region:
    """A rectangle around others."""
    left, top = min(r.x for r in regions) - margin, min(r.y for r in regions) - margin
    right, bottom = max(r.right for r in regions) + margin, max(r.bottom for r in regions) + margin
    return Region(left, top, right - left, bottom - top)


def outlines(answer: requests.Response) -> list[tuple[str, Polygon]]:
    """Names and polygons of QuPath's XML."""
    assert answer.ok, answer.text
    root = ElementTree.fromstring(answer.content)
    return [
        (
            annotation.attrib["Name"],
            Polygon([(float(c.attrib["X"]), float(c.attrib["Y"])) for c in annotation.iter("Coordinate")]),
        )
        for annotation in root.iter("Annotation")
    ]


def named(found: list[tuple[str, Polygon]], name: str) -> list[Polygon]:
    return [polygon for called, polygon in found if called == name]


def is_near(polygon: Polygon, region: Region) -> bool:
    edges = np.array(polygon.bounds) - [region.x, region.y, region.right, region.bottom]
    return bool(np.abs(edges).max() <= NEAR)


def middle(region: Region) -> list[int]:
    return [int(part) for part in region.centre]


def wish(image: str = SLIDE, **others: Any) -> str:
    """As QuPath writes it."""
    return json.dumps({"image": image, "patch_size": PATCH, "image_size": [2400, 1600]} | others)


def patch(answer: requests.Response) -> Region:
    assert answer.ok, answer.text
    return Region(*answer.json()["bbox"])
