"""Tables for the report: labels, what is said in the place of what, examples. Shapes: N rows, L labels."""

from typing import Any

import numpy as np
import pandas as pd

from stillhouse.core.label_sets import written_set
from stillhouse.targets.label_set.evaluate.label_metrics import calibration_errors
from stillhouse.targets.label_set.predict.label_scores import per_label_f1, sigmoid
from stillhouse.targets.label_set.predict.label_set_task import LabelSetTask


def sets_of(predicted_NL: np.ndarray, names: list[str]) -> list[str]:
    """The set of each row as text."""
    return [written_set(names[i] for i in np.flatnonzero(row)) for row in predicted_NL]


def per_label_table(
    predicted: dict[str, np.ndarray],
    logits: dict[str, np.ndarray],
    thresholds: dict[str, np.ndarray],
    labels_NL: np.ndarray,
    names: list[str],
    bins: int,
) -> pd.DataFrame:
    """Test rows of each label, and of each model its F1, its calibration error and its threshold; rarest label first."""
    table = pd.DataFrame({"label": names, "test_rows": (labels_NL > 0).sum(0)})
    for model, said in predicted.items():
        table[f"f1_{model}"] = per_label_f1(said, labels_NL)
    for model, values in logits.items():
        table[f"ece_{model}"] = calibration_errors(sigmoid(values), labels_NL, bins)
        table[f"threshold_{model}"] = thresholds[model]
    return table.sort_values(["test_rows", "label"], ignore_index=True)


def most_confused_labels(predicted_NL: np.ndarray, labels_NL: np.ndarray, names: list[str], most: int = 20) -> pd.DataFrame:
    """Pairs of a label that a row has and was not said, and one that was said and it has not, by number of rows."""
    there_NL = labels_NL > 0
    pairs_LL = (there_NL & ~predicted_NL).T.astype(np.int64) @ (predicted_NL & ~there_NL).astype(np.int64)
    order = np.argsort(-pairs_LL, axis=None, kind="stable")[:most]
    missed, said = np.unravel_index(order[pairs_LL.ravel()[order] > 0], pairs_LL.shape)
    rows_L = there_NL.sum(0)
    return pd.DataFrame(
        {
            "actual": [names[i] for i in missed],
            "predicted": [names[i] for i in said],
            "errors": pairs_LL[missed, said],
            "share_of_label": np.round(pairs_LL[missed, said] / np.maximum(rows_L[missed], 1), 4),
        }
    )


def table_of_sets(
    task: LabelSetTask,
    test: Any,
    predicted: dict[str, np.ndarray],
    student_NL: np.ndarray,
    most: int,
    rival: str,
) -> pd.DataFrame:
    """Test rows that tell something: where of student and `rival` the student alone has the whole set right, the reverse, and
    where the student is surest and wrong. `most` of each, by the student's confidence: the probability of all that it says and
    leaves out, as if labels were independent. student: its logits."""
    there_NL, sets = test.labels > 0, {model: sets_of(said, task.labels) for model, said in predicted.items()}
    actual = sets_of(there_NL, task.labels)
    right = {model: (said == there_NL).all(1) for model, said in predicted.items()}
    signed = np.where(predicted["student"], 1.0, -1.0) * student_NL
    confidence = np.exp(-np.logaddexp(0, -signed).sum(1))
    kinds = {
        f"student right, {rival} wrong": right["student"] & ~right[rival],
        f"{rival} right, student wrong": right[rival] & ~right["student"],
        "student sure and wrong": ~right["student"],
    }
    order, parts = np.argsort(-confidence, kind="stable"), []
    for kind, chosen in kinds.items():
        rows = order[chosen[order]][:most]
        part = {"kind": kind, "id": [test.ids[int(i)].as_py() for i in rows], **task.shown(test, rows)}
        part |= {"actual": [actual[i] for i in rows]}
        part |= {model: [said[i] for i in rows] for model, said in sets.items()}
        parts.append(pd.DataFrame(part | {"confidence": np.round(confidence[rows], 4)}))
    return pd.concat(parts, ignore_index=True)
