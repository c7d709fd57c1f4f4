"""What the page of multi-label classifiers shows: tables and charts by label, beside what every page has."""

from pathlib import Path
from typing import Any

from stillhouse.core.artifacts import DATA, read_json
from stillhouse.core.label_sets import names_of_set
from stillhouse.core.shipped import TASK_WORDS, Shipped, TaskName
from stillhouse.reporting import charts
from stillhouse.reporting.findings import NO_BREAK, Facts, Scores, percent, points, read_facts, size_of
from stillhouse.reporting.report_parts import (
    NAMES,
    learning_curves,
    milliseconds,
    number,
    origin_of,
    read_rows,
    reliability,
    statistics_of,
    written,
)
from stillhouse.targets.label_set.report.label_set_findings import findings_of_sets

TEMPLATE = "report_label_sets.html.jinja"
STATISTICS = {
    "rows_in": "Rows read",
    "empty": "Dropped: empty",
    "duplicates": "Dropped: duplicates",
    "shared_between_published_splits": "Dropped: {row} stands in another split",
    "shared_with_other_task": "Dropped: {row} is held out in the target task",
    "conflicting_labels": "Kept: {row} has several sets of labels",
    "train_rows": "Training rows",
    "withheld_labels": "… of which without true labels",
    "validation_rows": "Validation rows",
    "test_rows": "Test rows",
    "classes": "Labels",
    "label_sets": "Different sets of labels",
    "without_labels": "Rows of the empty set",
    "mean_labels": "Mean labels of a row",
    "classes_without_test_rows": "Labels without a test row",
    "classes_with_one_test_row": "Labels with a single test row",
    "balance": "Largest label over smallest",
    "mean_tokens": "Mean tokens of a row",
    "truncated_share": "Rows cut at the longest length",
}
# What a page shows of tables that grow with the number of labels; the CSV files beside it hold the rest.
MOST_LABELS = 30
MOST_PAIRS = 15
MOST_EXAMPLES = 4
MOST_CHARACTERS = 400
ABOUT_LOSSES = (
    "The student’s loss is measured against the teacher’s log-odds, the others’ against true labels alone: compare their "
    "shapes, not their heights."
)
ABOUT_CURVES = {"source": (f" {ABOUT_LOSSES}",), "new": ("", f" {ABOUT_LOSSES}")}


def show(params: dict[str, Any]) -> dict[str, Any]:
    """What the template is filled with. Raises ArtifactError if an output of an earlier stage is missing or damaged."""
    facts, shipped = read_facts(params), Shipped.read()
    return {
        "findings": findings_of_sets(facts, params.get("finetune", {}).get("examples_per_label")),
        "tiles": tiles(facts),
        "tasks": [task_results(facts, task) for task in shipped.tasks],
        "row": facts.row,
        "curves": [
            {
                "charts": [
                    (f"{part['heading']}: whole sets right, of validation {facts.row}s", part["accuracy"]),
                    (f"{part['heading']}: loss on training {facts.row}s", part["loss"]),
                ],
                "note": part["steps"] + about,
            }
            for part, about in zip(learning_curves(shipped), ABOUT_CURVES[shipped.task], strict=True)
        ],
        "details": [details(facts, shipped, task) for task in shipped.tasks],
        "soft_labels": read_json(DATA / "export_soft_labels" / "metrics.json"),
        "data": [data_facts(facts, task) for task in shipped.tasks],
    }


def tiles(facts: Facts) -> list[tuple[str, str, str]]:
    """Caption, figure and remark of the figures that stand alone at the top."""
    scores = facts.scores["source"]
    student, teacher = scores["student"], scores["teacher"]
    low, high = student["lead_over_baseline_low"], student["lead_over_baseline_high"]
    kept = student["macro_f1"] / teacher["macro_f1"] if teacher["macro_f1"] else None
    whole = f"of unseen {facts.row}s; teacher: {percent(teacher['subset_accuracy'])}"
    shipped = []
    if "new" in facts.scores:
        new = facts.scores["new"]
        remark = f"micro-F1 on the target task; from scratch: {percent(new['scratch']['micro_f1'])}"
        shipped = [("Shipped model", percent(new["student"]["micro_f1"]), remark)]
    return [
        *shipped,
        ("Student", percent(student["micro_f1"]), f"micro-F1; macro-F1 {percent(student['macro_f1'])}"),
        (
            "Against the baseline",
            points(student["lead_over_baseline"]),
            f"micro-F1, 95{NO_BREAK}% interval {points(low, unit=False)} to {points(high, unit=False)}",
        ),
        ("Against the teacher", written(kept, percent), f"of its macro-F1 of {percent(teacher['macro_f1'])}"),
        ("Whole sets right", percent(student["subset_accuracy"]), whole),
        ("Size", size_of(student["bytes"]), f"teacher: {size_of(teacher['bytes'])}"),
    ]


def task_results(facts: Facts, task: str) -> dict[str, Any]:
    """The table and the chart of one task; a figure that was not measured is None."""
    models = {name: facts.scores[task][name] for name in NAMES if name in facts.scores[task]}
    intervals = [
        charts.Interval(name, NAMES[name], row["micro_f1"], row.get("micro_f1_low"), row.get("micro_f1_high"))
        for name, row in models.items()
    ]
    return {
        "name": TASK_WORDS[task],
        "test_rows": facts.statistics[task]["test_rows"],
        "rows": [(name, result_cells(row, facts.speed, f"{task}_{name}")) for name, row in models.items()],
        "chart": charts.interval_chart(intervals, f"Micro-F1 on the {TASK_WORDS[task]} task (95 % intervals)"),
    }


def result_cells(row: Scores, speed: Scores, prefix: str) -> list[tuple[str, str]]:
    """Figure and interval of each column."""
    figures = [
        (written(row.get(name), percent), f"{100 * row[f'{name}_low']:.1f} to {100 * row[f'{name}_high']:.1f}")
        for name in ("micro_f1", "macro_f1", "subset_accuracy")
    ]
    return [
        *figures,
        *((written(row.get(name), lambda value: f"{value:.3f}"), "") for name in ("bce", "ece")),
        (written(row.get("agreement"), percent), ""),
        (written(row.get("parameters"), lambda value: f"{value:,}"), ""),
        (written(row.get("bytes"), size_of), ""),
        (milliseconds(speed.get(f"{prefix}_latency_ms")), ""),
    ]


def details(facts: Facts, shipped: Shipped, task: TaskName) -> dict[str, Any]:
    """Calibration, labels, confusions and examples of one task's student."""
    folder = DATA / "evaluate" / shipped.details(task)
    rows = read_rows(folder / "per_label.csv")
    scores = []
    for row in rows:
        f1 = {model: number(row[f"f1_{model}"]) for model in NAMES if f"f1_{model}" in row}
        known = {model: value for model, value in f1.items() if value is not None}
        # A label without test rows cannot be found, so its F1 says nothing.
        if int(row["test_rows"]) and "student" in known:
            scores.append(charts.ClassScores(row["label"], int(row["test_rows"]), known))
    hardest = sorted(scores, key=lambda entry: (entry.f1["student"], entry.f1.get("teacher", 0.0), entry.label))[:MOST_LABELS]
    return {
        "name": TASK_WORDS[task],
        "is_shipped": task == shipped.task,
        "reliability": reliability(facts.scores[task], folder, task),
        "pairs": read_rows(folder / "most_confused.csv")[:MOST_PAIRS],
        "chart": charts.f1_chart(hardest, TASK_WORDS[task], facts.row) if hardest else None,
        "models": [model for model in NAMES if scores and model in scores[0].f1],
        "shown": len(hardest),
        "labels": len(rows),
        "table": [label_row(row) for row in sorted(rows, key=lambda row: -int(row["test_rows"]))[:MOST_LABELS]],
        "examples": set_examples(folder),
    }


def label_row(row: dict[str, str]) -> dict[str, Any]:
    """A label's test rows, and of student and teacher F1, calibration error and threshold."""
    figures = {
        f"{key}_{model}": written(number(row[f"{key}_{model}"]), lambda value: f"{value:.3f}")
        for model in ("student", "teacher")
        for key in ("f1", "ece", "threshold")
    }
    return {"label": row["label"], "test_rows": row["test_rows"]} | figures


def data_facts(facts: Facts, task: str) -> dict[str, Any]:
    """Origin, statistics and balance of one task."""
    counts = read_rows(DATA / "preprocess" / task / "class_counts.csv")
    captions = {key: words.format(row=facts.row) for key, words in STATISTICS.items()}
    return {
        "name": TASK_WORDS[task],
        "origin": origin_of(task),
        "statistics": statistics_of(facts.statistics[task], captions),
        "chart": charts.balance_chart(
            [(row["label"], int(row["train"])) for row in counts],
            f"Label balance, {TASK_WORDS[task]} task (training rows with each label)",
        ),
    }


def set_examples(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Kind to its examples, with each model's set of labels and whether it is right."""
    result: dict[str, list[dict[str, Any]]] = {}
    for row in read_rows(folder / "examples.csv"):
        shown = result.setdefault(row["kind"], [])
        if len(shown) < MOST_EXAMPLES:
            answers = [(model, in_words(row[model]), row[model] == row["actual"]) for model in NAMES if model in row]
            shown.append(
                {
                    "text": charts.shorten(row.get("text", ""), MOST_CHARACTERS),
                    "actual": in_words(row["actual"]),
                    "answers": answers,
                    "confidence": number(row["confidence"]),
                }
            )
    return result


def in_words(labels: str) -> str:
    return ", ".join(names_of_set(labels)) or "no label"
