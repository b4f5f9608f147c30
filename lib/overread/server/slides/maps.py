"""What is kept of slides, by model and champion: written by the background scorer, and by a first look before it."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path

from overread.domain import NotFoundError
from overread.ensemble.slides.maps import SlideMaps
from overread.queue.patches.files import SlideFiles, SlideState, slide_folder
from overread.queue.patches.scores import slide_doubt
from overread.queue.scoring import CHAMPION_LENGTH, revision_of
from overread.server.maps import MapKey

# What viewers may have.
SHOWN = {
    "uncertainty.tif": "image/tiff",
    "thumbnail.png": "image/png",
    "labels.geojson": "application/geo+json",
}
SCORED, FIRST_LOOK, WAITING = "scored", "first look", "waiting"


class SlideMapStore:
    """Files about slides below one folder, such as `apps/pathology/maps`; see `queue/patches/files.py`."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def files(self, key: MapKey) -> SlideFiles:
        """Where the files of a slide lie."""
        return SlideFiles(slide_folder(self.root, key.recipe, key.champion[:CHAMPION_LENGTH], key.case))

    def names(self, key: MapKey) -> list[str]:
        """Files that a viewer can have."""
        folder = self.files(key).folder
        return [name for name in SHOWN if (folder / name).is_file()]

    def path(self, key: MapKey, name: str) -> Path:
        """A file for a viewer. Raises NotFoundError where it is not there yet, or no such file is made."""
        if name not in SHOWN:
            raise NotFoundError(f"no file {name!r} is kept of slides; there are {', '.join(SHOWN)}")
        path = self.files(key).folder / name
        if not path.is_file():
            raise NotFoundError(
                f"{name} of slide {key.case!r} is not there yet for model {key.recipe!r} (champion {key.champion}); "
                "the background scoring makes it"
            )
        return path

    def state(self, key: MapKey, slide: Path) -> str:
        """How far the champion is with a slide: `SCORED`, `FIRST_LOOK` or `WAITING`."""
        state = self.files(key).state(revision_of(slide))
        return WAITING if state is None else SCORED if state.is_complete else FIRST_LOOK

    def version(self, key: MapKey) -> Hashable | None:
        """Changes when the maps change; None where there are none."""
        return self.files(key).version()

    def load(self, key: MapKey) -> SlideMaps | None:
        """The champion's maps of a slide; None where it never looked."""
        return self.files(key).read()

    def scored(self, key: MapKey, slide: Path) -> SlideMaps | None:
        """Maps of the whole slide; None until the background scoring is through with it."""
        return self.load(key) if self.state(key, slide) == SCORED else None

    def keep_first_look(self, key: MapKey, slide: Path, maps: SlideMaps) -> None:
        """Keep coarse maps, for the queue and for the scorer, which goes on from them. Others that came first stay."""
        files, revision = self.files(key), revision_of(slide)
        if files.state(revision) is None:
            files.write(maps, SlideState(revision, doubt=slide_doubt(key.case, maps)[0]))
