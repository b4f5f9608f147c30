"""QuPath finds in the files what the outlines say: classes, colours, holes."""

import json
import re

import pytest
from defusedxml import ElementTree
from shapely.geometry import Polygon, box, shape

from overread.domain.errors import BadInputError
from overread.imaging.slides.annotations import colour_of, name_in_qupath, read_asap, to_asap, to_geojson
from overread.imaging.slides.outlines import Outline

RING = Polygon(box(0, 0, 100, 100).exterior, [box(20, 30, 40, 50).exterior, box(60, 20, 80, 90).exterior])


def test_each_outline_is_an_annotation_with_one_ring_that_leaves_its_holes_out() -> None:
    root = ElementTree.fromstring(to_asap([Outline("Tumor", RING), Outline("Tumor", box(1.25, 2.5, 3, 4))]))
    assert root.tag == "ASAP_Annotations"
    annotations = root.findall("Annotations/Annotation")
    assert [dict(each.attrib) for each in annotations] == 2 * [
        {"Name": "Tumor", "Type": "Polygon", "PartOfGroup": "Tumor", "Color": "#c80000"}
    ]
    assert [[child.tag for child in each] for each in annotations] == 2 * [["Coordinates"]]
    second = annotations[1].findall("Coordinates/Coordinate")
    assert [point.get("Order") for point in second] == ["0", "1", "2", "3"]
    assert {(point.get("X"), point.get("Y")) for point in second} == {
        ("1.25", "2.5"), ("1.25", "4"), ("3", "2.5"), ("3", "4"),
    }  # fmt: skip
    assert root.find("AnnotationGroups/Group").get("Color") == "#c80000"


def test_what_is_written_as_asap_reads_back_with_its_holes() -> None:
    (back,) = read_asap(to_asap([Outline("Tumor", RING)])).annotations
    assert back.polygon.equals(RING)
    assert (back.name, back.colour) == ("Tumor", "#c80000")


def test_names_are_escaped() -> None:
    name = 'Tumor <5 % & "mixed" \'s'
    (back,) = read_asap(to_asap([Outline(name, RING)], {name: "#0000FF"})).annotations
    assert back.name == name
    assert back.colour == "#0000ff"


def test_no_outlines_are_a_valid_file() -> None:
    assert read_asap(to_asap([])).annotations == ()
    assert to_geojson([]) == {"type": "FeatureCollection", "features": []}


def test_names_are_such_as_qupath_keeps_in_one_piece() -> None:
    assert name_in_qupath("doubt: high") == "doubt high"
    assert name_in_qupath(" a\n\x00b ") == "a b"
    assert b'Name="doubt high"' in to_asap([Outline("doubt: high", RING)])


def test_a_class_has_always_the_same_colour_and_bands_of_doubt_their_own() -> None:
    assert colour_of("Tumor") == "#c80000"
    assert colour_of("doubt: high") == colour_of("doubt high") != colour_of("doubt: moderate")
    assert colour_of("gland") == colour_of("gland") != colour_of("vessel")
    assert re.fullmatch("#[0-9a-f]{6}", colour_of("gland"))


def test_geojson_features_carry_what_qupath_asks_for() -> None:
    collection = json.loads(
        json.dumps(to_geojson([Outline("doubt: high", RING)], {"doubt: high": "#010aff"}))
    )
    assert collection["type"] == "FeatureCollection"
    (feature,) = collection["features"]
    assert feature["type"] == "Feature"
    assert feature["properties"] == {
        "objectType": "annotation",
        "classification": {"name": "doubt high", "color": [1, 10, 255]},
        "isLocked": False,
    }
    assert feature["geometry"]["type"] == "Polygon"
    assert shape(feature["geometry"]).equals(RING)


def test_refuses_colours_that_qupath_could_not_read() -> None:
    with pytest.raises(BadInputError, match="colour 'red' of 'Tumor' is no #rrggbb"):
        to_asap([Outline("Tumor", RING)], {"Tumor": "red"})
