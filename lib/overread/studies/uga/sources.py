"""Where the sets of a study come from: published data in their folders, and slides made by computation.

A source puts a set in order below a work folder: images that the readers know as they are stay where they are and are
linked to, labels are written as class numbers. Adding one is a function with the decorator `source`.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from overread.domain import BadInputError, NotFoundError, Registry
from overread.imaging.slides.slide import open_slide
from overread.imaging.volumes import read_volume
from overread.studies.made_from import changes, files_below, stamps
from overread.studies.slides.centres import CENTRES
from overread.studies.uga.sets import StudyCase, StudySet

RGB = ("R", "G", "B")
NUCLEI = ("background", "Nucleus")
TUMOUR = "Tumor"
# Says in the folder of a set that it is in order, and what it was made from.
ORIGIN = "origin.json"
# Pixels of the pictures in the set, which have half the resolution of those published: at about 20x, and at 40x.
DSB_UM, MONUSEG_UM = 1.0, 0.5
SHRINK = 2
# Of pictures that are kept as JPEG, as they were scanned.
PICTURE_QUALITY = 95
# Of volumes, so many of each domain are taken, drawn once.
MOST_VOLUMES = 72
# Hospitals whose slides the model is first trained on: those with the most pictures.
MONUSEG_CENTRAL = ("G9", "B0", "HE")
# Slides of the generated set: of the central place, and of each of the four others; edge, pixel, quality of the JPEG.
CENTRAL_SLIDES, LOCAL_SLIDES = 8, 6
SLIDE_PX, SLIDE_UM, SLIDE_QUALITY = 2048, 1.0, 90
# Of these, one of each place shows no tumour.
NEGATIVE_EVERY = 6

Progress = Callable[[float], None]


class Source:
    """One way to get a set.

    Attributes:
        name: what it is called on the command line.
        folder: name of the data's folder below `--data`; empty where no data are needed.
        make: puts it in order.
    """

    def __init__(self, name: str, folder: str, make: Callable[[Path, Path, Progress], StudySet]) -> None:
        self.name, self.folder, self.make = name, folder, make

    def find(self, data: Path | None) -> Path:
        """The data: `data` itself or the folder of that name in it.

        Raises:
            NotFoundError: neither is there.
        """
        if not self.folder:
            return Path()
        if data is None:
            raise BadInputError(f"the set {self.name} is read from a folder: give --data DIR")
        inside = data / self.folder
        found = inside if inside.is_dir() else data
        if not found.is_dir():
            raise NotFoundError(f"{found} does not exist")
        return found


SOURCES: Registry[Source] = Registry("set for the study")


def source(name: str, folder: str = "") -> Callable[[Callable[[Path, Path, Progress], StudySet]], Source]:
    """Decorator: enter a function `(data, folder to write to, progress) -> StudySet`."""

    def enter(make: Callable[[Path, Path, Progress], StudySet]) -> Source:
        return SOURCES.register(name)(Source(name, folder, make))

    return enter


@source("dsb2018", "dsb2018_brightfield_nuclei")
def dsb2018(data: Path, folder: Path, progress: Progress) -> StudySet:
    """Nuclei in four stains; the central one is violet. Whose a picture is was not published: each counts as one."""
    rows = _table(data / "index.csv", ("id", "domain"))
    cases = []
    for number, row in enumerate(rows):
        image, label = _picture(data, folder, row["id"], ".png")
        cases.append(StudyCase(row["id"], image, label, row["domain"], row["id"]))
        progress((number + 1) / len(rows))
    return StudySet("dsb2018", 2, NUCLEI, RGB, "violet", tuple(cases), DSB_UM, DSB_UM, 64)


@source("monuseg", "monuseg_nuclei")
def monuseg(data: Path, folder: Path, progress: Progress) -> StudySet:
    """Nuclei of 32 hospitals, most with one picture: three are central, the others one domain, divided by hospital."""
    rows = _table(data / "index.csv", ("id", "tcga_source_site"))
    cases = []
    for number, row in enumerate(rows):
        image, label = _picture(data, folder, row["id"], ".jpg")
        hospital = row["tcga_source_site"]
        is_central = hospital in MONUSEG_CENTRAL
        cases.append(
            StudyCase(
                row["id"],
                image,
                label,
                "central hospitals" if is_central else "other hospitals",
                row["id"][:12] if is_central else hospital,
                hospital,
            )
        )
        progress((number + 1) / len(rows))
    return StudySet("monuseg", 2, NUCLEI, RGB, "central hospitals", tuple(cases), MONUSEG_UM, MONUSEG_UM, 128)


@source("slides")
def slides(data: Path, folder: Path, progress: Progress) -> StudySet:
    """Slides with tumour, made by computation for five laboratories; A is the central one. Pictures of 1 µm."""
    from overread.imaging.slides.outlines import rasterise
    from overread.studies.slides.writer import make_slide

    del data
    first = next(iter(CENTRES))
    wanted = [
        (centre, number)
        for centre in CENTRES
        for number in range(CENTRAL_SLIDES if centre == first else LOCAL_SLIDES)
    ]
    cases = []
    for done, (centre, number) in enumerate(wanted):
        name = f"{centre}_{number + 1:02d}"
        image, label = folder / "images" / f"{name}.jpg", folder / "labels" / f"{name}.png"
        has_tumour = (number + 1) % NEGATIVE_EVERY != 0
        if not label.exists():
            for path in (image, label):
                path.parent.mkdir(parents=True, exist_ok=True)
            size = (SLIDE_PX, SLIDE_PX)
            seed = int(np.random.SeedSequence([sorted(CENTRES).index(centre), number]).generate_state(1)[0])
            written = folder / f"{name}.tif"
            truth = make_slide(
                written, centre=centre, size_px=size, seed=seed, um_per_px=SLIDE_UM, tumour=has_tumour
            )
            with open_slide(written) as slide:
                Image.fromarray(slide.read_into(slide.bounds, size)).save(image, quality=SLIDE_QUALITY)
                Image.fromarray(rasterise([(p, 1) for p in truth.outlines], slide.bounds, size)).save(label)
            written.unlink()
        cases.append(StudyCase(name, image, label, centre, name, "tumour" if has_tumour else "negative"))
        progress((done + 1) / len(wanted))
    return StudySet(
        "slides", 2, ("background", TUMOUR), RGB, first, tuple(cases), SLIDE_UM, SLIDE_UM, 256, has_glass=True
    )


@source("hippocampus", "hippocampus_mr3d")
def hippocampus(data: Path, folder: Path, progress: Progress) -> StudySet:
    """Hippocampi in MR, by the grey values that the files hold: thousands (central), hundreds, hundred thousands.

    Nobody published which scanner a file is of; that its values are of another size says that it was made or exported
    otherwise. Networks see values scaled by the case's own mean and deviation.
    """
    cases = []
    images = sorted((data / "images").glob("*.nii.gz"))
    for number, image in enumerate(images):
        brightest = float(read_volume((image,)).voxels.max())
        domain = (
            "thousands" if 700 <= brightest < 5e4 else "hundreds" if brightest < 700 else "hundred_thousands"
        )
        name = image.name.removesuffix(".nii.gz")
        cases.append(StudyCase(name, image, data / "labels" / image.name, domain, name))
        progress((number + 1) / len(images))
    classes = ("background", "Anterior", "Posterior")
    return StudySet("hippocampus", 3, classes, ("MR",), "thousands", _some_volumes(cases, folder))


@source("lidc", "lidc_nodule_ct3d")
def lidc(data: Path, folder: Path, progress: Progress) -> StudySet:
    """Lung nodules in CT, by how they were rated: solid and plain to see (central), solid but faint, not solid."""
    rows = _table(data / "metadata.csv", ("patient_id", "nodule_id", "Texture_value", "Subtlety_value"))
    cases = []
    for number, row in enumerate(rows):
        name = f"{row['patient_id']}_R_{row['nodule_id']}"
        image, label = (data / part / f"{name}.nii.gz" for part in ("images", "labels"))
        if image.exists() and label.exists() and row["Texture_value"] and row["Subtlety_value"]:
            is_solid, is_plain = float(row["Texture_value"]) >= 5, float(row["Subtlety_value"]) >= 4
            domain = ("plain" if is_plain else "faint") if is_solid else "not_solid"
            cases.append(StudyCase(name, image, label, domain, row["patient_id"], domain))
        progress((number + 1) / len(rows))
    return StudySet("lidc", 3, ("background", "Nodule"), ("CT",), "plain", _some_volumes(cases, folder))


def link_image(target: Path, link: Path) -> None:
    """Give an image the name of its case without copying it."""
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target.resolve())


def _table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    if not path.exists():
        raise NotFoundError(f"{path} is not there; does --data name the folder of this set?")
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if missing := [name for name in columns if rows and name not in rows[0]]:
        raise BadInputError(f"{path} has no column {missing[0]}")
    return rows


def _picture(data: Path, folder: Path, name: str, ending: str) -> tuple[Path, Path]:
    """The picture as RGB, and its instances as class 1, both in the set's folder at half the resolution."""
    image, label = folder / "images" / f"{name}{ending}", folder / "labels" / f"{name}.png"
    if not label.exists():
        for path in (image, label):
            path.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(data / "images" / f"{name}.png") as picture:
            picture.convert("RGB").reduce(SHRINK).save(image, quality=PICTURE_QUALITY)
        with Image.open(data / "masks" / f"{name}.png") as mask:
            covered = Image.fromarray((np.asarray(mask) > 0).astype(np.uint8) * 200).reduce(SHRINK)
        Image.fromarray((np.asarray(covered) >= 100).astype(np.uint8)).save(label)
    return image, label


def _some_volumes(cases: Sequence[StudyCase], folder: Path) -> tuple[StudyCase, ...]:
    """Some cases of each domain, copied to the set's folder."""
    rng = np.random.default_rng(0)
    of_domain: dict[str, list[StudyCase]] = {}
    for case in cases:
        of_domain.setdefault(case.domain, []).append(case)
    chosen = [
        group[index]
        for _, group in sorted(of_domain.items())
        for index in rng.permutation(len(group))[:MOST_VOLUMES]
    ]
    copied = []
    for case in sorted(chosen, key=lambda case: case.id):
        image, label = (folder / part / f"{case.id}.nii.gz" for part in ("images", "labels"))
        for source_file, target in ((case.image, image), (case.label, label)):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source_file, target)
        copied.append(replace(case, image=image, label=label))
    return tuple(copied)


def is_ready(folder: Path) -> bool:
    """Whether a set lies there in order."""
    return (folder / ORIGIN).exists()


def prepare_set(
    name: str,
    data: Path | None,
    folder: Path,
    progress: Progress = lambda _: None,
    central: str = "",
    apart: Sequence[Path] = (),
) -> StudySet:
    """The set of that name, made ready below `folder` once.

    Args:
        data: not needed any more once the set is ready.
        central: another central domain than the set's own.
        apart: folders that may lie among the data and are not part of them.

    Raises:
        NotFoundError, BadInputError: there is no such set, its data are not there or not as expected, or the set was
            made from other files.
    """
    made = SOURCES[name]
    marker = folder / ORIGIN
    if not is_ready(folder):
        found = made.find(data)
        folder.mkdir(parents=True, exist_ok=True)
        # Before anything is read: what changes meanwhile is noticed.
        files = stamps(files_below(found, (folder, *apart))) if made.folder else {}
        made.make(found, folder, progress).save(folder)
        origin = {"name": name, "data": str(data and data.resolve()), "files": files}
        marker.write_text(json.dumps(origin) + "\n")
    elif made.folder and data is not None:
        origin = json.loads(marker.read_text())
        if (there := origin["data"]) != str(data.resolve()):
            raise BadInputError(f"{folder} was made from {there}; give another --work for {data}")
        # Earlier versions did not keep the files.
        before = origin.get("files")
        if before is not None and (what := changes(before, files_below(made.find(data), (folder, *apart)))):
            raise BadInputError(
                f"{folder} was made from {data}, whose files are not the same any more ({what}); "
                "give another --work, where the set is made anew"
            )
    ready = StudySet.load(folder)
    return replace(ready, central=central) if central else ready
