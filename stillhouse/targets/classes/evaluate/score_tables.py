"""Tables for the report and for DVC's plots: classes, confusions, what the teacher believes, examples."""

from typing import Any

import numpy as np
import pandas as pd

from stillhouse.soft_labels.format.store import SoftLabels
from stillhouse.targets.classes.predict.class_scores import log_softmax, per_class_f1
from stillhouse.targets.classes.predict.classes_task import ClassesTask, ClassRows


def per_class_table(predictions: dict[str, np.ndarray], labels_N: np.ndarray, names: list[str]) -> pd.DataFrame:
    """Test rows and F1 of each class and model, smallest class first."""
    table = pd.DataFrame({"label": names, "test_rows": np.bincount(labels_N, minlength=len(names))})
    for model, predicted in predictions.items():
        table[f"f1_{model}"] = per_class_f1(predicted, labels_N, len(names))
    return table.sort_values(["test_rows", "label"], ignore_index=True)


def most_confused(predicted_N: np.ndarray, labels_N: np.ndarray, names: list[str], most: int = 20) -> pd.DataFrame:
    """Pairs of actual and predicted class by number of errors."""
    wrong = predicted_N != labels_N
    pairs = pd.DataFrame({"actual": labels_N[wrong], "predicted": predicted_N[wrong]}).value_counts(sort=False).reset_index()
    pairs = pairs.sort_values(["count", "actual", "predicted"], ascending=[False, True, True]).head(most)
    rows = np.bincount(labels_N, minlength=len(names))
    return pd.DataFrame(
        {
            "actual": [names[i] for i in pairs["actual"]],
            "predicted": [names[i] for i in pairs["predicted"]],
            "errors": pairs["count"].to_numpy(),
            "share_of_class": np.round(pairs["count"].to_numpy() / np.maximum(rows[pairs["actual"]], 1), 4),
        }
    )


def nearest_classes(labels: SoftLabels, train: ClassRows, names: list[str], most: int = 3) -> pd.DataFrame:
    """For each class, what the teacher believes of its training rows besides the class itself (view 0)."""
    rows = labels.rows_of(train.ids.to_pylist())
    known = np.flatnonzero(train.labels >= 0)
    sums = np.zeros((len(names), len(names)))
    for begin in range(0, len(known), 8192):
        chosen = known[begin : begin + 8192]
        believed = np.exp(labels(rows[chosen], np.zeros(len(chosen), dtype=np.int64)))
        np.add.at(sums, train.labels[chosen], believed)
    mean = sums / np.maximum(np.bincount(train.labels[known], minlength=len(names)), 1)[:, None]
    others = mean.copy()
    np.fill_diagonal(others, -1)
    order = np.argsort(-others, axis=1, kind="stable")[:, :most]
    table = {"label": names, "belief_in_itself": np.round(np.diag(mean), 4)}
    for rank in range(min(most, len(names) - 1)):
        table[f"nearest_{rank + 1}"] = [names[j] for j in order[:, rank]]
        table[f"belief_{rank + 1}"] = np.round(mean[np.arange(len(names)), order[:, rank]], 4)
    return pd.DataFrame(table)


def table_of_examples(task: ClassesTask, test: Any, logits: dict[str, np.ndarray], most: int, rival: str) -> pd.DataFrame:
    """Test rows that tell something: where the student alone of student and `rival` is right, the reverse, and where
    the student is surest and wrong. `most` of each, by the student's confidence."""
    labels, names = test.labels, task.labels
    answer = {model: values.argmax(1) for model, values in logits.items()}
    confidence = np.exp(log_softmax(logits["student"])).max(axis=1)
    right = {model: values == labels for model, values in answer.items()}
    kinds = {
        f"student right, {rival} wrong": right["student"] & ~right[rival],
        f"{rival} right, student wrong": right[rival] & ~right["student"],
        "student sure and wrong": ~right["student"],
    }
    order = np.argsort(-confidence, kind="stable")
    parts = []
    for kind, chosen in kinds.items():
        rows = order[chosen[order]][:most]
        part = {"kind": kind, "id": [test.ids[i].as_py() for i in rows], **task.shown(test, rows)}
        part |= {"actual": [names[labels[i]] for i in rows]}
        part |= {model: [names[values[i]] for i in rows] for model, values in answer.items()}
        parts.append(pd.DataFrame(part | {"confidence": np.round(confidence[rows], 4)}))
    return pd.concat(parts, ignore_index=True)
