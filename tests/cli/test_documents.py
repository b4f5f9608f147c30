"""What the documents tell to type and to open is there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import typer

from overread.cli import app

PROJECT = Path(__file__).parents[2]
PLACES = ("*.md", "*/README.md", "docs/*.md", "docs/results/*.md")
DOCUMENTS = sorted(path for place in PLACES for path in PROJECT.glob(place))
named = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(PROJECT).as_posix())


def headings(text: str) -> set[str]:
    """Anchors of the headings, as GitHub makes them."""
    titles = re.findall(r"(?m)^#+ (.+)$", text)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@named
def test_links_lead_somewhere(document: Path):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", document.read_text()):
        if target.startswith("http"):
            continue
        file = document.parent / target if target else document
        assert file.exists(), f"{document.name} names {target}"
        assert not anchor or anchor in headings(file.read_text()), f"{document.name} names {target}#{anchor}"


@named
def test_commands_are_offered_and_options_known(document: Path):
    offered = typer.main.get_command(app)
    # One line, whatever it was broken into.
    text = document.read_text().replace("\\\n", " ")
    typed = re.findall(r"(?m)^(?:\s*|.*`)overread ([a-z][^`\n#]*)", text)
    for words in (line.split() for line in typed):
        command = offered
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        assert command is not offered, f"there is no `overread {' '.join(words)}`"
        options = {
            name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)
        }
        unknown = {word.split("=")[0] for word in words if word.startswith("--")} - options - {"--help"}
        assert not unknown, f"`overread {command.name}` has no {unknown}"


@named
def test_modules_to_run_are_there(document: Path):
    for module in re.findall(r"python -m (overread[\w.]+)", document.read_text()):
        assert importlib.util.find_spec(module) is not None, module
