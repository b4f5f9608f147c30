"""How commands are told where several people's labels lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from overread.imaging.rated import RatedDataset

AUTO = "auto"

LayoutOption = Annotated[
    str,
    typer.Option(help="Layout of a folder of cases that several people labelled; `auto` recognises it."),
]
LayoutOptionsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="KEY=VALUE",
        help="Option of the layout, such as `task=2` or `structure=disc`; may be given several times.",
        show_default=False,
    ),
]


def rated_in(data: Path, layout: str, option: Sequence[str] | None) -> RatedDataset:
    """The cases of a folder. Raises as `read_rated`; also BadInputError: an option that is not KEY=VALUE."""
    from overread.imaging.rated import read_rated

    return read_rated(data, layout, **layout_options(option))


def layout_options(option: Sequence[str] | None) -> dict[str, Any]:
    """Options as a layout takes them. Raises BadInputError: one that is not KEY=VALUE."""
    from overread.domain import BadInputError

    pairs = {text: text.partition("=") for text in option or []}
    if bad := [text for text, (key, sign, _) in pairs.items() if not key or not sign]:
        raise BadInputError(f"--option {bad[0]!r} is not KEY=VALUE, such as task=2")
    return {key: _value(value) for key, _, value in pairs.values()}


def _value(text: str) -> Any:
    """A number or a truth value where the text is one."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
