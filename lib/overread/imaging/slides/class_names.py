"""What classes are called in QuPath, and their colours there."""

from __future__ import annotations

import colorsys
import zlib
from collections.abc import Mapping

# The first four are QuPath's own, which it keeps whatever is sent.
DEFAULT_COLOURS: Mapping[str, str] = {
    "Tumor": "#c80000",
    "Stroma": "#96c896",
    "Immune cells": "#a05aa0",
    "Necrosis": "#323232",
    "doubt high": "#e619ab",
    "doubt moderate": "#ffb000",
}


def name_in_qupath(name: str) -> str:
    """What a class is called in QuPath.

    QuPath takes `doubt: high` for a class `high` derived from `doubt`, and its extension then replaces and submits
    it as `high`: no colons, no line breaks, no characters that XML lacks.
    """
    return " ".join("".join(sign if sign.isprintable() else " " for sign in name.replace(":", " ")).split())


def colour_of(name: str) -> str:
    """Colour `#rrggbb` of a class: always the same for one name."""
    name = name_in_qupath(name)
    if name in DEFAULT_COLOURS:
        return DEFAULT_COLOURS[name]
    hue = zlib.crc32(name.encode()) / 2**32
    return "#" + "".join(f"{round(255 * share):02x}" for share in colorsys.hsv_to_rgb(hue, 0.7, 0.85))
