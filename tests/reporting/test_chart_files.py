"""The report's charts as pictures beside it: each stands alone, on any ground, under a name that says what it shows."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from stillhouse.core.artifacts import CHART_LIST, CHARTS, read_json
from stillhouse.reporting.chart_files import ChartFile, charts_of, free, slug
from stillhouse.reporting.report_page import write_report
from tests.reporting import test_report, test_report_language

SVG = "{http://www.w3.org/2000/svg}"
WRITERS = {"classifiers": test_report.write_outputs, "language": test_report_language.write_outputs}


@pytest.fixture(params=list(WRITERS))
def found(request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[ChartFile]:
    monkeypatch.chdir(WRITERS[request.param](tmp_path))
    write_report("A title", tmp_path / "index.html")
    return charts_of((tmp_path / "index.html").read_text())


def drawing(plot: ChartFile) -> ET.Element:
    return ET.fromstring(plot.drawing)


def test_keys_and_titles_are_unique_and_say_what_is_shown(found):
    keys = [plot.key for plot in found]
    assert len(set(keys)) == len({plot.title for plot in found}) == len(found) >= 8
    assert all(re.fullmatch(r"[a-z][a-z0-9-]*[a-z0-9]", key) and not re.search(r"\d$", key) for key in keys), keys
    assert {
        "learning-curve-training-loss-source-task",
        "calibration-student-source-task",
        "calibration-teacher-target-task",
    } <= set(keys)


def test_every_picture_has_a_ground_a_title_and_a_legend_of_its_own(found):
    for plot in found:
        root = drawing(plot)
        ground = root.find(f"{SVG}rect")
        assert ground is not None
        width, height = root.attrib["viewBox"].split()[2:]
        assert (ground.attrib["fill"], ground.attrib["width"], ground.attrib["height"]) == ("#fff", width, height)
        words = ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]
        assert " ".join(words).startswith(plot.title)
        models = {group.get("class") for group in root.iter(f"{SVG}g")} & {"teacher", "student", "baseline", "scratch"}
        names = {"teacher": "Teacher", "student": "Student", "baseline": "Baseline", "scratch": "From scratch"}
        for model in models:
            assert names[model] in words, plot.title
        # Colours are the picture's own.
        style = "".join(style.text or "" for style in root.iter(f"{SVG}style"))
        assert "--ink" in style
        assert "--text" in style


def test_nothing_stands_outside_of_a_picture(found):
    for plot in found:
        root = drawing(plot)
        width, height = map(float, root.attrib["viewBox"].split()[2:])
        (chart,) = (element for element in root if element.tag == f"{SVG}svg")
        x, y, w, h = (float(chart.attrib[name]) for name in ("x", "y", "width", "height"))
        assert x >= 0
        assert y > 0
        assert x + w <= width
        assert y + h <= height
        own = [text for text in root.iter(f"{SVG}text") if text.get("class") in ("heading", "entry")]
        assert len(own) >= 2 or "Class balance" in plot.title
        assert all(float(text.attrib["y"]) + 4 <= y for text in own)


def test_a_title_with_signs_is_shown_as_it_is():
    page = '<style>a{}</style><svg viewBox="0 0 460 10" aria-label="F1 &lt;b&gt; &amp; more (rows)"><g></g></svg>'
    (plot,) = charts_of(page)
    assert (plot.key, plot.title) == ("f1-b-more", "F1 <b> & more (rows)")
    assert "F1 <b> & more (rows)" in ["".join(text.itertext()) for text in drawing(plot).iter(f"{SVG}text")]


def test_keys_of_equal_titles_are_told_apart():
    assert slug("(only this)") == "plot"
    assert free("a", ["a", "a-2", "b"]) == "a-3"
    page = '<svg viewBox="0 0 1 1" aria-label="X"></svg>' * 2
    assert [plot.key for plot in charts_of(page)] == ["x", "x-2"]


def test_they_lie_beside_the_page_in_its_order(tmp_path, monkeypatch):
    monkeypatch.chdir(test_report.write_outputs(tmp_path))
    write_report("A title", tmp_path / "index.html")
    listed = read_json(tmp_path / CHARTS.name / CHART_LIST)
    found = charts_of((tmp_path / "index.html").read_text())
    assert [(entry["key"], entry["title"]) for entry in listed] == [(chart.key, chart.title) for chart in found]
    assert [(tmp_path / CHARTS.name / entry["file"]).read_text() for entry in listed] == [chart.drawing for chart in found]
