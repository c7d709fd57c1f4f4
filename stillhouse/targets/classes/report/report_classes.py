"""What the page of classifiers shows: tables and charts by class, beside what every page has."""

from pathlib import Path
from typing import Any

from stillhouse.core.artifacts import DATA, read_json
from stillhouse.core.shipped import TASK_WORDS, Shipped, TaskName
from stillhouse.reporting import charts
from stillhouse.reporting.findings import (
    NO_BREAK,
    Facts,
    Scores,
    direction,
    draw_findings,
    lead,
    percent,
    points,
    read_facts,
    size_of,
)
from stillhouse.reporting.report_parts import (
    NAMES,
    labels_of,
    learning_curves,
    milliseconds,
    number,
    origin_of,
    read_rows,
    reliability,
    statistics_of,
    written,
)

TEMPLATE = "report_classes.html.jinja"
STATISTICS = {
    "rows_in": "Rows read",
    "empty": "Dropped: empty",
    "duplicates": "Dropped: duplicates",
    "shared_between_published_splits": "Dropped: {row} stands in another split",
    "shared_with_other_task": "Dropped: {row} is held out in the target task",
    "conflicting_labels": "Kept: {row} has several classes",
    "train_rows": "Training rows",
    "withheld_labels": "… of which without a true label",
    "validation_rows": "Validation rows",
    "test_rows": "Test rows",
    "classes": "Classes",
    "classes_without_test_rows": "… of which without a test row",
    "classes_with_one_test_row": "… of which with a single test row",
    "balance": "Largest class over smallest",
    "mean_tokens": "Mean tokens of a row",
    "truncated_share": "Rows cut at the longest length",
}
# What a page shows of tables that grow with the number of classes; the CSV files beside it hold the rest.
MOST_CLASSES = 20
MOST_PAIRS = 15
MOST_EXAMPLES = 4
MOST_CHARACTERS = 400
ABOUT_LOSSES = (
    "The student’s loss is measured against the teacher’s beliefs, the others’ against true labels alone: compare their "
    "shapes, not their heights."
)
ABOUT_CURVES = {"source": (f" {ABOUT_LOSSES}",), "new": ("", f" {ABOUT_LOSSES}")}


def show(params: dict[str, Any]) -> dict[str, Any]:
    """What the template is filled with. Raises ArtifactError if an output of an earlier stage is missing or damaged."""
    facts, shipped = read_facts(params), Shipped.read()
    return {
        "findings": draw_findings(facts),
        "tiles": tiles(facts),
        "tasks": [task_results(facts, task) for task in shipped.tasks],
        "row": facts.row,
        "curves": curves(shipped, facts.row),
        "details": [details(facts, shipped, task) for task in shipped.tasks],
        "beliefs": beliefs(),
        "labels_of": labels_of(params),
        "soft_labels": read_json(DATA / "export_soft_labels" / "metrics.json"),
        "data": [data_facts(facts, task) for task in shipped.tasks],
    }


def details(facts: Facts, shipped: Shipped, task: TaskName) -> dict[str, Any]:
    """Calibration, classes, confusions and examples of one task's student."""
    folder = DATA / "evaluate" / shipped.details(task)
    return {
        "name": TASK_WORDS[task],
        "is_shipped": task == shipped.task,
        "reliability": reliability(facts.scores[task], folder, task),
        "pairs": read_rows(folder / "most_confused.csv")[:MOST_PAIRS],
        "classes": hardest_classes(folder, task, facts.row),
        "examples": examples(folder),
    }


def curves(shipped: Shipped, row: str) -> list[dict[str, Any]]:
    """The charts of each training, and what to know of them."""
    return [
        {
            "charts": [
                (f"{part['heading']}: accuracy on validation {row}s", part["accuracy"]),
                (f"{part['heading']}: loss on training {row}s", part["loss"]),
            ],
            "note": part["steps"] + about,
        }
        for part, about in zip(learning_curves(shipped), ABOUT_CURVES[shipped.task], strict=True)
    ]


def tiles(facts: Facts) -> list[tuple[str, str, str]]:
    """Caption, figure and remark of the figures that stand alone at the top."""
    scores = facts.scores["source"]
    student, teacher = scores["student"], scores["teacher"]
    low, high = student.get("lead_over_baseline_low"), student.get("lead_over_baseline_high")
    interval = "no interval" if low is None or high is None else f"{points(low, unit=False)} to {points(high, unit=False)}"
    closed = student.get("gap_closed")
    if closed is None:
        remark = "not measured" if teacher["accuracy"] > scores["baseline"]["accuracy"] else "there was no gap"
    else:
        remark = "of the baseline’s gap to the teacher" if direction(student, "baseline") else "not different from 0"
    return [
        *shipped_tile(facts),
        ("Student", percent(student["accuracy"]), f"of unseen {facts.row}s right"),
        ("Against the baseline", points(lead(scores, "baseline")), f"95{NO_BREAK}% interval {interval}"),
        ("Against the teacher", points(lead(scores, "teacher")), f"teacher: {percent(teacher['accuracy'])}"),
        ("Gap closed", "–" if closed is None else percent(closed, 0), remark),
        ("Size", size_of(student["bytes"]), f"teacher: {size_of(teacher['bytes'])}"),
        *speed_tile(facts),
    ]


def speed_tile(facts: Facts) -> list[tuple[str, str, str]]:
    """None if speeds were not measured."""
    student, teacher = (facts.speed.get(f"source_{model}_latency_ms") for model in ("student", "teacher"))
    if student is None or teacher is None:
        return []
    return [(f"One {facts.row} takes", milliseconds(student), f"teacher: {milliseconds(teacher)}")]


def shipped_tile(facts: Facts) -> list[tuple[str, str, str]]:
    """The model that is shipped, where that is not the source task's student itself."""
    if "new" not in facts.scores:
        return []
    scores = facts.scores["new"]
    remark = f"of unseen {facts.row}s of the target task right; from scratch: {percent(scores['scratch']['accuracy'])}"
    return [("Shipped model", percent(scores["student"]["accuracy"]), remark)]


def task_results(facts: Facts, task: str) -> dict[str, Any]:
    """The table and the chart of one task; a figure that was not measured is None."""
    models = {name: facts.scores[task][name] for name in NAMES if name in facts.scores[task]}
    intervals = [
        charts.Interval(name, NAMES[name], row["accuracy"], row.get("accuracy_low"), row.get("accuracy_high"))
        for name, row in models.items()
    ]
    return {
        "name": TASK_WORDS[task],
        "test_rows": facts.statistics[task]["test_rows"],
        "rows": [(name, result_cells(row, facts.speed, f"{task}_{name}")) for name, row in models.items()],
        "chart": charts.interval_chart(intervals, f"Accuracy on the {TASK_WORDS[task]} task (95 % intervals)"),
    }


def result_cells(row: Scores, speed: Scores, prefix: str) -> list[tuple[str, str]]:
    """Figure and interval of each column."""
    return [
        (written(row.get("accuracy"), percent), interval_of(row, "accuracy")),
        (written(row.get("macro_f1"), percent), interval_of(row, "macro_f1")),
        *((written(row.get(name), lambda value: f"{value:.3f}"), "") for name in ("nll", "ece")),
        (written(row.get("agreement"), percent), ""),
        (written(row.get("parameters"), lambda value: f"{value:,}"), ""),
        (written(row.get("bytes"), size_of), ""),
        (milliseconds(speed.get(f"{prefix}_latency_ms")), ""),
        (written(speed.get(f"{prefix}_rows_per_second"), lambda value: f"{value:,.0f}"), ""),
    ]


def interval_of(row: Scores, name: str) -> str:
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return "" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}"


def beliefs() -> list[dict[str, Any]]:
    """The classes in which the teacher believes least on their own training rows, and what it believes instead."""
    result = []
    for row in read_rows(DATA / "evaluate" / "tables" / "nearest_classes.csv"):
        others = [(row[f"nearest_{rank}"], number(row[f"belief_{rank}"])) for rank in (1, 2, 3) if f"nearest_{rank}" in row]
        itself = number(row["belief_in_itself"])
        # A class without labelled training rows has zeros throughout: there is nothing the teacher was asked.
        if itself is not None and itself + sum(belief or 0 for _, belief in others) > 0:
            result.append({"label": row["label"], "itself": itself, "others": others})
    return sorted(result, key=lambda entry: entry["itself"])[:MOST_PAIRS]


def hardest_classes(folder: Path, task: TaskName, row_word: str) -> dict[str, Any]:
    """The chart of the classes with the lowest F1 of the student, and how many classes each model has below one half."""
    rows = read_rows(folder / "per_class.csv")
    scores = []
    for row in rows:
        f1 = {model: number(row[f"f1_{model}"]) for model in NAMES if f"f1_{model}" in row}
        known = {model: value for model, value in f1.items() if value is not None}
        # A class without test rows cannot be answered rightly, so its F1 says nothing.
        if int(row["test_rows"]) and "student" in known:
            scores.append(charts.ClassScores(row["label"], int(row["test_rows"]), known))
    hardest = sorted(scores, key=lambda entry: (entry.f1["student"], entry.f1.get("teacher", 0.0), entry.label))
    models = [model for model in NAMES if scores and model in scores[0].f1]
    return {
        "chart": charts.f1_chart(hardest[:MOST_CLASSES], TASK_WORDS[task], row_word) if hardest else None,
        "models": models,
        "below_half": {model: sum(entry.f1.get(model, 1.0) < 0.5 for entry in scores) for model in models},
        "shown": min(MOST_CLASSES, len(hardest)),
        "tested": len(hardest),
        "untested": len(rows) - len(hardest),
    }


def data_facts(facts: Facts, task: str) -> dict[str, Any]:
    """Origin, statistics and class balance of one task."""
    counts = read_rows(DATA / "preprocess" / task / "class_counts.csv")
    return {
        "name": TASK_WORDS[task],
        "origin": origin_of(task),
        "statistics": statistics_of(
            facts.statistics[task], {key: words.format(row=facts.row) for key, words in STATISTICS.items()}
        ),
        "chart": charts.balance_chart(
            [(row["label"], int(row["train"])) for row in counts],
            f"Class balance, {TASK_WORDS[task]} task (training rows of each class)",
        ),
    }


def examples(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Kind to its examples, with each model's answer and whether it is right."""
    result: dict[str, list[dict[str, Any]]] = {}
    for row in read_rows(folder / "examples.csv"):
        shown = result.setdefault(row["kind"], [])
        if len(shown) < MOST_EXAMPLES:
            shown.append(
                {
                    "text": charts.shorten(row.get("text", ""), MOST_CHARACTERS),
                    "image": row.get("image"),
                    "actual": row["actual"],
                    "answers": [(model, row[model], row[model] == row["actual"]) for model in NAMES if model in row],
                    "confidence": number(row["confidence"]),
                }
            )
    return result
