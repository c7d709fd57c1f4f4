"""The evaluation of multi-label classifiers: every model side by side on test rows, each at the thresholds that its own
validation rows chose, with intervals, tables and speeds.

Shapes: N rows, L labels.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from torch import nn

from stillhouse.comparison.intervals import F1OfSets, Share
from stillhouse.core.artifacts import DATA, read_json, write_json
from stillhouse.core.shipped import Shipped, TaskName
from stillhouse.data.batches import Collate
from stillhouse.evaluation.at_chance import said_of_training
from stillhouse.evaluation.speed import measure_speed
from stillhouse.kinds.registry import KINDS
from stillhouse.models.build import count_parameters
from stillhouse.models.kinds import models_of
from stillhouse.models.model_folders import WEIGHTS
from stillhouse.preprocessing.splits import thin_classes, thin_note
from stillhouse.runtime.distributed import Ranks
from stillhouse.runtime.model_types import on_device
from stillhouse.runtime.predict import predict
from stillhouse.targets.label_set.evaluate.label_metrics import SetBootstrap, agreement, calibration_curve, test_scores
from stillhouse.targets.label_set.evaluate.label_tables import most_confused_labels, per_label_table, sets_of, table_of_sets
from stillhouse.targets.label_set.predict.label_chance import labels_by_chance
from stillhouse.targets.label_set.predict.label_scores import set_scores, sigmoid
from stillhouse.targets.label_set.predict.label_set_task import LabelSetTask
from stillhouse.targets.label_set.predict.thresholds import choose_thresholds


@dataclass(frozen=True)
class SaidOfTest:
    """What the models say of the test rows of a task, by their names."""

    logits: dict[str, np.ndarray]
    thresholds: dict[str, np.ndarray]
    predicted: dict[str, np.ndarray]
    """bool (N, L)."""


def evaluate(
    kind: str,
    models: dict[TaskName, dict[str, Path]],
    rivals: dict[TaskName, str],
    out: Path,
    ranks: Ranks,
    *,
    bootstrap_samples: int,
    calibration_bins: int,
    examples: int,
    linear_baseline: bool,
    speed_seconds: float,
    shipped: Shipped,
) -> dict[str, float]:
    """Write `metrics.json` and `tables/` into `out`; returns speeds.

    models: task to name to folder of weights. rivals: task to the model that the student is held against.
    """
    (out / "tables").mkdir()
    made = models_of(kind)
    metrics: dict = {}
    speed: dict = {}
    for task_name, folders in models.items():
        task = cast(LabelSetTask, made.read_task(DATA / "preprocess" / task_name))
        teachers = cast(LabelSetTask, made.read_task(DATA / KINDS[kind].modality.teacher_data / task_name))
        test, collate = as_read_by(task)
        if note := thin_note(
            thin_classes(np.array(task.labels)[np.nonzero(test.labels > 0)[1]], task.labels), len(task.labels)
        ):
            print(f"note: {task_name}: {note}", flush=True)
        said, scores = SaidOfTest({}, {}, {}), {}
        loaded: dict[str, tuple[nn.Module, Collate]] = {}
        for name, folder in folders.items():
            model = made.load(folder)
            rows, inputs = (test, collate) if name != "teacher" else as_read_by(teachers)
            logits = said.logits[name] = predict(on_device(model, ranks.device), rows, inputs, ranks)
            thresholds = said.thresholds[name] = np.array(model.config.thresholds)
            predicted = said.predicted[name] = sigmoid(logits) >= thresholds
            scores[name] = test_scores(logits, thresholds, test.labels, calibration_bins)
            scores[name] |= agreement(logits, predicted, said.logits["teacher"], said.predicted["teacher"])
            scores[name] |= said_of_training(folder)
            scores[name] |= {"parameters": count_parameters(model), "bytes": (folder / WEIGHTS).stat().st_size}
            loaded[name] = model.cpu(), inputs
            print(f"{task_name} {name}: {in_words(scores[name])}", flush=True)
        measured = measure_speed(loaded, len(test), speed_seconds)
        speed |= {f"{task_name}_{key}": value for key, value in measured.items()}
        if linear_baseline:
            said.predicted["linear"], weights = linear(task_name, task, test)
            scores["linear"] = set_scores(said.predicted["linear"], test.labels) | {"parameters": weights}
            print(f"{task_name} linear: {in_words(scores['linear'])}", flush=True)
        add_intervals(scores, said.predicted, test.labels, bootstrap_samples, rivals[task_name])
        scores["student"] |= labels_by_chance(test.labels)
        metrics[task_name] = {
            name: {key: round(value, 6) if isinstance(value, float) else value for key, value in row.items()}
            for name, row in scores.items()
        }
        write_tables(
            out, shipped.details(task_name), task_name, task, test, said, calibration_bins, examples, rivals[task_name]
        )
    write_json(out / "metrics.json", metrics)
    return speed


def as_read_by(task: LabelSetTask) -> tuple[Any, Collate]:
    """The test rows, and what makes inputs of them."""
    test = task.test()
    return test, task.collator(test, task.whole_rows, seed=0)


def in_words(scores: dict) -> str:
    return f"micro-F1 {scores['micro_f1']:.4f}, macro-F1 {scores['macro_f1']:.4f}"


def add_intervals(
    scores: dict[str, dict], predicted: dict[str, np.ndarray], labels_NL: np.ndarray, samples: int, rival: str
) -> None:
    """Put the ends of intervals into the scores, and into the student's its leads in micro-F1 over `rival` and, where there is
    one, the linear model, with the share of the rival's gap to the teacher that is closed."""
    bootstrap, micro, macro = SetBootstrap(labels_NL, samples), F1OfSets.micro(labels_NL), F1OfSets.macro(labels_NL)
    resampled = {name: bootstrap.scores(values) for name, values in predicted.items()}
    for name, row in scores.items():
        right = (predicted[name] == (labels_NL > 0)).all(1)
        ends = {
            "micro_f1": micro.interval(row["micro_f1"], resampled[name]["micro_f1"]),
            "macro_f1": macro.interval(row["macro_f1"], resampled[name]["macro_f1"]),
            "subset_accuracy": Share().interval(right, resampled[name]["subset_accuracy"]),
        }
        row |= {f"{key}_{end}": value for key, pair in ends.items() for end, value in zip(("low", "high"), pair, strict=True)}
    student = scores["student"]
    for other in [rival] + ["linear"] * ("linear" in scores):
        for key, prefix in (("micro_f1", "lead"), ("macro_f1", "macro_f1_lead")):
            form = micro if key == "micro_f1" else macro
            values = (student[key], scores[other][key])
            low, high = form.difference(values, resampled["student"][key] - resampled[other][key])
            student |= {f"{prefix}_over_{other}": values[0] - values[1]}
            student |= {f"{prefix}_over_{other}_low": low, f"{prefix}_over_{other}_high": high}
    low, high = micro.difference(
        (student["micro_f1"], scores["teacher"]["micro_f1"]),
        resampled["student"]["micro_f1"] - resampled["teacher"]["micro_f1"],
    )
    student |= {"lead_over_teacher_low": low, "lead_over_teacher_high": high}
    gap = scores["teacher"]["micro_f1"] - scores[rival]["micro_f1"]
    # Without a gap there is nothing to close, and the ratio says nothing.
    if gap > 0:
        student["gap_closed"] = (student["micro_f1"] - scores[rival]["micro_f1"]) / gap


def linear(task_name: str, task: LabelSetTask, test: Any) -> tuple[np.ndarray, int]:
    """What linear models say, bool (N, L), from the very rows that the others learned from, and how many weights they have.

    Their thresholds are chosen on the same validation rows as those of the others."""
    rows = task.labelled()
    if task_name == "new":
        chosen = set(read_json(DATA / "finetune" / "rows.json"))
        rows = rows.select(np.flatnonzero([row_id in chosen for row_id in rows.ids.to_pylist()]))
    (validation, asked), weights = task.linear_decisions(rows, task.validation, test)
    return sigmoid(asked) >= choose_thresholds(sigmoid(validation), task.validation.labels), weights


def write_tables(
    out: Path,
    details: Path,
    task_name: TaskName,
    task: LabelSetTask,
    test: Any,
    said: SaidOfTest,
    bins: int,
    examples: int,
    rival: str,
) -> None:
    """The tables about one task; its CSV files in the folder `details` below `out`."""
    answers = {name: sets_of(values, task.labels) for name, values in said.predicted.items()}
    table = pd.DataFrame({"id": test.ids.to_pylist(), "actual": sets_of(test.labels > 0, task.labels)} | answers)
    table.to_parquet(out / "tables" / f"predictions_{task_name}.parquet", index=False)
    folder = out / details
    folder.mkdir(exist_ok=True)
    student = said.predicted["student"]
    most_confused_labels(student, test.labels, task.labels).to_csv(folder / "most_confused.csv", index=False)
    labels = per_label_table(said.predicted, said.logits, said.thresholds, test.labels, task.labels, bins)
    labels.to_csv(folder / "per_label.csv", index=False, float_format="%.4f")
    shown = table_of_sets(task, test, said.predicted, said.logits["student"], examples, rival)
    shown.to_csv(folder / "examples.csv", index=False)
    curve = [
        {"model": model, **point}
        for model, values in said.logits.items()
        for point in calibration_curve(sigmoid(values), test.labels, bins)
    ]
    pd.DataFrame(curve).to_csv(folder / "calibration.csv", index=False, float_format="%.5f")
