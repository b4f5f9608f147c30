"""Camelyon16, Camelyon17, or a folder that holds both, as they are published (camelyon17.grand-challenge.org/Data).

What is known of them: their READMEs, and Litjens et al. 2018 (GigaScience 7, giy065). Slides are found by their
names wherever they lie below the folder, so that the folders of the earlier downloads (`training/tumor`, `training/
center_0`, `lesion_annotations`) and those of the present one (`images`, `annotations`) are read alike, and so is a
part of the slides. Nobody of this project has seen the files themselves.
"""

from __future__ import annotations

from pathlib import Path

from overread.domain import NotFoundError
from overread.imaging.labelled.camelyon16 import find_camelyon16
from overread.imaging.labelled.camelyon17 import find_camelyon17
from overread.imaging.labelled.dataset import LabelledSlides


def read_camelyon(folder: Path) -> LabelledSlides:
    """List the slides with their centre, patient, kind and outlines. Opens no slide; bad files are strays.

    Centres are `RUMC` and `UMCU` in Camelyon16, as far as they were published, and `centre_0` … `centre_4` in
    Camelyon17.

    Raises:
        NotFoundError: no folder, or no slide of either in it.
        BadInputError: a table that cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotFoundError(f"{folder} is not a folder")
    slides16, strays16 = find_camelyon16(folder)
    slides17, strays17 = find_camelyon17(folder)
    if not slides16 and not slides17:
        packed = next(iter(sorted(folder.rglob("*.zip"))), None)
        hint = f"; unpack {packed.name} and the like" if packed else ""
        raise NotFoundError(
            f"{folder} holds no slide named as in Camelyon16 (normal_001.tif, tumor_001.tif, test_001.tif) or "
            f"Camelyon17 (patient_000_node_0.tif){hint}"
        )
    name = " and ".join(
        title for title, slides in (("Camelyon16", slides16), ("Camelyon17", slides17)) if slides
    )
    return LabelledSlides(name, (*slides16, *slides17), (*strays16, *strays17))
