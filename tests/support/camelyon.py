"""Tiny folders in the layouts of Camelyon16 and Camelyon17."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from overread.domain.slides import PixelSize
from overread.imaging.slides.pyramid import write_pyramid

PIXELS = np.random.default_rng(5).integers(0, 256, (150, 200, 3)).astype(np.uint8)
BIG, HOLE, SMALL = (20, 30, 60, 40), (30, 40, 10, 10), (120, 100, 20, 20)
# Slides with tissue, in pixels; their tumour.
EDGE_PX, LESION = 768, (200, 240, 260, 220)


def write_slide(path: Path) -> None:
    """A pyramid of 0.25 µm."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_pyramid(path, PIXELS, PixelSize(0.25), tile=64)


def write_xml(path: Path, *boxes: tuple[str, tuple[int, int, int, int]]) -> None:
    """As ASAP writes it: the class in PartOfGroup, decimals with a point, a name that is none."""
    lines = ['<?xml version="1.0"?>', "<ASAP_Annotations>", "<Annotations>"]
    for number, (group, (x, y, width, height)) in enumerate(boxes):
        lines.append(
            f'<Annotation Name="Annotation {number}" Type="Polygon" PartOfGroup="{group}" Color="#F4FA58"><Coordinates>'
        )
        corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
        lines += [
            f'<Coordinate Order="{order}" X="{left:.4f}" Y="{top:.4f}"/>'
            for order, (left, top) in enumerate(corners)
        ]
        lines.append("</Coordinates></Annotation>")
    lines += ["</Annotations>", "<AnnotationGroups/>", "</ASAP_Annotations>"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines))


def write_camelyon16(folder: Path) -> Path:
    """Normal and tumour slides of both centres, some outlined in part, and three test slides."""
    for name in ("normal_001", "normal_101"):
        write_slide(folder / "training" / "normal" / f"{name}.tif")
    for name in ("tumor_001", "tumor_071", "tumor_110", "tumor_111"):
        write_slide(folder / "training" / "tumor" / f"{name}.tif")
    lesions = folder / "training" / "lesion_annotations"
    write_xml(lesions / "tumor_001.xml", ("_0", BIG), ("_1", SMALL), ("_2", HOLE))
    for name in ("tumor_071", "tumor_110", "tumor_111"):
        write_xml(lesions / f"{name}.xml", ("Tumor", BIG), ("Exclusion", HOLE))
    for name in ("test_001", "test_002", "test_003"):
        write_slide(folder / "testing" / "images" / f"{name}.tif")
    for name in ("test_001", "test_003"):
        write_xml(folder / "testing" / "lesion_annotations" / f"{name}.xml", ("Tumor", SMALL))
    reference = "test_001,Tumor,IDC,Macro\ntest_002,Normal,None,None\ntest_003,Tumor,IDC,Micro\n"
    (folder / "testing" / "reference.csv").write_text(reference)
    return folder


def write_camelyon17(folder: Path) -> Path:
    """Slides of three centres and all kinds, one with a lesion that nobody outlined, and one of the test part."""
    stages = ["patient,stage", "patient_004.zip,pN1mi", "patient_039.zip,pN0(i+)"]
    kinds = {"patient_004_node_0": "negative", "patient_004_node_4": "micro", "patient_004_node_3": "macro"}
    kinds |= {"patient_039_node_1": "itc", "patient_099_node_4": "macro"}
    for name, kind in kinds.items():
        centre = int(name[8:11]) // 20
        write_slide(folder / "training" / f"center_{centre}" / f"{name}.tif")
        stages.append(f"{name}.tif,{kind}")
    for name in ("patient_004_node_4", "patient_039_node_1", "patient_099_node_4"):
        write_xml(
            folder / "training" / "lesion_annotations" / f"{name}.xml", ("metastases", BIG), ("normal", HOLE)
        )
    write_slide(folder / "testing" / "patient_140_node_0.tif")
    (folder / "training" / "stage_labels.csv").write_text("\n".join(stages) + "\n")
    return folder


def write_tissue(path: Path, seed: int, ink: tuple[int, int, int], tumour: bool) -> None:
    """A pyramid of 0.25 µm, 192 µm wide: glass round stained tissue, and a dark square of tumour in it."""
    rng = np.random.default_rng(seed)
    picture = np.full((EDGE_PX, EDGE_PX, 3), 244.0)
    picture[64:-64, 64:-64] = ink
    if tumour:
        x, y, width, height = LESION
        picture[y : y + height, x : x + width] = np.array(ink) * 0.6
    # Of 8 pixels, so that the levels keep it.
    noise = rng.normal(0, 8, (EDGE_PX // 8, EDGE_PX // 8, 1)).repeat(8, axis=0).repeat(8, axis=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_pyramid(path, (picture + noise).clip(0, 255).astype(np.uint8), PixelSize(0.25), tile=128)


def write_both_camelyons(folder: Path) -> Path:
    """Enough to learn from and to judge by: RUMC of Camelyon16 and two centres of Camelyon17, each with its stain."""
    first = folder / "CAMELYON16" / "training"
    for number in range(1, 7):
        kind, name = ("tumor", f"tumor_{number:03d}") if number > 2 else ("normal", f"normal_{number:03d}")
        write_tissue(first / kind / f"{name}.tif", number, (200, 120, 180), kind == "tumor")
        if kind == "tumor":
            write_xml(first / "lesion_annotations" / f"{name}.xml", ("Tumor", LESION))
    second = folder / "CAMELYON17" / "training"
    stages = ["patient,stage"]
    for centre, ink in ((0, (160, 130, 200)), (1, (210, 150, 160))):
        for patient in range(20 * centre, 20 * centre + 4):
            name = f"patient_{patient:03d}_node_{patient % 5}"
            tumour = patient % 4 != 0
            write_tissue(second / f"center_{centre}" / f"{name}.tif", 100 + patient, ink, tumour)
            if tumour:
                write_xml(second / "lesion_annotations" / f"{name}.xml", ("metastases", LESION))
            stages += [f"patient_{patient:03d}.zip,pN1", f"{name}.tif,{'macro' if tumour else 'negative'}"]
    (second / "stage_labels.csv").write_text("\n".join(stages) + "\n")
    return folder
