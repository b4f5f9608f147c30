"""The report of the study needs nothing beside it and tells the bad news as well."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from overread.domain import BadInputError
from overread.studies.uga.report import write_report
from support.uga_results import study_of

pytestmark = pytest.mark.slow


class Reader(HTMLParser):
    """Collects what a browser would fetch, and whether all that was opened is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets: one of pictures, one of volumes with little to win, both with awkward names."""
    folder = tmp_path_factory.mktemp("report")
    pictures = study_of(
        noise=0.002, forgetting={"uga": 0.03}, patches=12, seeds=(0, 1, 2), name="stains <of 3> & more"
    )
    volumes = study_of(
        levels={"violet": (0.8, 0.8), "grey": (0.5, 0.52)}, patches=0, seeds=(0, 1), name="volumes"
    )
    volumes["study"] |= {"um_per_px": None, "patch_px": None}
    volumes["gate"] = volumes["doubt"] = []
    write_report([pictures, volumes], folder)
    return folder


def tables(folder: Path, of: int = 0) -> dict[str, list[list[str]]]:
    """Tables of a set in `results.md` by title: rows of cells."""
    chapter = (folder / "results.md").read_text(encoding="utf-8").split("\n## ")[of]
    found: dict[str, list[list[str]]] = {}
    title = ""
    for line in chapter.splitlines():
        if match := re.fullmatch(r"\*\*(.*)\*\*", line):
            title = match[1]
        elif line.startswith("|") and not line.startswith("|---"):
            found.setdefault(title, []).append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def row(table: list[list[str]], *begins: str) -> dict[str, str]:
    """The row whose first cells are these, by column."""
    (found,) = [each for each in table if tuple(each[: len(begins)]) == begins]
    return dict(zip(table[0], found, strict=True))


def test_the_page_is_whole_and_fetches_nothing(written: Path):
    page = (written / "report.html").read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    outside = [link for link in reader.fetched if not link.startswith(("data:image/png;base64,", "#set"))]
    assert outside == []
    # Curves, domains and kinds of both sets, and two measures of the first.
    assert sum(link.startswith("data:") for link in reader.fetched) == 8
    assert "stains &lt;of 3&gt; &amp; more" in page
    assert "url(" not in page
    assert "<script" not in page


def test_every_plot_beside_the_tables_is_a_picture_that_shows_something(written: Path):
    named = re.findall(r"!\[.+\]\((.+\.png)\)", (written / "results.md").read_text(encoding="utf-8"))
    assert sorted(named) == sorted(path.name for path in written.glob("*.png"))
    assert "stains_of_3_more-curves.png" in named
    for name in named:
        with Image.open(written / name) as picture:
            assert min(picture.size) > 300
            colours = picture.convert("RGB").getcolors(maxcolors=2**20)
            assert colours is not None
            assert len(colours) > 50


def test_verdicts_name_what_was_met_and_what_was_missed(written: Path):
    goals = tables(written)["Goals"]
    assert goals[0] == ["goal", "where", "uga", "clasp_pe"]
    closed = row(goals, "closes 60% of the gap, 10 asked", "grey")
    assert closed["clasp_pe"].startswith("met: 8")
    assert closed["uga"].startswith(("missed: 39%", "missed: 40%", "missed: 41%"))
    assert row(goals, "0.02 Dice ahead of random, 5 asked", "pooled")["uga"].startswith("missed: -0.0")
    assert row(goals, "central Dice falls by 0.01 at most, 10 asked", "violet")["uga"].startswith(
        "missed: -0.03"
    )
    narrow = row(tables(written, 1)["Goals"], "closes 60% of the gap, 10 asked", "grey")
    assert narrow["clasp_pe"].startswith("open: the gap is 0.0")


def test_tables_hold_the_numbers_of_the_study(written: Path):
    found = tables(written)
    # 0.5 in the mean of all cases (0.3, 0.54 and 0.62 on the way), of which eight were drawn.
    area = row(found["Area under Dice against what is asked (AUBC)"], "clasp_pe")["grey"]
    assert float(area.split()[0]) == pytest.approx(0.5, abs=0.03)
    ahead = found["Ahead of random, in Dice"]
    assert row(ahead, "clasp_pe", "5")["grey"].endswith("better")
    assert row(ahead, "uga", "5")["grey"].endswith("worse")
    cost = row(found["Budget: what was labelled, mean over 3 seeds"], "uga", "10", "pooled")
    assert (cost["patches"], cost["mm²"], cost["share of tissue"]) == ("20.0", "0.08", "10.0%")
    doubt = row(
        found["What doubt is worth, mean over 3 seeds [95 % of the mean, Student's t]"], "uga", "0", "grey"
    )
    assert doubt["AURC"].startswith("0.0200")
    assert doubt["errors in `doubt: high`"] == "60.0% in 4.0%"
    assert row(found["Trainings that the gate let pass"], "uga", "10")["promoted"] == "2 of 3"
    contests = found["Wins / ties / losses of the row against the column"]
    assert row(contests, "clasp_pe")["random"] == "6 / 0 / 0"
    closed = found["Share of the gap between no labels and all labels that is closed"]
    assert row(closed, "hed", "–")["grey"].startswith(("9%", "10%", "11%"))
    assert row(found["mm² called a structure on cases that hold none, mean a case"], "uga", "5")["grey"] == (
        "0.500 [0.500, 0.500]"
    )
    by_kind = row(found["Dice by class of case, local domains, 10 asked in each"], "all")
    assert set(by_kind) == {"arm", "macro", "micro"}


def test_volumes_are_counted_as_cases_and_nothing_is_shown_that_was_not_measured(written: Path):
    found = tables(written, 1)
    assert found["Budget: what was labelled, mean over 2 seeds"][0][3:5] == ["cases", "mm³"]
    titles = " ".join(found)
    assert "gate" not in titles
    assert "Spearman" not in titles
    assert "Share of the gap" not in titles
    text = (written / "results.md").read_text(encoding="utf-8")
    assert "hardly a gap: asking can win little" in text
    assert "cases asked in a domain: 0, 5, 10" in text


def test_one_set_need_not_be_a_list_and_two_of_one_name_are_refused(tmp_path: Path):
    results = study_of(seeds=(0,), patches=0, shares={"uga": (0.2, 0.4)})
    results["study"]["seeds"] = [0, 1]
    write_report(results, tmp_path)
    assert "seeds not finished, left out: 1" in (tmp_path / "results.md").read_text(encoding="utf-8")
    with pytest.raises(BadInputError, match="two of the sets three stains, three stains have one name"):
        write_report([results, results], tmp_path)
