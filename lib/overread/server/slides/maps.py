"""What is kept of slides, by model and champion; most of it is written by the background scorer.

<root>/<recipe>/<champion>/<slide>/maps.npz           what the queue chooses by
<root>/<recipe>/<champion>/<slide>/first_look.npz     the same from a first look, until the above is there
<root>/<recipe>/<champion>/<slide>/uncertainty.tif    for a viewer
<root>/<recipe>/<champion>/<slide>/thumbnail.png
<root>/<recipe>/<champion>/<slide>/labels.geojson     outlines of the whole slide
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from urllib.parse import quote

from overread.domain import BadInputError, NotFoundError
from overread.ensemble.slides.maps import SlideMaps
from overread.queue.scoring import CHAMPION_LENGTH
from overread.server.maps import MapKey
from overread.server.slides.opened import version_of

MAPS, FIRST_LOOK = "maps.npz", "first_look.npz"
LABELS = "labels.geojson"
# What viewers may have.
SHOWN = {"uncertainty.tif": "image/tiff", "thumbnail.png": "image/png", LABELS: "application/geo+json"}


class SlideMapStore:
    """Files about slides below one folder, such as `apps/pathology/maps`."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def folder(self, key: MapKey) -> Path:
        """Where the files of a slide lie; need not exist."""
        return self.root / key.recipe / key.champion[:CHAMPION_LENGTH] / quote(key.case, safe=" ")

    def files(self, key: MapKey) -> list[str]:
        """Names of the files that a viewer can have."""
        folder = self.folder(key)
        return [name for name in SHOWN if (folder / name).is_file()]

    def path(self, key: MapKey, name: str) -> Path:
        """A file for a viewer. Raises NotFoundError where it is not there yet, or no such file is made."""
        if name not in SHOWN:
            raise NotFoundError(f"no file {name!r} is kept of slides; there are {', '.join(SHOWN)}")
        path = self.folder(key) / name
        if not path.is_file():
            raise NotFoundError(
                f"{name} of slide {key.case!r} is not there yet for model {key.recipe!r} (champion {key.champion}); "
                "the background scoring makes it"
            )
        return path

    def is_scored(self, key: MapKey) -> bool:
        """Whether the champion has gone over the whole slide."""
        return (self.folder(key) / MAPS).is_file()

    def version(self, key: MapKey) -> Hashable | None:
        """Changes when the maps change; None where there are none."""
        path = self._newest(key)
        return None if path is None else version_of(path)

    def load(self, key: MapKey) -> SlideMaps | None:
        """The champion's maps of a slide, of a first look if there are no others; None where it never looked."""
        path = self._newest(key)
        if path is None:
            return None
        try:
            return SlideMaps.load(path)
        except BadInputError:
            # They are made again, by the next look or the scorer.
            path.unlink(missing_ok=True)
            return None

    def keep_first_look(self, key: MapKey, maps: SlideMaps) -> None:
        """Keep coarse maps until the scorer's are there."""
        maps.save(self.folder(key) / FIRST_LOOK)

    def _newest(self, key: MapKey) -> Path | None:
        folder = self.folder(key)
        return next((folder / name for name in (MAPS, FIRST_LOOK) if (folder / name).is_file()), None)
