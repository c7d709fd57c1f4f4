"""The gate of classifiers: both packages answer tonight's raw test rows, each by its own way from row to label.

Classes may differ between nights: a class that the promoted model does not know counts as wrong for it, and so does an
answer that is not a class any more.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from stillhouse.comparison.intervals import Ends, MeanOfClasses, Share, percentile
from stillhouse.core.artifacts import read_json
from stillhouse.core.errors import ArtifactError
from stillhouse.core.params import PARAMS_FILE
from stillhouse.core.shipped import Shipped
from stillhouse.gate.gate_parts import PACKAGE, Judgement, Rows, compare, draw, split_notes
from stillhouse.packaging.package import description_of
from stillhouse.targets.classes.evaluate.metrics import test_scores
from stillhouse.targets.classes.predict.class_scores import per_class_f1

if TYPE_CHECKING:
    from stillhouse.gate.decision import Gate


Columns = tuple[np.ndarray, np.ndarray]
Scores = tuple[Callable[[Rows], float], Callable[[Rows], float]]


class GateRows(Protocol):
    """Tonight's test rows of a modality, and how packages are asked about them.

    params: the `params.yaml` of a package's run.
    """

    @property
    def shipped(self) -> Shipped: ...
    @property
    def test(self) -> Any: ...

    def split(self, params: Path) -> dict[str, Any]:
        """Which rows that run held out."""
        ...

    def answer(self, package: Path, params: Path, threads: int) -> np.ndarray:
        """Logits, float32 (N, C), of the package's own classes for the raw rows."""
        ...

    def latency_ms(self, package: Path, params: Path, seconds: float) -> float:
        """Median milliseconds of one row alone, on one thread."""
        ...


def judge_classes(gate: "Gate", threads: int, against: str | None, folder: Path | None, asked: GateRows) -> Judgement:
    """The candidate, and beside it the package in `folder`, if any. Raises ArtifactError if something is missing or damaged."""
    shipped, test = asked.shipped, asked.test
    names = read_json(shipped.data / "labels.json")
    if labels_of(PACKAGE) != names:
        raise ArtifactError(f"{PACKAGE} and {shipped.data} name different classes; run 'dvc repro export_model'")
    logits_NC = asked.answer(PACKAGE, PARAMS_FILE, threads)
    if not np.isfinite(logits_NC).all():
        broken = np.flatnonzero(~np.isfinite(logits_NC).all(axis=1))
        raise ArtifactError(
            f"{PACKAGE} gives no finite answer to {len(broken)} test rows, the first is {test.ids[int(broken[0])]}"
        )
    candidate_N = logits_NC.argmax(axis=1)
    metrics = {name: {"candidate": METRICS[name](candidate_N, test.labels, len(names))} for name in gate.metrics}
    notes = []
    if against is not None and folder is not None:
        known = labels_of(folder / "package")
        promoted_NC = asked.answer(folder / "package", folder / PARAMS_FILE, threads)
        promoted_N = placed(promoted_NC, known, names)
        draws_SN = draw(len(test), gate.bootstrap_samples)
        # A model against itself has no uncertainty, whatever the rows.
        same = known == names and np.array_equal(logits_NC, promoted_NC)
        for name, figures in metrics.items():
            ours, theirs = (
                partial(over, METRICS[name], said_N, test.labels, len(names)) for said_N in (candidate_N, promoted_N)
            )
            right = (candidate_N == test.labels, promoted_N == test.labels)
            paired = partial(INTERVALS[name], right, (ours, theirs), test.labels, gate.confidence)
            figures |= compare(ours, theirs, draws_SN, percentile if same else paired)
        notes = class_notes(names, known, test.labels, against)
        notes += split_notes(asked.split(PARAMS_FILE), asked.split(folder / PARAMS_FILE), against)
    return Judgement(
        rows=len(test),
        unit="test rows",
        metrics=metrics,
        calibration_error=test_scores(logits_NC, test.labels, gate.calibration_bins)["ece"],
        latency_ms=asked.latency_ms(PACKAGE, PARAMS_FILE, gate.speed_seconds),
        notes=notes,
    )


def over(metric: Any, predicted_N: np.ndarray, labels_N: np.ndarray, num_classes: int, rows: Rows) -> float:
    return metric(predicted_N[rows], labels_N[rows], num_classes)


def labels_of(package: Path) -> list[str]:
    """The classes of a package, in the order of its logits."""
    description = description_of(package)
    return read_json(package / "labels.json") if description is None else description["labels"]


def placed(logits_NC: np.ndarray, known: list[str], names: list[str]) -> np.ndarray:
    """The promoted model's answers, int (N,), by tonight's numbers; `len(names)` where it says no class of tonight."""
    nothing = len(names)
    numbers = np.array([names.index(name) if name in names else nothing for name in known])
    return np.where(np.isfinite(logits_NC).all(axis=1), numbers[logits_NC.argmax(axis=1)], nothing)


def accuracy(predicted_N: np.ndarray, labels_N: np.ndarray, num_classes: int) -> float:
    return float((predicted_N == labels_N).mean())


def macro_f1(predicted_N: np.ndarray, labels_N: np.ndarray, num_classes: int) -> float:
    """Over tonight's classes that occur; an answer that is none of them is a miss and no class of its own."""
    return float(np.nanmean(per_class_f1(predicted_N, labels_N, num_classes + 1)[:num_classes]))


METRICS = {"accuracy": accuracy, "macro_f1": macro_f1}


def share_interval(right: Columns, scores: Scores, labels_N: np.ndarray, confidence: float, resampled_S: np.ndarray) -> Ends:
    return Share(confidence).difference(*right, resampled_S)


def f1_interval(right: Columns, scores: Scores, labels_N: np.ndarray, confidence: float, resampled_S: np.ndarray) -> Ends:
    values = (scores[0](slice(None)), scores[1](slice(None)))
    return MeanOfClasses(labels_N, confidence).difference(values, right, resampled_S)


# Of candidate minus promoted; right: which rows each answers rightly, scores: the metric of each.
INTERVALS = {"accuracy": share_interval, "macro_f1": f1_interval}


def class_notes(names: list[str], known: list[str], labels_N: np.ndarray, against: str) -> list[str]:
    """What differing classes mean for the comparison."""
    notes = []
    if new := [name for name in names if name not in known]:
        rows = sum(int((labels_N == names.index(name)).sum()) for name in new)
        notes.append(f"{against} does not know {', '.join(new)}: its answers to their {rows} test rows count as wrong")
    if gone := [name for name in known if name not in names]:
        notes.append(f"{', '.join(gone)} of {against} is not a class any more: such an answer counts as wrong")
    return notes
