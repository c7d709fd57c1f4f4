"""The report fetches nothing, holds the figures it was given, and tells the truth whichever way they fall."""

import json
import re
from html import unescape
from pathlib import Path

import pandas as pd
import pytest

from stillhouse.core.artifacts import write_json
from stillhouse.core.errors import ArtifactError
from stillhouse.core.shipped import RIVALS
from stillhouse.reporting.charts import ClassScores, f1_chart, spread, tag, ticks
from stillhouse.reporting.findings import compared, points, size_of
from stillhouse.reporting.report_parts import duration
from tests.helpers.report_pages import (
    ROOT,
    SHIPPED,
    Balance,
    headlines,
    import_labels_in,
    page_of,
    words_of,
    write_common,
    write_table,
)

ROWS = 200
# Right answers of 200. Models are right on a common run of texts, so differences are as sure as they can be.
BETTER = {"teacher": 180, "student": 170, "baseline": 120, "linear": 100}
NEW = {"teacher": 150, "student": 140, "scratch": 90, "linear": 80}


def write_outputs(
    folder: Path,
    source: dict[str, int] = BETTER,
    new: dict[str, int] = NEW,
    labels: tuple[str, ...] = ("NA", "sr", "ar"),
    text: str = "Добар дан",
) -> Path:
    """What the stages before `report` leave in `folder`, with `source` and `new` right answers of 200 by each model."""
    data = write_common(folder, ROOT / "params.yaml")
    counts = {"train_rows": 1000, "validation_rows": ROWS, "test_rows": ROWS, "withheld_labels": 0, "truncated_share": 0.1}
    write_json(data / "preprocess" / "statistics.json", {"source": counts, "new": counts})

    metrics = {}
    for task, right, rival in (("source", source, "baseline"), ("new", new, "scratch")):
        metrics[task] = {name: scores_of(name, number / ROWS) for name, number in right.items()}
        lead = metrics[task]["student"]["accuracy"] - metrics[task][rival]["accuracy"]
        ends = {f"lead_over_{rival}_low": lead - 0.04, f"lead_over_{rival}_high": lead + 0.04}
        metrics[task]["student"] |= {f"lead_over_{rival}": lead, **ends}
        gap = metrics[task]["teacher"]["accuracy"] - metrics[task][rival]["accuracy"]
        if gap > 0:
            metrics[task]["student"]["gap_closed"] = lead / gap
        answers = {name: ["yes"] * number + ["no"] * (ROWS - number) for name, number in right.items()}
        table = pd.DataFrame({"id": [str(i) for i in range(ROWS)], "actual": ["yes"] * ROWS, **answers})
        table.to_parquet(data / "evaluate" / "tables" / f"predictions_{task}.parquet", index=False)
        (data / "preprocess" / task).mkdir(exist_ok=True)
        write_table(data / "preprocess" / task / "class_counts.csv", {"label": labels, "train": range(1, len(labels) + 1)})
    write_json(data / "evaluate" / "metrics.json", metrics)
    speed = {f"source_{name}_{key}": value for name in source for key, value in (("latency_ms", 0.5), ("rows_per_second", 900))}
    write_json(data / "evaluate" / "timing.json", {"seconds": 3.0, **speed, "source_teacher_latency_ms": 1.5})
    for task in SHIPPED.tasks:
        tables(data / "evaluate" / SHIPPED.details(task), labels, text, RIVALS[task])
    belief = {"label": labels, "belief_in_itself": [0, *[0.8] * (len(labels) - 1)]}
    nearest = {"nearest_1": labels[::-1], "belief_1": [0, *[0.1] * (len(labels) - 1)]}
    write_table(data / "evaluate" / "tables" / "nearest_classes.csv", belief | nearest)

    figures = {"rows": 1000, "agreement_with_labels": 0.9, "mean_entropy_nats": 0.3}
    write_json(data / "export_soft_labels" / "metrics.json", figures)
    shipped = {"bytes": 1000, "rows_compared": ROWS, "same_answer": 1.0, "largest_difference": 1e-6}
    write_json(data / "export_model" / "metrics.json", shipped)
    return folder


def scores_of(model: str, accuracy: float) -> dict[str, float]:
    interval = {f"{name}_{end}": accuracy for name in ("accuracy", "macro_f1") for end in ("low", "high")}
    shared = {"accuracy": accuracy, "macro_f1": accuracy, "parameters": 5_000_000 if model in ("teacher", "linear") else 40_000}
    if model == "linear":
        return shared | interval
    size = {"bytes": shared["parameters"] * 4}
    return shared | interval | size | {"nll": 0.777, "ece": 0.042, "agreement": 0.876, "kl_from_teacher": 0.1}


def tables(folder: Path, labels: tuple[str, ...], text: str, rival: str) -> None:
    """The CSV tables of `evaluate` about one task: the first class has neither test nor labelled training rows."""
    size = len(labels)
    scores = {f"f1_{name}": ["", *[0.5] * (size - 1)] for name in ("teacher", "student", rival)}
    write_table(folder / "per_class.csv", {"label": labels, "test_rows": [0, *[5] * (size - 1)]} | scores)
    pair = {"actual": [labels[0]], "predicted": [labels[1]], "errors": [3], "share_of_class": [0.6]}
    write_table(folder / "most_confused.csv", pair)
    answers = {"teacher": [labels[0]], "student": [labels[0]], rival: [labels[1]], "confidence": [0.7]}
    example = {"kind": [f"student right, {rival} wrong"], "id": ["1"], "text": [text], "actual": [labels[0]]}
    write_table(folder / "examples.csv", example | answers)


def test_page_fetches_nothing_and_is_well_formed(tmp_path, monkeypatch):
    page = page_of(write_outputs(tmp_path), monkeypatch)
    parser = Balance()
    parser.feed(page)
    assert not parser.open
    assert not parser.attributes & {"src", "href", "xlink:href", "srcset", "onclick", "onload"}
    assert not re.search(r"<script|<link|@import|url\(", page)


def test_page_holds_the_figures_of_the_metrics(tmp_path, monkeypatch):
    words = words_of(page_of(write_outputs(tmp_path), monkeypatch))
    scores = json.loads((tmp_path / "data/evaluate/metrics.json").read_text())
    for row in (*scores["source"].values(), *scores["new"].values()):
        assert f"{100 * row['accuracy']:.1f} %" in words
    for figure in ("0.777", "0.042", "87.6 %", "5,000,000", "40,000", "20 MB", "0.16 MB", "0.50 ms", "900"):
        assert figure in words
    assert "train_teacher.training.optimizer.learning_rate" in words
    assert "a" * 64 in words
    assert "8 min 45 s" in words, "eight stages of 65.2 s and one of 3 s"


def test_headline_names_what_the_teacher_bought(tmp_path, monkeypatch):
    page = page_of(write_outputs(tmp_path), monkeypatch)
    said = headlines(page)
    assert said.startswith("The teacher made the student 25.0 points better.")
    assert "It closes 83 % of the gap to the teacher, which reaches 90.0 %." in words_of(page)
    assert "Against the teacher, the student lost 5.0 points." in said
    assert "The student is 125 times smaller than the teacher and 3.0 times faster." in said
    assert "starting from the student is worth 25.0 points" in said
    assert "The student is ahead of a linear model on both tasks." in said


def test_headline_tells_that_the_student_is_worse_than_the_baseline(tmp_path, monkeypatch):
    folder = write_outputs(tmp_path, source=BETTER | {"student": 100}, new=NEW | {"student": 60})
    said = headlines(page_of(folder, monkeypatch))
    assert said.startswith("The teacher made the student 10.0 points worse.")
    assert "starting from the student costs 15.0 points" in said
    assert "better" not in said


def test_headline_calls_a_lead_within_chance_nothing(tmp_path, monkeypatch):
    page = page_of(write_outputs(tmp_path, source=BETTER | {"student": 124}), monkeypatch)
    assert headlines(page).startswith("The teacher bought nothing that can be shown.")
    assert "interval, −2.0 to +6.0, includes 0." in words_of(page)


def test_headline_admits_that_the_linear_model_wins(tmp_path, monkeypatch):
    said = headlines(page_of(write_outputs(tmp_path, source=BETTER | {"linear": 198}), monkeypatch))
    assert "A linear model is ahead of every network on the source task, but behind the student on the target task." in said


def test_headline_says_so_when_the_teacher_is_worse_than_the_baseline(tmp_path, monkeypatch):
    page = page_of(write_outputs(tmp_path, source=BETTER | {"teacher": 110}), monkeypatch)
    assert "there was no gap to close" in words_of(page)
    assert "Against the teacher, the student gained 30.0 points." in headlines(page)


def test_withheld_labels_are_told_where_the_baseline_is_compared(tmp_path, monkeypatch):
    path = write_outputs(tmp_path) / "data/preprocess/statistics.json"
    statistics = json.loads(path.read_text())
    statistics["source"]["withheld_labels"] = 800
    write_json(path, statistics)
    assert "on the 200 of 1,000 texts whose true label is known" in words_of(page_of(tmp_path, monkeypatch))


def test_markup_in_texts_and_labels_is_escaped(tmp_path, monkeypatch):
    folder = write_outputs(tmp_path, labels=("<b>&", '"><i>', "c"), text='<script>alert("x")</script> & שלום')
    page = page_of(folder, monkeypatch)
    assert "<script" not in page
    assert "<i>" not in page
    assert "&lt;script&gt;" in page
    assert "&lt;b&gt;&amp;" in page
    assert 'dir="auto"' in page


def test_labels_that_look_like_missing_values_are_kept(tmp_path, monkeypatch):
    assert "<bdi>NA</bdi>" in page_of(write_outputs(tmp_path), monkeypatch)


def test_page_does_without_linear_model_speed_and_optional_figures(tmp_path, monkeypatch):
    networks = {name: right for name, right in BETTER.items() if name != "linear"}
    folder = write_outputs(tmp_path, source=networks, new={name: NEW[name] for name in ("teacher", "student", "scratch")})
    write_json(folder / "data/evaluate/timing.json", {"seconds": 1.0})
    scores = json.loads((folder / "data/evaluate/metrics.json").read_text())
    for name in ("nll", "ece", "accuracy_low", "lead_over_baseline_low"):
        del scores["source"]["student"][name]
    write_json(folder / "data/evaluate/metrics.json", scores)
    page = page_of(folder, monkeypatch)
    said = headlines(page)
    assert "linear" not in said
    assert said.startswith("The teacher bought nothing that can be shown."), "a lead without interval is not shown"
    assert "The student is 125 times smaller than the teacher." in said
    assert "<td>–</td>" in page


def test_page_of_two_classes_without_errors_or_examples(tmp_path, monkeypatch):
    folder = write_outputs(tmp_path, labels=("0", "1"))
    evaluated = folder / "data/evaluate/tables"
    for name in ("most_confused.csv", "examples.csv"):
        header = (evaluated / name).read_text().splitlines()[0]
        (evaluated / name).write_text(header + "\n")
    for path in (folder / "data").rglob("learning_curve.csv"):
        path.write_text("step,split,loss,accuracy\n")
    words = words_of(page_of(folder, monkeypatch))
    assert "The student made no error on the test texts." in words
    assert "No test text told the models apart." in words
    assert "No point was logged." in words
    assert "Left out: 1 without test texts." in words


def test_same_inputs_give_the_same_page(tmp_path, monkeypatch):
    write_outputs(tmp_path)
    assert page_of(tmp_path, monkeypatch) == page_of(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    "name",
    [
        "evaluate/metrics.json",
        "evaluate/tables/examples.csv",
        "evaluate/tables/predictions_source.parquet",
        "finetune/scratch/manifest.json",
        "train_student/learning_curve.csv",
    ],
)
def test_missing_output_is_named(tmp_path, monkeypatch, name):
    (write_outputs(tmp_path) / "data" / name).unlink()
    with pytest.raises(ArtifactError, match=f"data/{name} is missing"):
        page_of(tmp_path, monkeypatch)


def test_damaged_table_is_named(tmp_path, monkeypatch):
    (write_outputs(tmp_path) / "data/evaluate/tables/per_class.csv").write_text("")
    with pytest.raises(ArtifactError, match=r"per_class\.csv is damaged"):
        page_of(tmp_path, monkeypatch)


def test_words_for_figures():
    assert [points(0.0493), points(-0.0004), points(0.0)] == ["+4.9\u00a0points", "−0.04\u00a0points", "0.0\u00a0points"]
    assert [size_of(269_156), size_of(25_455_836), size_of(900)] == ["0.269\u00a0MB", "25.5\u00a0MB", "0.9\u00a0kB"]
    assert [duration(4.21), duration(65.2), duration(7260)] == ["4.2\u00a0s", "1\u00a0min 05\u00a0s", "2\u00a0h 01\u00a0min"]
    assert [compared(r, "faster", "slower", "no faster") for r in (33.4, 0.5, 1.02)] == [
        "33 times faster",
        "2.0 times slower",
        "no faster",
    ]


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (0.5, 0.5), (0.401, 0.436), (0, 1067), (1e-6, 2e-6), (-3, 2)])
def test_ticks_are_few_and_hold_every_value(low, high):
    marks = ticks(low, high)
    assert 2 <= len(marks) <= 7
    assert marks[0] <= low + 1e-12
    assert marks[-1] >= high - 1e-12


def test_names_of_curves_never_cover_each_other():
    heights = spread([100.0, 101.0, 100.5, 20.0], 15, 10, 110)
    assert heights[3] == 20.0
    assert [heights[0], heights[2], heights[1]] == pytest.approx([80, 95, 110])


@pytest.mark.parametrize("row", ["text", "picture"])
def test_the_classes_of_a_chart_stand_beside_the_number_of_what_they_are_of(row):
    chart = f1_chart([ClassScores("sr", 3, {"teacher": 0.9, "student": 0.8})], "source", row)
    assert f"beside the number of test {row}s" in chart


def test_chart_elements_escape_text_and_attributes():
    assert tag("text", {"x": 1, "class": '"'}, "<&") == '<text x="1.0" class="&#34;">&lt;&amp;</text>'


def test_page_says_whose_labels_were_imported(tmp_path, monkeypatch):
    folder = write_outputs(tmp_path)
    assert "imported" not in words_of(page_of(folder, monkeypatch))
    import_labels_in(folder)
    words = words_of(page_of(folder, monkeypatch))
    assert "not those of the teacher above: they were imported, of a <large> model, made on 2026-11-30." in unescape(words)
