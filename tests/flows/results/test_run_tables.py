"""The runs of a clone as a table in a terminal, as a page and in Markdown."""

import re
from html.parser import HTMLParser

import pytest

from flows.results.rows import RunRow, rows_of
from flows.results.run_tables import markdown, table_lines, wrapped, write_page
from tests.helpers.clone_of_runs import NATS, PARAMS, Clone, with_student


def rows_for_forms(clone: Clone) -> list[RunRow]:
    clone.experiment("a-run-with-quite-a-long-name-that-says-what-it-is-about", with_student(temperature=4.0, weight=0.25))
    made = clone.experiment("odd", PARAMS | {"seed": 5})
    clone.git("tag", "-a", "-m", "x", "student@v1.2.3", made)
    clone.experiment("language", PARAMS | {"kind": "causal_lm", "seed": 6}, {**NATS, "lead_over_scratch": 0.3})
    return rows_of(clone.root)


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160, 200, 250])
def test_the_table_fits_every_terminal_and_hides_nothing_that_matters(clone, width):
    lines = table_lines(rows_for_forms(clone), width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert text.count("Classifiers") == text.count("Language models") == 1
    assert "0.8000" in text
    assert "1.0000" in text
    whole = re.sub(r"\s+", "", text)
    assert "train_student.distillation.temperature" in whole or width < 100
    if width >= 200:
        assert re.search(
            r"odd +recipe tiny +\S+ +saved +0\.8000 +0\.750-0\.850 +\+2\.0 +1\.23 MB +0\.50 +2 min +v1\.2\.3", text
        )


def test_lines_break_in_names_and_not_in_short_words():
    assert wrapped("train_student.distillation.temperature 2.0 -> 4", 24) == [
        "train_student.",
        "distillation.temperature",
        "2.0 -> 4",
    ]
    assert wrapped("a" * 30, 12) == ["a" * 12, "a" * 12, "a" * 6]
    assert wrapped("", 10) == [""]


class Cells(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


def test_the_page_stands_alone_and_links_to_the_reports_that_are_kept(clone):
    rows = rows_for_forms(clone)
    (clone.root / "reports").mkdir()
    (clone.root / "reports" / "odd.html").write_text("")
    page = write_page(rows_of(clone.root), clone.root).read_text()
    cells = Cells()
    cells.feed(page)
    assert cells.links == ["odd.html"]
    assert not re.search(r"<script|@import|url\(", page)
    for words in ("Runs of clone", "odd", "tiny", "train_student.distillation.temperature", "2.0 → 4.0", "v1.2.3", "1.0000"):
        assert words in " ".join(cells.words), words
    assert len(rows) == page.count("<tr>") - 2


def test_markdown_keeps_its_columns_whatever_a_name_holds(clone):
    clone.experiment("odd", {**PARAMS, "title": "a|b"})
    (clone.root / "reports").mkdir()
    (clone.root / "reports" / "odd.html").write_text("")
    lines = markdown(rows_of(clone.root), lambda report: f"http://127.0.0.1/{report}").splitlines()
    assert lines[0] == "## Classifiers"
    columns = lines[2].count("|")
    row = next(line for line in lines if "[odd](http://127.0.0.1/reports/odd.html)" in line)
    assert row.replace("\\|", "").count("|") == columns
    assert "title none -> a\\|b" in row
