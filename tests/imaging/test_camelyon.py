"""Camelyon16 and 17 are read from a folder as they are published, and all that is wrong with it is told at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import tifffile

from overread.domain import BadInputError, NotFoundError
from overread.imaging.dataset import BrokenDatasetError
from overread.imaging.labelled import (
    LabelledSlides,
    check_slides,
    ensure_slides_sound,
    read_camelyon,
)
from support.camelyon import (
    BIG,
    PIXELS,
    SMALL,
    write_camelyon16,
    write_camelyon17,
    write_slide,
    write_xml,
)


def problems_of(slides: LabelledSlides) -> dict[tuple[str, str], str]:
    return {(problem.case, problem.file): problem.what for problem in check_slides(slides)}


def test_camelyon16_tells_centre_kind_part_and_lesions(tmp_path: Path):
    slides = read_camelyon(write_camelyon16(tmp_path))
    assert (slides.name, slides.centres) == ("Camelyon16", ("RUMC", "UMCU"))
    assert [(s.id, s.centre, s.kind, s.subset) for s in slides.slides] == [
        ("normal_001", "RUMC", "negative", "training"),
        ("normal_101", "UMCU", "negative", "training"),
        ("test_001", "", "macro", "testing"),
        ("test_002", "", "negative", "testing"),
        ("test_003", "", "micro", "testing"),
        ("tumor_001", "RUMC", "tumour", "training"),
        ("tumor_071", "UMCU", "tumour", "training"),
        ("tumor_110", "UMCU", "tumour", "training"),
        ("tumor_111", "RUMC", "tumour", "training"),
    ]
    assert all(slide.patient == slide.id for slide in slides.slides)
    assert check_slides(slides) == []
    # Not exhaustive by its README.
    assert "tumor_110" not in [slide.id for slide in slides.labelled().slides]
    of = {slide.id: slide.outlines() for slide in slides.slides}
    assert of["normal_001"] == of["test_002"] == []
    assert sorted(outline.polygon.area for outline in of["tumor_001"]) == [20 * 20, 60 * 40 - 10 * 10]
    assert [(outline.name, outline.polygon.area) for outline in of["tumor_111"]] == [("Tumor", 2300)]
    assert of["tumor_111"][0].polygon.bounds == (20, 30, 80, 70)


def test_camelyon17_tells_centre_by_patient_and_does_not_take_silence_for_health(tmp_path: Path):
    slides = read_camelyon(write_camelyon17(tmp_path))
    assert slides.name == "Camelyon17"
    assert [(s.id, s.patient, s.centre, s.kind, s.is_labelled) for s in slides.slides] == [
        ("patient_004_node_0", "patient_004", "centre_0", "negative", True),
        # A lesion that nobody outlined.
        ("patient_004_node_3", "patient_004", "centre_0", "macro", False),
        ("patient_004_node_4", "patient_004", "centre_0", "micro", True),
        ("patient_039_node_1", "patient_039", "centre_1", "itc", True),
        ("patient_099_node_4", "patient_099", "centre_4", "macro", True),
        ("patient_140_node_0", "patient_140", "centre_2", "", False),
    ]
    assert slides.slides[-1].subset == "testing"
    assert check_slides(slides) == []
    # Isolated cells are not outlined exhaustively.
    assert [slide.id for slide in slides.labelled().slides] == [
        "patient_004_node_0",
        "patient_004_node_4",
        "patient_099_node_4",
    ]
    assert "patient_039_node_1" in [slide.id for slide in slides.labelled(exhaustively=False).slides]
    assert [slide.id for slide in slides.of_centre("centre_4").slides] == ["patient_099_node_4"]
    (lesion,) = slides.slides[2].outlines()
    assert lesion.polygon.area == 60 * 40 - 10 * 10
    with pytest.raises(
        BadInputError, match="patient_004_node_3 has no outlines and is not known to be negative"
    ):
        slides.slides[1].outlines()
    with pytest.raises(NotFoundError, match="no centre 'centre_3'; there are centre_0, centre_1, centre_2"):
        slides.of_centre("centre_3")


def test_both_in_one_folder_and_the_flat_layout_of_today_are_read_alike(tmp_path: Path):
    write_camelyon16(tmp_path / "CAMELYON16")
    write_camelyon17(tmp_path / "CAMELYON17")
    both = read_camelyon(tmp_path)
    assert both.name == "Camelyon16 and Camelyon17"
    assert both.centres == ("RUMC", "UMCU", "centre_0", "centre_1", "centre_2", "centre_4")
    flat = tmp_path / "flat"
    for old in sorted((tmp_path / "CAMELYON17").rglob("*")):
        new = {".tif": "images", ".xml": "annotations"}.get(old.suffix)
        if new:
            (flat / new).mkdir(parents=True, exist_ok=True)
            old.rename(flat / new / old.name)
    (tmp_path / "CAMELYON17" / "training" / "stage_labels.csv").rename(flat / "stages.csv")
    again = {slide.id: (slide.centre, slide.kind, slide.is_labelled) for slide in read_camelyon(flat).slides}
    then = {slide.id: (slide.centre, slide.kind, slide.is_labelled) for slide in both.slides}
    assert again == {name: facts for name, facts in then.items() if name.startswith("patient")}


def test_what_was_withdrawn_is_left_out(tmp_path: Path):
    write_camelyon16(tmp_path)
    write_slide(tmp_path / "training" / "normal" / "normal_086.tif")
    write_slide(tmp_path / "testing" / "images" / "Test_049.tif")
    ids = [slide.id for slide in read_camelyon(tmp_path).slides]
    assert "tumor_111" in ids
    assert not {"normal_086", "test_049"} & set(ids)


def test_everything_wrong_with_camelyon16_is_told_at_once(tmp_path: Path):
    write_camelyon16(tmp_path)
    lesions = tmp_path / "training" / "lesion_annotations"
    (tmp_path / "training" / "normal" / "normal_001.tif").write_bytes(b"not a slide")
    tifffile.imwrite(
        tmp_path / "training" / "normal" / "normal_101.tif", PIXELS, tile=(64, 64), photometric="rgb"
    )
    write_slide(tmp_path / "again" / "Tumor_001.tif")
    (lesions / "tumor_071.xml").unlink()
    write_xml(lesions / "tumor_110.xml", ("Tumor", BIG), ("None", SMALL))
    write_xml(lesions / "tumor_111.xml", ("Tumor", (900, 900, 10, 10)), ("Tumor", (800, 900, 10, 10)))
    write_xml(lesions / "tumor_007.xml", ("Tumor", BIG))
    write_xml(tmp_path / "testing" / "lesion_annotations" / "test_002.xml", ("Tumor", BIG))
    write_xml(tmp_path / "testing" / "lesion_annotations" / "test_001.xml")
    (tmp_path / "testing" / "lesion_annotations" / "test_003.xml").write_text("<ASAP")
    reference = "test_001,Tumor\ntest_002,Normal\ntest_003,Perhaps\nslide 4,Tumor\n"
    (tmp_path / "testing" / "reference.csv").write_text(reference)
    slides = read_camelyon(tmp_path)
    found = problems_of(slides)
    wanted = {
        ("normal_001", "normal_001.tif"): "cannot be read",
        ("normal_101", "normal_101.tif"): "does not say how large its pixels are",
        (
            "tumor_001",
            "tumor_001.tif",
        ): "lies there twice, as again/Tumor_001.tif and as training/tumor/tumor_001.tif",
        ("tumor_071", "tumor_071.tif"): "tumor_071.xml is not there; is lesion_annotations.zip unpacked",
        (
            "tumor_110",
            "tumor_110.xml",
        ): "has annotations of 'Annotation 1'; expected the groups _0, _1, Tumor",
        (
            "tumor_111",
            "tumor_111.xml",
        ): "x 900 to 910, y 900 to 910, and 1 more, lie outside the slide of 200 x 150",
        ("tumor_007", "training/lesion_annotations/tumor_007.xml"): "outlines a slide that is not there",
        ("test_002", "test_002.xml"): "outlines something, but the slide is published as negative",
        ("test_001", "test_001.xml"): "outlines nothing, but the slide is published with a lesion (tumour)",
        ("test_003", "test_003.xml"): "the annotations are no XML",
        ("test_003", "reference.csv"): "line 3 says 'Perhaps', expected Tumor or Normal",
        ("", "reference.csv"): "line 4 names no slide: 'slide 4'",
    }
    assert found.keys() == wanted.keys()
    for place, words in wanted.items():
        assert words in found[place]
    with pytest.raises(BrokenDatasetError, match="dataset Camelyon16 has 12 problems"):
        ensure_slides_sound(slides)
    with pytest.raises(BadInputError, match=r"tumor_110.xml has annotations of 'Annotation 1'"):
        next(slide for slide in slides.slides if slide.id == "tumor_110").outlines()


def test_everything_wrong_with_camelyon17_is_told_at_once(tmp_path: Path):
    write_camelyon17(tmp_path)
    write_slide(tmp_path / "training" / "center_0" / "patient_021_node_2.tif")
    (tmp_path / "training" / "lesion_annotations" / "patient_004_node_4.xml").write_text(
        "<ASAP_Annotations/>"
    )
    write_xml(tmp_path / "training" / "lesion_annotations" / "patient_008_node_0.xml", ("metastases", BIG))
    table = tmp_path / "training" / "stage_labels.csv"
    table.write_text(table.read_text() + "patient_021_node_2.tif,huge\nslide_7.tif,negative\n")
    found = problems_of(read_camelyon(tmp_path))
    wanted = {
        (
            "patient_021_node_2",
            "patient_021_node_2.tif",
        ): "a folder of centre 0, but patient 021 is of centre 1",
        ("patient_021_node_2", "stage_labels.csv"): "says 'huge', expected negative, itc, micro or macro",
        ("", "stage_labels.csv"): "names no slide and no patient: 'slide_7.tif'",
        ("patient_004_node_4", "patient_004_node_4.xml"): "holds no <Annotations>",
        (
            "patient_008_node_0",
            "training/lesion_annotations/patient_008_node_0.xml",
        ): "a slide that is not there",
    }
    assert found.keys() == wanted.keys()
    for place, words in wanted.items():
        assert words in found[place]


def test_tables_that_are_missing_or_none_are_told(tmp_path: Path):
    write_camelyon17(tmp_path / "17")
    table = tmp_path / "17" / "training" / "stage_labels.csv"
    table.write_text("slide,kind\n")
    (problem,) = read_camelyon(tmp_path / "17").strays
    assert problem.what == "begins with ['slide', 'kind'], expected patient,stage"
    table.unlink()
    (problem,) = read_camelyon(tmp_path / "17").strays
    assert (problem.file, problem.what) == (
        "stages.csv or stage_labels.csv",
        "is not there: which slides are negative is not known",
    )
    write_camelyon16(tmp_path / "16")
    (tmp_path / "16" / "testing" / "reference.csv").unlink()
    (problem,) = read_camelyon(tmp_path / "16").strays
    assert problem.file == "reference.csv"
    table.write_bytes(b"patient,stage\n\xff")
    with pytest.raises(BadInputError, match=r"stage_labels.csv cannot be read"):
        read_camelyon(tmp_path / "17")


def test_a_folder_without_such_slides_is_named(tmp_path: Path):
    with pytest.raises(NotFoundError, match="is not a folder"):
        read_camelyon(tmp_path / "nowhere")
    with pytest.raises(NotFoundError, match=r"holds no slide named as in Camelyon16 .*node_0.tif\)$"):
        read_camelyon(tmp_path)
    (tmp_path / "patient_000.zip").write_bytes(b"")
    with pytest.raises(NotFoundError, match=r"; unpack patient_000.zip and the like"):
        read_camelyon(tmp_path)
    with pytest.raises(NotFoundError, match="dataset x holds no slide"):
        LabelledSlides("x", ())


def test_two_slides_of_one_name_are_refused(tmp_path: Path):
    slides = read_camelyon(write_camelyon16(tmp_path)).slides
    with pytest.raises(BadInputError, match="several slides of the name normal_001"):
        LabelledSlides("x", (slides[0], slides[0]))
