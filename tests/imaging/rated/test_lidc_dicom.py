"""LIDC as TCIA hands it out: DICOM and XML become one mask a reader, in slices, crops and volumes."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from overread.domain import BadInputError, NotFoundError
from overread.imaging.rated import RatedDataset, check_rated, read_rated
from overread.imaging.rated.lidc_dicom import nodules, outlined
from overread.imaging.rated.lidc_xml import Contour, Mark, Reading, read_lidc_xml
from support.rated import lidc_xml, ring, roi_xml, write_slice

SERIES = "1.2.3"
PATIENT = "LIDC-IDRI-0001"
# Pixels along x and y; stored values say where a pixel lies.
WIDE, HIGH = 40, 30
PIXELS = np.arange(WIDE)[:, None] + 100 * np.arange(HIGH)[None]
# Five slices, 2 mm apart; the first file is the highest.
HEIGHTS_MM = (-100.0, -102.0, -104.0, -106.0, -108.0)


def uid(z_mm: float, series: str = SERIES) -> str:
    return f"{series}.{int(-z_mm)}"


def write_scan(folder: Path, series: str = SERIES, patient: str = PATIENT, **changes: object) -> None:
    for index, z_mm in enumerate(HEIGHTS_MM):
        path = folder / f"{index:06d}.dcm"
        write_slice(path, PIXELS, uid=uid(z_mm, series), series=series, patient=patient, z_mm=z_mm, **changes)


def nodule(x: tuple[int, int], y: tuple[int, int], *heights_mm: float, series: str = SERIES) -> list[str]:
    """The same rectangle outlined in some slices."""
    return [roi_xml(uid(z_mm, series), z_mm, ring(x, y)) for z_mm in heights_mm]


# Two readers outlined one nodule, the second smaller and in one slice more; the third another; the fourth none.
SESSIONS = [
    [nodule((10, 16), (5, 9), -102.0, -104.0)],
    [nodule((11, 15), (5, 8), -102.0, -104.0, -106.0)],
    [nodule((30, 34), (20, 26), -104.0)],
    [],
]


def write_study(folder: Path, sessions=SESSIONS) -> Path:
    place = folder / PATIENT / "study" / "series"
    write_scan(place)
    (place / "069.xml").write_text(lidc_xml(SERIES, sessions))
    return folder


def case(dataset: RatedDataset, name: str):
    return next(case for case in dataset.cases if case.id == name)


def test_a_mask_is_what_an_outline_encloses_without_the_outline(tmp_path: Path):
    write_study(tmp_path)
    image = case(read_rated(tmp_path, cut="slice"), f"{PATIENT}_z-102").read()
    expected = np.zeros((WIDE, HIGH), bool)
    expected[11:16, 6:9] = True
    assert image.raters == ("reader1", "reader2", "reader3", "reader4")
    assert np.array_equal(image.masks[0], expected)
    expected[:] = False
    expected[12:15, 6:8] = True
    assert np.array_equal(image.masks[1], expected)
    assert not image.masks[2:].any()


def test_pictures_are_x_y_in_hounsfield_units(tmp_path: Path):
    image = read_rated(write_study(tmp_path), cut="slice").cases[0].read()
    assert np.array_equal(image.image[0], PIXELS - 1000)
    # Columns lie 0.5 mm apart, rows 0.7 mm.
    assert image.spacing_mm == (0.5, 0.7)


def test_slices_are_those_that_anybody_outlined(tmp_path: Path):
    dataset = read_rated(write_study(tmp_path), cut="slice")
    assert [c.id for c in dataset.cases] == [f"{PATIENT}_z-{z}" for z in (102, 104, 106)]
    assert dataset.patients == (PATIENT,)
    assert not dataset.same_raters
    both = case(dataset, f"{PATIENT}_z-104").read()
    assert both.masks.any(axis=(1, 2)).tolist() == [True, True, True, False]
    assert check_rated(dataset) == []


def test_crops_lie_around_each_nodule_of_each_slice(tmp_path: Path):
    dataset = read_rated(write_study(tmp_path), crop_mm=7.0)
    # The first nodule reaches lowest.
    assert [c.id for c in dataset.cases] == [
        f"{PATIENT}_n1_z-102",
        f"{PATIENT}_n1_z-104",
        f"{PATIENT}_n1_z-106",
        f"{PATIENT}_n2_z-104",
    ]
    image = case(dataset, f"{PATIENT}_n1_z-102").read()
    # 7 mm are 14 columns and 10 rows; the outlines reach from 10 to 16 and from 5 to 9.
    assert image.image.shape == (1, 14, 10)
    assert image.image[0, 0, 0] == PIXELS[6, 2] - 1000
    assert image.masks[0].sum() == 5 * 3
    # In the last slice the second reader is alone: the first looked there and marked nothing.
    alone = case(dataset, f"{PATIENT}_n1_z-106").read()
    assert alone.masks.any(axis=(1, 2)).tolist() == [False, True, False, False]


def test_a_crop_moves_where_it_would_leave_the_slice(tmp_path: Path):
    image = case(read_rated(write_study(tmp_path), crop_mm=14.0), f"{PATIENT}_n2_z-104").read()
    assert image.image.shape == (1, 28, 20)
    assert image.image[0, -1, -1] == PIXELS[-1, -1] - 1000
    assert image.masks[2].sum() == 3 * 5
    whole = read_rated(tmp_path).cases[0].read()
    assert whole.image.shape == (1, WIDE, HIGH)


def test_volumes_hold_a_nodule_from_foot_to_head(tmp_path: Path):
    dataset = read_rated(write_study(tmp_path), cut="volume", margin_mm=2.0)
    assert [c.id for c in dataset.cases] == [f"{PATIENT}_n1", f"{PATIENT}_n2"]
    image = dataset.cases[0].read()
    # Slices -108 to -100; 2 mm are 4 columns and 3 rows around 10..16 and 5..9.
    assert image.image.shape == (1, 15, 11, 5)
    assert image.spacing_mm == (0.5, 0.7, 2.0)
    # To the left, to the back, to the head.
    assert image.grid is not None
    assert np.diag(image.grid.affine).tolist() == [-0.5, -0.7, 2.0, 1.0]
    assert image.masks[0].any(axis=(0, 1)).tolist() == [False, False, True, True, False]
    assert image.masks[1].any(axis=(0, 1)).tolist() == [False, True, True, True, False]
    flat = read_rated(tmp_path, cut="volume", margin_mm=0.0).cases[1].read()
    assert flat.image.shape[-1] == 1
    assert flat.spacing_mm is None


def test_what_is_cut_out_of_a_nodule_is_not_marked(tmp_path: Path):
    hole = roi_xml(uid(-102.0), -102.0, ring((12, 15), (6, 8)), "FALSE")
    sessions = [[[hole, *nodule((10, 18), (4, 10), -102.0)]]]
    image = read_rated(write_study(tmp_path, sessions), cut="slice").cases[0].read()
    expected = np.zeros((WIDE, HIGH), bool)
    expected[11:18, 5:10] = True
    expected[13:15, 7:8] = False
    assert np.array_equal(image.masks[0], expected)


def test_small_nodules_and_empty_outlines_make_no_case(tmp_path: Path):
    dot = [roi_xml(uid(-100.0), -100.0, [(20, 20)])]
    line = [roi_xml(uid(-108.0), -108.0, [(20, 20), (21, 20), (22, 20)])]
    sessions = [[dot, line, nodule((10, 16), (5, 9), -102.0)]]
    assert [c.id for c in read_rated(write_study(tmp_path, sessions), cut="slice").cases] == [
        f"{PATIENT}_z-102"
    ]


def test_an_outline_may_skip_pixels_and_leave_the_slice():
    diamond = Contour("1", 0.0, ((0, -2), (4, 2), (0, 6), (-4, 2)), True)
    assert diamond.inside().sum() == 25
    reading = Reading("1", 1, (Mark(0, (diamond,)),))
    mask = outlined(reading, 0, "1", (3, 4))
    assert mask.tolist() == [[True] * 4, [True] * 4, [False, True, True, True]]


def test_outlines_are_of_one_nodule_where_their_boxes_overlap_in_a_slice():
    def mark(reader: int, x: tuple[int, int], *slices: str) -> Mark:
        return Mark(reader, tuple(Contour(s, float(s), tuple(ring(x, (0, 4))), True) for s in slices))

    first, second, third = mark(0, (0, 4), "1"), mark(1, (3, 8), "1", "2"), mark(2, (7, 12), "2", "3")
    elsewhere, later = mark(3, (20, 24), "1"), mark(3, (0, 4), "9")
    grouped = nodules(Reading("1", 4, (first, elsewhere, third, later, second)))
    assert grouped == ((first, second, third), (elsewhere,), (later,))


def test_xml_may_lie_apart_and_names_its_series(tmp_path: Path, caplog):
    write_scan(tmp_path / "dicom" / "a")
    write_scan(tmp_path / "dicom" / "b", series="9.9", Modality="DX")
    xml = tmp_path / "tcia-lidc-xml" / "157"
    xml.mkdir(parents=True)
    (xml / "158.xml").write_text(lidc_xml(SERIES, SESSIONS))
    (xml / "159.xml").write_text(lidc_xml("7.7", SESSIONS))
    (xml / "160.xml").write_text("<IdriReadMessage><!-- no LidcReadMessage --></IdriReadMessage>")
    with caplog.at_level(logging.INFO):
        assert len(read_rated(tmp_path, cut="slice").cases) == 3
    assert "2 XML files in" in caplog.text


def test_two_scans_of_a_patient_are_told_apart(tmp_path: Path):
    for series in ("1.1", "1.2"):
        write_scan(tmp_path / series, series=series)
        (tmp_path / series / "x.xml").write_text(
            lidc_xml(series, [[nodule((10, 16), (5, 9), -102.0, series=series)]])
        )
    dataset = read_rated(tmp_path)
    assert [c.id for c in dataset.cases] == [f"{PATIENT}_scan{k}_n1_z-102" for k in (1, 2)]
    assert dataset.patients == (PATIENT,)


def test_a_slice_that_is_outlined_and_not_there_is_told(tmp_path: Path):
    dataset = read_rated(write_study(tmp_path), cut="volume")
    (tmp_path / PATIENT / "study" / "series" / "000001.dcm").unlink()
    (tmp_path / PATIENT / "study" / "series" / "000003.dcm").unlink()
    assert [(p.case, p.file, p.what) for p in check_rated(dataset)] == [
        (f"{PATIENT}_n1", "series", "lacks the slice at z -106 mm that 069.xml outlines"),
        (f"{PATIENT}_n1", "series", "lacks the slice at z -102 mm that 069.xml outlines"),
    ]
    with pytest.raises(BadInputError, match="series lacks the slice at z -106 mm"):
        dataset.cases[0].read()


def test_files_that_break_are_told_by_name(tmp_path: Path):
    write_study(tmp_path)
    place = tmp_path / PATIENT / "study" / "series"
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.dcm").write_bytes(b"no DICOM")
    write_slice(
        tmp_path / "bare" / "b.dcm", PIXELS, uid="5.1", series="5", patient="p", z_mm=0.0, PixelSpacing=None
    )
    (place / "bad.xml").write_text('<LidcReadMessage xmlns="http://www.nih.gov">')
    dataset = read_rated(tmp_path, cut="slice")
    strays = {problem.file: problem.what for problem in dataset.strays}
    assert "is no DICOM file" in strays["a.dcm"]
    assert "does not say where its pixels lie" in strays["b.dcm"]
    assert "cannot be read" in strays["bad.xml"]
    assert set(strays) == {"a.dcm", "b.dcm", "bad.xml"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ImagePositionPatient": None}, r"000001\.dcm does not say where it lies \(ImagePositionPatient\)"),
        ({"PixelData": b"\0\0"}, r"000001\.dcm cannot be read"),
    ],
)
def test_a_slice_without_place_or_pixels_is_told(tmp_path: Path, changes, message):
    dataset = read_rated(write_study(tmp_path), cut="slice")
    path = tmp_path / PATIENT / "study" / "series" / "000001.dcm"
    write_slice(path, PIXELS, uid=uid(-102.0), series=SERIES, patient=PATIENT, z_mm=-102.0, **changes)
    with pytest.raises(BadInputError, match=message):
        dataset.cases[0].read()


def test_slices_of_different_sizes_are_no_volume(tmp_path: Path):
    dataset = read_rated(write_study(tmp_path), cut="volume")
    path = tmp_path / PATIENT / "study" / "series" / "000000.dcm"
    write_slice(path, PIXELS[:-1], uid=uid(-100.0), series=SERIES, patient=PATIENT, z_mm=-100.0)
    with pytest.raises(BadInputError, match=r"000000\.dcm is \(39, 30\), the first slice \(40, 30\)"):
        dataset.cases[0].read()


def test_xml_that_changed_after_listing_is_told(tmp_path: Path):
    dataset = read_rated(write_study(tmp_path), cut="slice")
    (tmp_path / PATIENT / "study" / "series" / "069.xml").write_text("<IdriReadMessage/>")
    read_lidc_xml.cache_clear()
    with pytest.raises(BadInputError, match=r"069\.xml holds no LidcReadMessage"):
        dataset.cases[0].read()


@pytest.mark.parametrize(
    ("roi", "message"),
    [
        ("<roi><imageZposition>1</imageZposition></roi>", "a roi lacks imageSOP_UID"),
        ("<roi><edgeMap><xCoord>1</xCoord></edgeMap></roi>", "an edgeMap lacks xCoord or yCoord"),
        ("<roi><edgeMap><xCoord>1</xCoord><yCoord>b</yCoord></edgeMap></roi>", "invalid literal"),
    ],
)
def test_outlines_that_cannot_be_placed_are_refused(tmp_path: Path, roi: str, message: str):
    path = tmp_path / "a.xml"
    path.write_text(lidc_xml(SERIES, [[[roi]]]))
    with pytest.raises(BadInputError, match=rf"a\.xml is no complete LidcReadMessage: {message}"):
        read_lidc_xml(path)


def test_xml_without_a_series_is_refused(tmp_path: Path):
    path = tmp_path / "a.xml"
    path.write_text("<LidcReadMessage/>")
    with pytest.raises(BadInputError, match="SeriesInstanceUid is missing"):
        read_lidc_xml(path)


def test_what_was_asked_wrongly_is_told(tmp_path: Path):
    write_study(tmp_path)
    with pytest.raises(BadInputError, match="no cut 'patch'; there are crop, slice, volume"):
        read_rated(tmp_path, cut="patch")
    with pytest.raises(BadInputError, match="an edge above 0 mm"):
        read_rated(tmp_path, crop_mm=0.0)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.xml").write_text(lidc_xml("7.7", []))
    with pytest.raises(
        NotFoundError, match=r"no XML names a CT series that is here \(1 XML files, 0 series\)"
    ):
        read_rated(tmp_path / "other")
