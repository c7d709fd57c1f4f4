"""Parts of the report that do not depend on the kind of model: tables read, curves drawn, provenance, figures as words."""

import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from stillhouse.core.artifacts import DATA, MANIFEST, TIMING, read_json
from stillhouse.core.environment import read_env_lock
from stillhouse.core.errors import ArtifactError
from stillhouse.core.params import STAGES
from stillhouse.core.scores import AT_CHANCE
from stillhouse.core.shipped import TASK_WORDS, Shipped, TaskName
from stillhouse.reporting import charts
from stillhouse.reporting.findings import NO_BREAK, Scores, percent

# In the order of every legend and table. `scratch` is to the target task what `baseline` is to the source task.
NAMES = {
    "teacher": "Teacher",
    "student": "Student",
    "baseline": "Baseline",
    "scratch": "From scratch",
    "linear": "Linear model",
    "ngram": "Token n-grams",
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
DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def provenance(params: dict[str, Any]) -> dict[str, Any]:
    """What every page tells of how it was made: times, parameters, digests, versions."""
    return {
        "threads": params.get("threads"),
        "package": read_json(DATA / "export_model" / "metrics.json"),
        "times": {stage: read_json(DATA / stage / TIMING)["seconds"] for stage in STAGES if stage != "report"},
        "params": {name: list(flatten(value, name)) for name, value in params.items()},
        "digests": {name: list(digests(read_json(DATA / name / MANIFEST))) for name in MANIFESTS},
        "environment": read_env_lock(),
    }


def labels_of(params: dict[str, Any]) -> str | None:
    """Whose soft labels the student learned from, where they are not the pipeline's own teacher's."""
    source = (params.get("export_soft_labels") or {}).get("source")
    return source and f"{source['model']}, made on {source['date']}"


def learning_curves(shipped: Shipped) -> list[dict[str, Any]]:
    """For fine-tuning, if there is a target task, and for the source task: the steps, and the charts of both losses and of
    validation accuracy."""
    result = []
    for task in shipped.tasks:
        if task == "source":
            heading, folders = "Source task", {name: f"train_{name}" for name in ("teacher", "student", "baseline")}
        else:
            heading = "Fine-tuning on the target task"
            folders = {name: f"finetune/{name}" for name in ("teacher", "student", "scratch")}
        metrics = {name: read_json(DATA / folder / "metrics.json") for name, folder in folders.items()}
        tables = {name: read_rows(DATA / folder / "learning_curve.csv") for name, folder in folders.items()}
        # No two charts of a page are called the same.
        over = f"{heading.lower()} (over the share of the training that is done)"
        steps = [f"{NAMES[name].lower()} {row['steps']:,}" for name, row in metrics.items()]
        # A teacher that is taken as it is has no curve.
        tables = {name: table for name, table in tables.items() if metrics[name]["steps"]}
        said = [f"{NAMES[name]}: {row[AT_CHANCE]}." for name, row in metrics.items() if AT_CHANCE in row]
        loss = [charts.Curve(name, NAMES[name], curve(table, "train", "loss")) for name, table in tables.items()]
        held_out, accuracy = (
            [
                charts.Curve(name, NAMES[name], curve(table, "validation", column), metrics[name]["best_step"])
                for name, table in tables.items()
            ]
            for column in ("loss", "accuracy")
        )
        result.append(
            {
                "heading": heading,
                "steps": " ".join([f"Steps: {', '.join(steps)}.", *said]),
                "accuracy": charts.line_chart(accuracy, charts.percent_tick, f"Learning curve: validation accuracy, {over}"),
                "validation_loss": charts.line_chart(held_out, charts.plain_tick, f"Learning curve: validation loss, {over}"),
                "loss": charts.line_chart(loss, charts.plain_tick, f"Learning curve: training loss, {over}"),
            }
        )
    return result


def curve(table: list[dict[str, str]], split: str, column: str) -> list[tuple[float, float]]:
    places = ((number(row["step"]), number(row[column])) for row in table if row["split"] == split)
    return [(step, value) for step, value in places if step is not None and value is not None]


def reliability(scores: dict[str, Scores], folder: Path, task: TaskName) -> list[tuple[str, str, Any]]:
    """Model, expected calibration error and chart of each model that gives probabilities. folder: of the task's details."""
    rows = read_rows(folder / "calibration.csv")
    result = []
    for model in NAMES:
        places = [(float(r["confidence"]), float(r["accuracy"]), float(r["share"])) for r in rows if r["model"] == model]
        if places:
            error = written(scores[model].get("ece"), lambda value: f"{value:.3f}")
            result.append((model, error, charts.reliability_chart(model, places, TASK_WORDS[task])))
    return result


def origin_of(task: str) -> dict[str, Any]:
    """Where the data of a task come from, as `ingest` wrote it down."""
    return {
        key: value for key, value in read_json(DATA / "ingest" / MANIFEST)[task].get("origin", {}).items() if value is not None
    }


def statistics_of(counts: Scores, names: dict[str, str]) -> list[tuple[str, str]]:
    """Caption and figure of what `preprocess` counted: those of `names` in its order, then what it does not name."""
    keys = [key for key in names if key in counts] + [key for key in counts if key not in names]
    return [(names.get(key, key.replace("_", " ").capitalize()), counted(key, counts[key])) for key in keys]


def counted(key: str, value: Any) -> str:
    if key.endswith("_share"):
        # One decimal would say that a small share is none.
        return percent(value, 2 if 0 < value < 0.001 else 1)
    return f"{value:,}" if isinstance(value, int) else str(value)


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


def written(value: float | None, form: Callable[[Any], str]) -> str:
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
