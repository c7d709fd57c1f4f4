"""The evaluation of classifiers: every model side by side on test rows, with intervals, tables and speeds."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from torch import nn

from stillhouse.comparison.intervals import Ends, MeanOfClasses, Share
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
from stillhouse.soft_labels.format.store import SoftLabels
from stillhouse.targets.classes.evaluate.metrics import Bootstrap, agreement, calibration_curve, test_scores
from stillhouse.targets.classes.evaluate.score_tables import most_confused, nearest_classes, per_class_table, table_of_examples
from stillhouse.targets.classes.predict.class_chance import classes_by_chance
from stillhouse.targets.classes.predict.class_scores import per_class_f1
from stillhouse.targets.classes.predict.classes_task import ClassesTask


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
        task = cast(ClassesTask, made.read_task(DATA / "preprocess" / task_name))
        teachers = cast(ClassesTask, made.read_task(DATA / KINDS[kind].modality.teacher_data / task_name))
        test, collate = as_read_by(task)
        if note := thin_note(thin_classes(np.array(task.labels)[test.labels], task.labels), len(task.labels)):
            print(f"note: {task_name}: {note}", flush=True)
        bootstrap = Bootstrap(test.labels, len(task.labels), bootstrap_samples)
        logits: dict[str, np.ndarray] = {}
        scores: dict[str, dict] = {}
        loaded: dict[str, tuple[nn.Module, Collate]] = {}
        for name, folder in folders.items():
            model = made.load(folder)
            rows, inputs = (test, collate) if name != "teacher" else as_read_by(teachers)
            logits[name] = predict(on_device(model, ranks.device), rows, inputs, ranks)
            scores[name] = test_scores(logits[name], test.labels, calibration_bins)
            scores[name] |= agreement(logits[name], logits["teacher"]) | said_of_training(folder)
            scores[name] |= {"parameters": count_parameters(model), "bytes": (folder / WEIGHTS).stat().st_size}
            loaded[name] = model.cpu(), inputs
            print(f"{task_name} {name}: accuracy {scores[name]['accuracy']:.4f}", flush=True)
        measured = measure_speed(loaded, len(test), speed_seconds)
        speed |= {f"{task_name}_{key}": value for key, value in measured.items()}
        predicted = {name: values.argmax(1) for name, values in logits.items()}
        if linear_baseline:
            predicted["linear"], weights = linear(task_name, task, test)
            scores["linear"] = linear_scores(predicted["linear"], test.labels, weights, len(task.labels))
            print(f"{task_name} linear: accuracy {scores['linear']['accuracy']:.4f}", flush=True)
        resampled = {name: bootstrap.accuracy(values) for name, values in predicted.items()}
        right = {name: values == test.labels for name, values in predicted.items()}
        for name, values in predicted.items():
            low, high = Share().interval(right[name], resampled[name])
            scores[name] |= {"accuracy_low": low, "accuracy_high": high}
            low, high = MeanOfClasses(test.labels).interval(scores[name]["macro_f1"], bootstrap.macro_f1(values))
            scores[name] |= {"macro_f1_low": low, "macro_f1_high": high}
        scores["student"] |= classes_by_chance(test.labels, len(task.labels))
        if linear_baseline:
            low, high = Share().difference(right["student"], right["linear"], resampled["student"] - resampled["linear"])
            lead = scores["student"]["accuracy"] - scores["linear"]["accuracy"]
            scores["student"] |= {"lead_over_linear": lead, "lead_over_linear_low": low, "lead_over_linear_high": high}
        rival = rivals[task_name]
        ends = Share().difference(right["student"], right[rival], resampled["student"] - resampled[rival])
        scores["student"] |= against_rival(rival, scores, ends)
        metrics[task_name] = rounded(scores)

        answers = pd.DataFrame({"id": test.ids.to_pylist(), "actual": [task.labels[i] for i in test.labels]})
        for name, values in predicted.items():
            answers[name] = [task.labels[i] for i in values]
        answers.to_parquet(out / "tables" / f"predictions_{task_name}.parquet", index=False)
        write_tables(
            out / shipped.details(task_name), task, test, logits, predicted, calibration_bins, examples, rivals[task_name]
        )
        if task_name == "source":
            labels = SoftLabels.open(DATA / "export_soft_labels" / "soft_labels", verify=False)
            nearest_classes(labels, task.train, task.labels).to_csv(out / "tables" / "nearest_classes.csv", index=False)
    write_json(out / "metrics.json", metrics)
    return speed


def as_read_by(task: ClassesTask) -> tuple[Any, Collate]:
    """The test rows, and what makes inputs of them."""
    test = task.test()
    return test, task.collator(test, task.whole_rows, seed=0)


def write_tables(
    folder: Path,
    task: ClassesTask,
    test: Any,
    logits: dict[str, np.ndarray],
    predicted: dict[str, np.ndarray],
    bins: int,
    examples: int,
    rival: str,
) -> None:
    """The CSV tables about one task."""
    folder.mkdir(exist_ok=True)
    names = task.labels
    pd.DataFrame({"actual": [names[i] for i in test.labels], "predicted": [names[i] for i in predicted["student"]]}).to_csv(
        folder / "confusion.csv", index=False
    )
    most_confused(predicted["student"], test.labels, names).to_csv(folder / "most_confused.csv", index=False)
    per_class_table(predicted, test.labels, names).to_csv(folder / "per_class.csv", index=False, float_format="%.4f")
    table_of_examples(task, test, logits, examples, rival).to_csv(folder / "examples.csv", index=False)
    curve = [
        {"model": model, **point} for model, values in logits.items() for point in calibration_curve(values, test.labels, bins)
    ]
    pd.DataFrame(curve).to_csv(folder / "calibration.csv", index=False, float_format="%.5f")


def linear(task_name: str, task: ClassesTask, test: Any) -> tuple[np.ndarray, int]:
    """The linear model, from the very rows that the others learned from."""
    rows = task.labelled()
    if task_name == "new":
        chosen = set(read_json(DATA / "finetune" / "rows.json"))
        rows = rows.select(np.flatnonzero([row_id in chosen for row_id in rows.ids.to_pylist()]))
    return task.linear(rows, test)


def linear_scores(predicted, labels, weights: int, num_classes: int) -> dict:
    """The linear model gives no probabilities, so only what needs none."""
    return {
        "accuracy": float((predicted == labels).mean()),
        "macro_f1": float(np.nanmean(per_class_f1(predicted, labels, num_classes))),
        "parameters": weights,
    }


def against_rival(rival: str, scores: dict, ends: Ends) -> dict:
    """The student's lead over its rival with the ends of its paired interval, and the share of the rival's gap to the teacher
    closed."""
    low, high = ends
    lead = scores["student"]["accuracy"] - scores[rival]["accuracy"]
    gap = scores["teacher"]["accuracy"] - scores[rival]["accuracy"]
    result = {f"lead_over_{rival}": lead, f"lead_over_{rival}_low": low, f"lead_over_{rival}_high": high}
    # Without a gap there is nothing to close, and the ratio says nothing.
    return result | ({"gap_closed": lead / gap} if gap > 0 else {})


def rounded(scores: dict) -> dict:
    return {name: {k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()} for name, row in scores.items()}
