"""A report as one HTML file that needs nothing beside it: tables, and plots inside."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from overread.studies.sheets import Sheet

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1b1f24;background:#fff;margin:0 auto;
padding:24px 28px 80px;max-width:1180px}
h1{font-size:26px;margin:0 0 4px}h2{font-size:21px;margin:44px 0 6px;border-top:2px solid #1b1f24;padding-top:14px}
h3{font-size:16px;margin:30px 0 4px}p{margin:6px 0;max-width:84ch}p.note{color:#57606a;font-size:13px}
nav a{margin-right:14px}code{background:#f3f4f6;padding:1px 4px;border-radius:3px;overflow-wrap:anywhere}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:13px;margin:8px 0;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:4px 12px 4px 0;border-bottom:1px solid #d8dee4;vertical-align:top;white-space:nowrap}
thead th{border-bottom:2px solid #57606a}tbody th{font-weight:600}
td.met,td.missed,td.open{white-space:normal;min-width:110px}
td.met{color:#116329;font-weight:600}td.missed{color:#a40e26;font-weight:600}td.open{color:#7d4e00}
figure{margin:14px 0}img{max-width:100%;height:auto}figcaption{font-size:13px;color:#57606a;max-width:84ch}
"""


@dataclass(frozen=True)
class Plot:
    """A picture file with what it shows."""

    path: Path
    caption: str


@dataclass(frozen=True)
class Chapter:
    """One set: what was done, what came out in sentences, plots and tables."""

    title: str
    facts: Sequence[tuple[str, str]]
    sentences: Sequence[str]
    plots: Sequence[Plot]
    sheets: Sequence[Sheet]


def html(title: str, chapters: Sequence[Chapter]) -> str:
    """The whole page."""
    links = "".join(
        f'<a href="#set{number}">{escape(chapter.title)}</a>' for number, chapter in enumerate(chapters)
    )
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
            f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
            f"<h1>{escape(title)}</h1>",
            f"<nav>{links}</nav>" if len(chapters) > 1 else "",
            *(_chapter(number, chapter) for number, chapter in enumerate(chapters)),
            "</body></html>",
            "",
        ]
    )


def _chapter(number: int, chapter: Chapter) -> str:
    facts = [
        (name, f"<code>{escape(text)}</code>" if name == "command" else escape(text))
        for name, text in chapter.facts
    ]
    return "\n".join(
        [
            f'<section id="set{number}"><h2>{escape(chapter.title)}</h2>',
            "<p>" + " · ".join(f"{escape(name)}: {text}" for name, text in facts) + "</p>",
            "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in chapter.sentences) + "</ul>",
            *map(_table, chapter.sheets[:1]),
            *map(_figure, chapter.plots),
            *map(_table, chapter.sheets[1:]),
            "</section>",
        ]
    )


def _figure(plot: Plot) -> str:
    data = base64.b64encode(plot.path.read_bytes()).decode()
    caption = escape(plot.caption)
    image = f'<img alt="{caption}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _table(sheet: Sheet) -> str:
    head = "".join(f'<th scope="col">{_inline(name)}</th>' for name in sheet.columns)
    rows = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(map(_cell, row[1:]))}</tr>' for row in sheet.rows
    )
    return (
        f"<h3>{escape(sheet.title)}</h3>"
        + (f'<p class="note">{_inline(sheet.note)}</p>' if sheet.note else "")
        + f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _cell(text: str) -> str:
    word = text.partition(":")[0]
    kind = f' class="{word}"' if word in ("met", "missed", "open") else ""
    return f"<td{kind}>{escape(text)}</td>"


def _inline(text: str) -> str:
    """What stands between backticks is code, as in Markdown."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))
