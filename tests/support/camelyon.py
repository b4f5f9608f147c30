"""Tiny folders in the layouts of Camelyon16 and Camelyon17."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from overread.domain.slides import PixelSize
from overread.imaging.slides.pyramid import write_pyramid

PIXELS = np.random.default_rng(5).integers(0, 256, (150, 200, 3)).astype(np.uint8)
BIG, HOLE, SMALL = (20, 30, 60, 40), (30, 40, 10, 10), (120, 100, 20, 20)


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
