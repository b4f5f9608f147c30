"""What QuPath submits is read and repaired, or refused with a sentence that says what to do."""

import math

import pytest
from shapely.geometry import MultiPolygon, Polygon, box

from overread.domain.errors import BadInputError
from overread.domain.slides import Region
from overread.imaging.slides.annotations import Submitted, SubmittedAnnotation, read_asap, usable

SQUARE = "0,0 10,0 10,10 0,10"
SLIDE = Region(0, 0, 1000, 500)


def annotation(points: str, name: str = "Tumor", colour: str = "#c80000", kind: str = "Polygon") -> str:
    """As the extension writes one; points are `x,y x,y`, decimals after a point."""
    coordinates = "".join(
        '<Coordinate Order="{}" X="{}" Y="{}"/>'.format(order, *point.split(","))
        for order, point in enumerate(points.split())
    )
    return (
        f'<Annotation Color="{colour}" Name="{name}" PartOfGroup="{name}" Type="{kind}">'
        f"<Coordinates>{coordinates}</Coordinates></Annotation>"
    )


def submission(*annotations: str, box: str = 'X="0" Y="0" W="0" H="0"') -> bytes:
    head = '<?xml version="1.0" encoding="UTF-8" standalone="no"?><ASAP_Annotations>'
    listed = f'<Annotations Description="" Name="" {box}>{"".join(annotations)}</Annotations>'
    return f"{head}{listed}<AnnotationGroups/></ASAP_Annotations>".encode()


def drawn(polygon: Polygon | MultiPolygon, name: str = "Tumor") -> Submitted:
    return Submitted(None, (SubmittedAnnotation(name, "#c80000", polygon),))


def test_a_whole_slide_has_no_rectangle_and_its_objects_keep_their_order() -> None:
    found = read_asap(
        submission(annotation(SQUARE), annotation("5,5 9,5 9,9", name="Stroma", colour="#96c896"))
    )
    assert found.roi is None
    assert [(each.name, each.colour) for each in found.annotations] == [
        ("Tumor", "#c80000"),
        ("Stroma", "#96c896"),
    ]
    assert found.annotations[0].polygon.equals(box(0, 0, 10, 10))


def test_a_patch_names_its_rectangle_and_moves_to_its_place_on_the_slide() -> None:
    found = read_asap(submission(annotation(SQUARE), box='X="300" Y="40" W="256" H="128"'))
    assert found.roi == Region(300, 40, 256, 128)
    assert found.moved(300, 40).annotations[0].polygon.equals(box(300, 40, 310, 50))


def test_a_shape_of_several_rings_keeps_its_hole_and_its_parts() -> None:
    rings = f"{SQUARE} 0,0 2,2 8,2 8,8 2,8 2,2 20,0 25,0 25,5 20,0"
    (found,) = read_asap(submission(annotation(rings, kind="Geometry"))).annotations
    assert found.polygon.area == 100 - 36 + 12.5


def test_an_ellipse_is_round_again() -> None:
    (found,) = read_asap(submission(annotation("50,0 100,20 50,40 0,20", kind="Ellipse"))).annotations
    assert found.polygon.area == pytest.approx(math.pi * 50 * 20, rel=1e-3)


def test_a_ring_that_crosses_itself_is_repaired() -> None:
    (found,) = read_asap(submission(annotation("0,0 2,2 2,0 0,2"))).annotations
    assert found.polygon.is_valid
    assert found.polygon.area == 2


def test_objects_without_area_are_left_out_and_named() -> None:
    line = annotation("0,0 5,5", kind="Line")
    found = read_asap(submission(annotation(SQUARE), line, annotation("3,3 3,3 3,3")))
    assert len(found.annotations) == 1
    assert found.left_out == (
        "annotation 2 ('Tumor') has no area and was left out",
        "annotation 3 ('Tumor') has no area and was left out",
    )


def test_decimals_may_follow_a_comma() -> None:
    xml = submission(annotation(SQUARE)).replace(b'X="10"', b'X="10,5"')
    assert read_asap(xml).annotations[0].polygon.area == 105


def test_asaps_own_files_name_the_class_as_a_group() -> None:
    xml = submission(annotation(SQUARE)).replace(b' Name="Tumor"', b' Name="Annotation 0"')
    assert read_asap(xml).annotations[0].name == "Tumor"
    assert (
        read_asap(xml.replace(b'PartOfGroup="Tumor"', b'PartOfGroup="None"')).annotations[0].name
        == "Annotation 0"
    )


@pytest.mark.parametrize(
    ("sent", "colour"),
    [("#64FE2E", "#64fe2e"), ("64fe2e", "#64fe2e"), ("#ff64fe2e", "#64fe2e"), ("-65536", "#ff0000"),
     ("", "#c80000"), ("red", "#c80000")],
)  # fmt: skip
def test_colours_are_read_however_java_writes_them_and_else_are_the_class_own(sent: str, colour: str) -> None:
    assert read_asap(submission(annotation(SQUARE, colour=sent))).annotations[0].colour == colour


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "the annotations are no XML: no element found"),
        (submission(annotation(SQUARE))[:-30], "the annotations are no XML"),
        (b'<?xml version="1.0" encoding="klingon"?><a/>', "the annotations are no XML"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><Annotations/>', "document type or entities of their own"),
        (b"<html/>", "<html> holds no <Annotations>"),
        (submission(annotation("0,0 5,5")), r"annotation 1 \('Tumor'\) has 2 points; expected 3 or more"),
        (submission(annotation(SQUARE, name="")), "annotation 1 has no class; give it one in QuPath"),
        (submission(annotation("0,0 a,0 1,1")), r"X of a point of annotation 1 \('Tumor'\) is 'a'"),
        (submission(annotation("0,0 1,nan 1,1")), r"Y of a point of annotation 1 \('Tumor'\) is 'nan'"),
        (submission(annotation(SQUARE)).replace(b' Y="10"', b""), r"Y of a point .* is None"),
        (submission(annotation(SQUARE), box='X="0" Y="0" W="wide" H="0"'), "the W of the patch is 'wide'"),
    ],
)
def test_refuses_what_cannot_be_read(data: bytes, sentence: str) -> None:
    with pytest.raises(BadInputError, match=sentence):
        read_asap(data)


def test_classes_are_called_as_the_model_calls_them() -> None:
    found = usable(drawn(box(0, 0, 10, 10), "TUMOR high"), ["tumor: high", "stroma"], SLIDE)
    assert [each.name for each in found.annotations] == ["tumor: high"]


def test_objects_of_classes_that_do_not_count_are_passed_over() -> None:
    assert usable(drawn(box(0, 0, 9, 9), "doubt high"), ["Tumor"], SLIDE, ["doubt: high"]).annotations == ()


def test_unknown_classes_are_named_once_each_with_those_that_are_known() -> None:
    objects = drawn(box(0, 0, 9, 9), "Fat").annotations + drawn(box(0, 0, 9, 9), "Vein").annotations
    with pytest.raises(BadInputError, match="unknown class 'Fat', 'Vein'; expected 'Stroma', 'Tumor': give"):
        usable(Submitted(None, objects + objects), ["Tumor", "Stroma"], SLIDE)


def test_what_hangs_over_the_border_is_cut_off() -> None:
    (found,) = usable(drawn(box(990, 490, 1005, 500)), ["Tumor"], SLIDE).annotations
    assert found.polygon.equals(box(990, 490, 1000, 500))


@pytest.mark.parametrize("place", [box(2000, 0, 2100, 100), box(-60, 0, 40, 100), box(900, 600, 950, 700)])
def test_what_lies_outside_the_slide_is_refused(place: Polygon) -> None:
    with pytest.raises(BadInputError, match=r"'Tumor' at x .* lies outside the slide, which has x 0 to 1000"):
        usable(drawn(place), ["Tumor"], SLIDE)


def test_an_object_that_the_border_cuts_in_two_is_one_object_of_two_parts() -> None:
    u_turn = Polygon([(10, 400), (30, 400), (30, 505), (70, 505), (70, 400), (90, 400), (90, 510), (10, 510)])
    (found,) = usable(drawn(u_turn), ["Tumor"], SLIDE).annotations
    assert isinstance(found.polygon, MultiPolygon)
    assert found.polygon.area == 2 * 20 * 100
