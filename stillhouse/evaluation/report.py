"""One self-contained HTML page out of what the stages left behind: figures, tables, charts, provenance.

It holds no clock and fetches nothing: the same inputs give the same page, and it can be mailed as one file. The words at
its top are drawn in `findings.py`, the charts in `charts.py`; this module reads files and arranges them for the template.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from stillhouse.core.artifacts import DATA, MANIFEST, TIMING, read_json
from stillhouse.core.environment import read_env_lock
from stillhouse.core.errors import ArtifactError
from stillhouse.core.params import PARAMS_FILE, STAGES, read_yaml
from stillhouse.evaluation import charts
from stillhouse.evaluation.findings import (
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

TEMPLATE = "report.html.jinja"
# In the order of every legend and table. `scratch` is to the new task what `baseline` is to the source task.
NAMES = {
    "teacher": "Teacher",
    "student": "Student",
    "baseline": "Baseline",
    "scratch": "From scratch",
    "linear": "Linear n-grams",
}
MANIFESTS = (
    "ingest",
    "preprocess/source",
    "preprocess/new",
    "train_teacher",
    "export_soft_labels/soft_labels",
    "train_student",
    "train_baseline",
    "finetune/student",
    "finetune/scratch",
    "finetune/teacher",
)
# What a page shows of tables that grow with the number of classes; the CSV files beside it hold the rest.
MOST_CLASSES = 20
MOST_PAIRS = 15
MOST_EXAMPLES = 4
MOST_CHARACTERS = 400
DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def write_report(title: str, path: Path) -> None:
    """Write the page to `path`. Raises ArtifactError if an output of an earlier stage is missing or damaged."""
    params = read_yaml(PARAMS_FILE)
    facts = read_facts(params)
    findings = draw_findings(facts)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "size": size_of,
        "duration": duration,
        "key": charts.key,
        "breakable": charts.breakable,
    }
    page = environment.get_template(TEMPLATE).render(
        title=title,
        names=NAMES,
        findings=findings,
        tiles=tiles(facts),
        tasks=[task_results(facts, task) for task in ("source", "new")],
        threads=params.get("threads"),
        curves=learning_curves(),
        reliability=reliability(facts.scores["source"]),
        pairs=read_rows(DATA / "evaluate" / "tables" / "most_confused.csv")[:MOST_PAIRS],
        beliefs=beliefs(),
        soft_labels=read_json(DATA / "export_soft_labels" / "metrics.json"),
        classes=hardest_classes(),
        data=[data_facts(facts, task) for task in ("source", "new")],
        examples=examples(),
        package=read_json(DATA / "export_model" / "metrics.json"),
        times={stage: read_json(DATA / stage / TIMING)["seconds"] for stage in STAGES if stage != "report"},
        params={name: list(flatten(value, name)) for name, value in params.items()},
        digests={name: list(digests(read_json(DATA / name / MANIFEST))) for name in MANIFESTS},
        environment=read_env_lock(),
    )
    path.write_text(page, encoding="utf-8")


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
    latency = {model: facts.speed.get(f"source_{model}_latency_ms") for model in ("student", "teacher")}
    return [
        ("Student", percent(student["accuracy"]), "of unseen texts right"),
        ("Against the baseline", points(lead(scores, "baseline")), f"95{NO_BREAK}% interval {interval}"),
        ("Against the teacher", points(lead(scores, "teacher")), f"teacher: {percent(teacher['accuracy'])}"),
        ("Gap closed", "–" if closed is None else percent(closed, 0), remark),
        ("Size", size_of(student["bytes"]), f"teacher: {size_of(teacher['bytes'])}"),
        ("One text takes", milliseconds(latency["student"]), f"teacher: {milliseconds(latency['teacher'])}"),
    ]


def task_results(facts: Facts, task: str) -> dict[str, Any]:
    """The table and the chart of one task; a figure that was not measured is None."""
    models = {name: facts.scores[task][name] for name in NAMES if name in facts.scores[task]}
    intervals = [
        charts.Interval(name, NAMES[name], row["accuracy"], row.get("accuracy_low"), row.get("accuracy_high"))
        for name, row in models.items()
    ]
    return {
        "name": task,
        "test_rows": facts.statistics[task]["test_rows"],
        "rows": [(name, result_cells(row, facts.speed, f"{task}_{name}")) for name, row in models.items()],
        "chart": charts.interval_chart(intervals),
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


def learning_curves() -> list[dict[str, Any]]:
    """For the source task and for fine-tuning: the steps, and the charts of training loss and validation accuracy."""
    result = []
    for heading, folders in (
        ("Source task", {name: f"train_{name}" for name in ("teacher", "student", "baseline")}),
        ("Fine-tuning on the new task", {name: f"finetune/{name}" for name in ("teacher", "student", "scratch")}),
    ):
        metrics = {name: read_json(DATA / folder / "metrics.json") for name, folder in folders.items()}
        tables = {name: read_rows(DATA / folder / "learning_curve.csv") for name, folder in folders.items()}
        loss = [charts.Curve(name, NAMES[name], curve(table, "train", "loss")) for name, table in tables.items()]
        accuracy = [
            charts.Curve(name, NAMES[name], curve(table, "validation", "accuracy"), metrics[name]["best_step"])
            for name, table in tables.items()
        ]
        result.append(
            {
                "heading": heading,
                "steps": ", ".join(f"{NAMES[name].lower()} {row['steps']:,}" for name, row in metrics.items()),
                "loss": charts.line_chart(loss, charts.plain_tick, f"{heading}: training loss"),
                "accuracy": charts.line_chart(accuracy, charts.percent_tick, f"{heading}: validation accuracy"),
            }
        )
    return result


def curve(table: list[dict[str, str]], split: str, column: str) -> list[tuple[float, float]]:
    places = ((number(row["step"]), number(row[column])) for row in table if row["split"] == split)
    return [(step, value) for step, value in places if step is not None and value is not None]


def reliability(scores: dict[str, Scores]) -> list[tuple[str, str, Any]]:
    """Model, expected calibration error and chart of each model that gives probabilities."""
    rows = read_rows(DATA / "evaluate" / "calibration.csv")
    result = []
    for model in NAMES:
        places = [(float(r["confidence"]), float(r["accuracy"]), float(r["share"])) for r in rows if r["model"] == model]
        if places:
            error = written(scores[model].get("ece"), lambda value: f"{value:.3f}")
            result.append((model, error, charts.reliability_chart(model, places)))
    return result


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


def hardest_classes() -> dict[str, Any]:
    """The chart of the classes with the lowest F1 of the student, and how many classes each model has below one half."""
    rows = read_rows(DATA / "evaluate" / "tables" / "per_class.csv")
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
        "chart": charts.f1_chart(hardest[:MOST_CLASSES]) if hardest else None,
        "models": models,
        "below_half": {model: sum(entry.f1.get(model, 1.0) < 0.5 for entry in scores) for model in models},
        "shown": min(MOST_CLASSES, len(hardest)),
        "tested": len(hardest),
        "untested": len(rows) - len(hardest),
    }


def data_facts(facts: Facts, task: str) -> dict[str, Any]:
    """Origin, statistics and class balance of one task."""
    ingested = read_json(DATA / "ingest" / MANIFEST)[task]
    counts = read_rows(DATA / "preprocess" / task / "class_counts.csv")
    return {
        "name": task,
        "origin": {key: value for key, value in ingested.get("origin", {}).items() if value is not None},
        "statistics": facts.statistics[task],
        "chart": charts.balance_chart([(row["label"], int(row["train"])) for row in counts]),
    }


def examples() -> dict[str, list[dict[str, Any]]]:
    """Kind to its examples, with each model's answer and whether it is right."""
    result: dict[str, list[dict[str, Any]]] = {}
    for row in read_rows(DATA / "evaluate" / "tables" / "examples.csv"):
        shown = result.setdefault(row["kind"], [])
        if len(shown) < MOST_EXAMPLES:
            shown.append(
                {
                    "text": charts.shorten(row["text"], MOST_CHARACTERS),
                    "actual": row["actual"],
                    "answers": [(model, row[model], row[model] == row["actual"]) for model in NAMES if model in row],
                    "confidence": number(row["confidence"]),
                }
            )
    return result


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV table as text: 'NA', 'null' and '007' are names of classes. Raises ArtifactError."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing; 'dvc repro' or 'dvc checkout' brings it back") from None
    except ValueError as error:
        raise ArtifactError(f"{path} is damaged ({error}); delete it and run 'dvc checkout'") from None
    return table.to_dict("records")


def flatten(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """Dotted name and value of every parameter below `value`."""
    if isinstance(value, dict) and value:
        for key, below in value.items():
            yield from flatten(below, f"{name}.{key}")
    else:
        yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def digests(manifest: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Dotted name and value of every digest and revision in a manifest."""
    for name, value in manifest.items():
        yield from ((where, text) for where, text in flatten(value, name) if DIGEST.fullmatch(text))


def written(value: float | None, form: Any) -> str:
    return "–" if value is None else form(value)


def milliseconds(value: float | None) -> str:
    return written(value, lambda known: f"{known:.2f}{NO_BREAK}ms")


def number(text: str) -> float | None:
    """None for an empty cell and for what is not finite, such as the loss of a training that diverged."""
    value = float(text) if text else math.nan
    return value if math.isfinite(value) else None


def duration(seconds: float) -> str:
    """'8 min 06 s'."""
    if seconds < 60:
        return f"{seconds:.1f}{NO_BREAK}s"
    hours, minutes = divmod(round(seconds) // 60, 60)
    if hours:
        return f"{hours}{NO_BREAK}h {minutes:02}{NO_BREAK}min"
    return f"{minutes}{NO_BREAK}min {round(seconds) % 60:02}{NO_BREAK}s"
