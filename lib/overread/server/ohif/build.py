"""OHIF's files, from the build inside MONAI Label: a panel that knows its server, an export, no word to others."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path, PurePosixPath

import monailabel

from overread.domain import NotFoundError

BUILD = Path(monailabel.__file__).resolve().parent / "endpoints" / "static" / "ohif"
INDEX, CONFIGURATION = "index.html", "app-config.js"
# The build's pages fetch a typeface from the internet; without it the browser takes one of its own.
TYPEFACE = re.compile(r"""<link[^>]*fonts\.g[^>]*>|@import\s+url\([^)]*fonts\.g[^)]*\)[^;]*;""")
# The panel takes its server's address from this cookie, which all ports of a host share, and else port 8000.
PANEL_SERVER = 'document.cookie = "MONAILABEL_SERVER_URL=" + escape(window.location.origin + "/");\n'
ADDED = tuple(Path(__file__).with_name(name) for name in ("colours.js", "export.js"))


def built_file(path: str) -> Path:
    """The build's file at an address; the viewer's page itself for the addresses that it makes up.

    Raises:
        NotFoundError: an address that names a file which is not in the build.
    """
    if path in _files():
        return _files()[path]
    if PurePosixPath(path).suffix:
        raise NotFoundError(f"OHIF's build has no file {path!r}")
    return BUILD / INDEX


@lru_cache
def _files() -> dict[str, Path]:
    """The build's files by their address. What a client sends is looked up here and never becomes a path."""
    return {file.relative_to(BUILD).as_posix(): file for file in BUILD.rglob("*") if file.is_file()}


def is_mended(file: Path) -> bool:
    """Whether a file is served otherwise than it lies in the build."""
    return file.suffix in (".html", ".css") or file.name == CONFIGURATION


@lru_cache
def mended(file: Path) -> str:
    """A page, style sheet or the configuration as it is served."""
    text = TYPEFACE.sub("", file.read_text(encoding="utf-8"))
    if file.name != CONFIGURATION:
        return text
    return text + PANEL_SERVER + "".join(script.read_text(encoding="utf-8") for script in ADDED)
