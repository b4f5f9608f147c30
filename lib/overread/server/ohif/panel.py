"""What OHIF's MONAI Label panel is told, and what it shows of an answer, where it differs from 3D Slicer.

As the panel of the build in monailabel 0.8.5 works:

- it gets no label names with an answer, and looks values up in what `/info/` said;
- `Auto-Segmentation` lists models of type `segmentation`, sends no clicks, and shows an answer whole;
- `Point Prompts` lists models of type `deepedit`, cannot ask before there is a click, and takes from an answer only
  the labels that were clicked on: other values become background, so that regions and bands would be holes in a class;
- it never looks `background` up but gives it the value of its place among the labels that were clicked on, and what
  has that value is painted as background.

So a model that takes turns is listed twice: for its points, and as a whole answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

from overread.server.labels import BACKGROUND
from overread.server.overlays import OVERLAY_NAMES

# Where the viewer's pages are.
PREFIX = "/ohif"
WHOLE_SUFFIX = " (whole answer)"
# A parameter that the panel sends with each inference, and nobody else does.
SIGN = "restore_label_idx"

Panel = Literal["points", "whole"]
POINTS: Panel = "points"
WHOLE: Panel = "whole"


def is_panel(referer: str) -> bool:
    """Whether a request comes from the viewer's page; its panel says nothing else of itself."""
    return urlsplit(referer).path.startswith(f"{PREFIX}/")


def asked_model(model: str, params: Mapping[str, Any]) -> tuple[str, Panel | None]:
    """The model that is meant, and as what the panel will show the answer; None for other clients."""
    if SIGN not in params:
        return model, None
    if model.endswith(WHOLE_SUFFIX):
        return model.removesuffix(WHOLE_SUFFIX), WHOLE
    return model, POINTS


def info_for_panel(info: Mapping[str, Any]) -> dict[str, Any]:
    """What `/info/` tells the panel."""
    models: dict[str, Any] = {}
    for name, model in info["models"].items():
        if model["type"] == "deepedit":
            options = {key: value for key, value in model["config"].items() if key != "markups"}
            models[name] = model | {"labels": clickable(model["labels"]), "config": {}}
            models[name + WHOLE_SUFFIX] = model | {"type": "segmentation", "config": options}
        else:
            models[name] = model
    return {**info, "models": models}


def clickable(values: Mapping[str, int]) -> dict[str, int]:
    """The labels that points are put on: classes, and the background with a value that no voxel has."""
    classes = {name: value for name, value in values.items() if name not in OVERLAY_NAMES}
    return classes | {BACKGROUND: max(values.values()) + 1}
