"""A folder of small slides as a server has it, and what QuPath submits of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np

from overread.domain.slides import PatchLocation, PixelSize, Region
from overread.ensemble.threshold import write_threshold_ensemble
from overread.imaging.slides.pyramid import write_pyramid
from overread.imaging.volumes import read_labelmap
from overread.learning.accepted import AcceptedLabels
from overread.learning.champions import ChampionStore
from overread.server.models import ServedModels
from overread.server.settings import Settings
from overread.server.slides.store import SlideStore
from overread.state.database import Database
from overread.state.labels import LabelRow, labels
from overread.state.servings import STRATEGY, Serving, end, serve

RECIPE = "tissue"
CLASSES = ("background", "Tumor", "Stroma")
# Wider than high, so that exchanged axes are seen. The model sees 2 x 2 pixels of the slide as one.
WIDTH, HEIGHT = 400, 300
SLIDE_PIXEL, MODEL_UM = PixelSize(0.5), 1.0

Points = Iterable[tuple[float, float]]


def rectangle(x: float, y: float, width: float, height: float) -> list[tuple[float, float]]:
    """Its corners."""
    return [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]


def asap(*objects: tuple[str, Points], box: tuple[int, int, int, int] = (0, 0, 0, 0)) -> bytes:
    """The XML that QuPath's extension sends: class and points of each object, in pixels of the slide."""
    lines = ["<ASAP_Annotations>"]
    lines.append('<Annotations Name="" Description="" X="{}" Y="{}" W="{}" H="{}">'.format(*box))
    for name, points in objects:
        called = quoteattr(name)
        lines.append(f'<Annotation Name={called} Type="Polygon" PartOfGroup={called} Color="#c80000">')
        lines.append("<Coordinates>")
        for order, (x, y) in enumerate(points):
            lines.append(f'<Coordinate Order="{order}" X="{x - box[0]}" Y="{y - box[1]}"/>')
        lines.append("</Coordinates></Annotation>")
    lines.append("</Annotations><AnnotationGroups/></ASAP_Annotations>")
    return "".join(lines).encode()


@dataclass
class SlideFolder:
    """A studies folder below `root` with its champion and database.

    Attributes:
        now: of the next serving.
    """

    root: Path
    now: float = 1_000.0
    studies: Path = field(init=False)

    def __post_init__(self) -> None:
        self.studies = self.root / "slides"
        self.studies.mkdir()
        staging = self.root / "staging"
        write_threshold_ensemble(
            staging, RECIPE, CLASSES, [80, 160], patch=(32, 32), um_per_px=MODEL_UM, weights=[1, 0, 0]
        )
        self.champions = ChampionStore(self.root / "model")
        self.champions.publish(RECIPE, staging)
        self.database = Database.open(self.root / "overread.db")
        self.accepted = AcceptedLabels(self.studies / "accepted", self.database)

    def put(self, name: str = "one.tif", width: int = WIDTH, height: int = HEIGHT, shade: int = 200) -> Path:
        """A slide in the folder."""
        path = self.studies / name
        picture = np.full((height, width, 3), shade, np.uint8)
        write_pyramid(path, picture, SLIDE_PIXEL)
        return path

    def opened(self) -> SlideStore:
        """The folder as a server that starts sees it."""
        self.accepted.settle(2000.0)
        return SlideStore(str(self.studies), ServedModels(self.champions, Settings()), self.accepted)

    def send(self, store: SlideStore, image: str, xml: bytes, tag: str = "final", **params) -> dict:
        """Submit XML as the server does; the answer."""
        file = self.root / "sent.xml"
        file.write_bytes(xml)
        return store.submit(image, file, tag, {"client_id": "anna", **params})

    def serve(
        self,
        region: tuple[int, int, int, int],
        client: str = "anna",
        lease_s: float = 1e10,
        arm: str = STRATEGY,
    ) -> Serving:
        """Hand a patch of slide `one` to a client."""
        self.now += 1
        with self.database.writing() as c:
            return serve(
                c,
                case_id=PatchLocation("one", Region(*region)).name,
                patient="one",
                client_id=client,
                recipe=RECIPE,
                champion="abc",
                strategy="most_uncertain",
                arm=arm,
                reason="",
                score=None,
                now=self.now,
                lease_s=lease_s,
            )

    def end(self, serving: Serving, outcome: str) -> None:
        """End a serving."""
        with self.database.writing() as c:
            end(c, serving.id, outcome, self.now)

    def rows(self) -> list[LabelRow]:
        """All accepted labels."""
        with self.database.reading() as c:
            return labels(c)

    def label(self, patch: str) -> np.ndarray:
        """The newest accepted label of a patch, (x, y)."""
        row = [row for row in self.rows() if row.case_id == patch][-1]
        return read_labelmap(self.accepted.folder / row.file)[0][..., 0]
