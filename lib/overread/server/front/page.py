"""The first page: health, models, queue and training at a glance, and where to look at images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from overread.server.access.headers import closed_policy

STYLE = Path(__file__).with_name("front.css").read_text(encoding="utf-8")
POLICY = closed_policy(STYLE, "img-src 'self'")
REFRESH_S = 30
# More slides than that nobody looks through here.
MOST_SLIDES = 60


@dataclass(frozen=True)
class Viewer:
    """A program in which people look at images of this server.

    Attributes:
        name: of it.
        how: what to do there, in a sentence.
        path: of the page to open; empty where it is a program of its own.
    """

    name: str
    how: str
    path: str = ""


@dataclass(frozen=True)
class Model:
    """A served model as the page shows it.

    Attributes:
        name: of the recipe.
        classes: what it outlines.
        champion: the version in service.
        since: when it went into service, in UTC; empty where that is not known.
        opinions: how many networks are asked.
    """

    name: str
    classes: Sequence[str]
    champion: str
    since: str
    opinions: int


@dataclass(frozen=True)
class Facts:
    """All that the page shows.

    Attributes:
        title, version: of the app.
        address: under which the browser reached it, for viewers.
        health: from `watch.health`.
        viewers, models: see their types.
        labels: accepted labels, by recipe.
        state: from `Serving.info` and `Serving.state`.
        person: who is logged in; empty where nobody has to be.
        remembers: whether models here remember how people draw, or did.
    """

    title: str
    version: str
    address: str
    health: Mapping[str, Any]
    viewers: Sequence[Viewer]
    models: Sequence[Model]
    labels: Mapping[str, int]
    state: Mapping[str, Any]
    person: str = ""
    remembers: bool = False


def front_page(facts: Facts) -> str:
    """The page as HTML; it runs no script."""
    slides = facts.state.get("slides") or {}
    return template("front.html.j2").render(
        facts=facts,
        style=STYLE,
        refresh_s=REFRESH_S,
        troubles=[check["message"] for check in facts.health["checks"].values() if not check["ok"]],
        slides=dict(list(slides.items())[:MOST_SLIDES]),
        slides_left_out=max(0, len(slides) - MOST_SLIDES),
    )


@lru_cache
def template(name: str) -> Template:
    """One of the templates beside this file; what is filled into it is escaped."""
    files = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=files, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template(name)
