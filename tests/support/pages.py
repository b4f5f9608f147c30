"""HTML as its readers see it."""

from __future__ import annotations

from html.parser import HTMLParser


class Text(HTMLParser):
    """What people read of a page, and what the browser fetches."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [str(value) for name, value in attrs if name in ("src", "href", "action")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def read(self) -> str:
        """The text in one line."""
        return " ".join(" ".join(self.words).split())
