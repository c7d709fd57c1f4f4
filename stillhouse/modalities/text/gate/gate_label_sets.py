"""How the gate asks packages of multi-label classifiers: both get the raw texts of tonight's test rows, and say their sets of
labels at their own thresholds.

Labels may differ between nights: the promoted model cannot say one that it does not know, and what it says of one that is no
label any more counts as wrong in micro-F1.

Shapes: N rows, L labels.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stillhouse.comparison.intervals import F1OfSets, percentile
from stillhouse.core.artifacts import read_json
from stillhouse.core.errors import ArtifactError
from stillhouse.core.params import PARAMS_FILE
from stillhouse.core.shipped import Shipped
from stillhouse.gate.gate_parts import PACKAGE, Judgement, Rows, compare, draw, split_notes
from stillhouse.modalities.text.export_model.label_set_package import open_label_sets
from stillhouse.modalities.text.gate.gate_texts import TextRules, Texts, latency_ms
from stillhouse.packaging.package import MODEL, description_of
from stillhouse.targets.label_set.evaluate.label_metrics import calibration_errors
from stillhouse.targets.label_set.predict.label_scores import f1_of_counts, mean_of_known, sigmoid

if TYPE_CHECKING:
    from stillhouse.gate.decision import Gate

INTERVALS = {"micro_f1": F1OfSets.micro, "macro_f1": F1OfSets.macro}


@dataclass(frozen=True)
class SaidSets:
    """What a package says of tonight's rows, and what is true."""

    predicted_NL: np.ndarray
    """bool (N, L), and behind the labels of tonight those that are no label any more."""
    labels_NL: np.ndarray
    """int8 (N, L)."""

    def counts(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """Right ones, and all that are said or true, of each label."""
        said, there = self.predicted_NL[rows], np.zeros_like(self.predicted_NL[rows])
        there[:, : self.labels_NL.shape[1]] = self.labels_NL[rows] > 0
        return (said & there).sum(0), said.sum(0) + there.sum(0)

    def micro_f1(self, rows: Rows = slice(None)) -> float:
        hits, total = self.counts(rows)
        return float(2 * hits.sum() / total.sum()) if total.sum() else 1.0

    def macro_f1(self, rows: Rows = slice(None)) -> float:
        """Over tonight's labels that occur, or are said."""
        tonight = self.labels_NL.shape[1]
        hits, total = self.counts(rows)
        return mean_of_known(f1_of_counts(hits[:tonight], total[:tonight]))


def judge(gate: "Gate", threads: int, against: str | None, folder: Path | None) -> Judgement:
    """The candidate, and beside it the package in `folder`, if any. Raises ArtifactError if something is missing or damaged."""
    asked = Texts(Shipped.read())
    names, labels_NL = read_json(asked.shipped.data / "labels.json"), asked.test.labels
    known, thresholds = described(PACKAGE)
    if known != names:
        raise ArtifactError(f"{PACKAGE} and {asked.shipped.data} name different labels; run 'dvc repro export_model'")
    probabilities = probabilities_of(PACKAGE, asked.raw, threads)
    if not np.isfinite(probabilities).all():
        broken = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
        raise ArtifactError(
            f"{PACKAGE} gives no finite answer to {len(broken)} test rows, the first is {asked.test.ids[int(broken[0])]}"
        )
    candidate = SaidSets(probabilities >= thresholds, labels_NL)
    metrics = {name: {"candidate": getattr(candidate, name)()} for name in gate.metrics}
    notes = []
    if against is not None and folder is not None:
        theirs, their_thresholds = described(folder / "package")
        their_probabilities = probabilities_of(folder / "package", asked.raw, threads)
        promoted = SaidSets(placed_sets(their_probabilities >= their_thresholds, theirs, names), labels_NL)
        draws_SN = draw(len(asked.test), gate.bootstrap_samples)
        same = theirs == names and np.array_equal(candidate.predicted_NL, promoted.predicted_NL)
        for name, figures in metrics.items():
            ours, old = getattr(candidate, name), getattr(promoted, name)
            # A model against itself has no uncertainty, whatever the rows.
            paired = partial(INTERVALS[name](labels_NL, gate.confidence).difference, (ours(), old()))
            figures |= compare(ours, old, draws_SN, percentile if same else paired)
        notes = label_notes(names, theirs, labels_NL, against)
        notes += split_notes(asked.split(PARAMS_FILE), asked.split(folder / PARAMS_FILE), against)
    return Judgement(
        rows=len(asked.test),
        unit="test rows",
        metrics=metrics,
        calibration_error=float(np.mean(calibration_errors(probabilities, labels_NL, gate.calibration_bins))),
        latency_ms=latency_ms(PACKAGE, asked.raw, TextRules.read(PARAMS_FILE), gate.speed_seconds),
        notes=notes,
    )


def described(package: Path) -> tuple[list[str], np.ndarray]:
    """A package's labels and thresholds, in the order of its logits. Raises ArtifactError if it does not say them."""
    description = description_of(package) or {}
    labels, thresholds = description.get("labels"), description.get("thresholds")
    if not isinstance(labels, list) or not isinstance(thresholds, list) or len(labels) != len(thresholds):
        raise ArtifactError(f"{package / 'config.json'} has no threshold for each label; run 'dvc repro export_model'")
    return labels, np.array(thresholds, dtype=np.float64)


def probabilities_of(package: Path, texts: list[str], threads: int) -> np.ndarray:
    """float64 (N, L), by the card's code. Raises ArtifactError if the model does not run."""
    try:
        return sigmoid(open_label_sets(package, threads)(texts))
    except ArtifactError:
        raise
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise ArtifactError(f"{package / MODEL} does not run: {' '.join(str(error).split())[:200]}") from error


def placed_sets(said_NK: np.ndarray, known: list[str], names: list[str]) -> np.ndarray:
    """The promoted model's sets by tonight's numbers, bool (N, L + labels that are gone)."""
    gone = [name for name in known if name not in names]
    places = {name: number for number, name in enumerate([*names, *gone])}
    result = np.zeros((len(said_NK), len(places)), dtype=bool)
    result[:, [places[name] for name in known]] = said_NK
    return result


def label_notes(names: list[str], known: list[str], labels_NL: np.ndarray, against: str) -> list[str]:
    """What differing labels mean for the comparison."""
    notes = []
    if new := [name for name in names if name not in known]:
        rows = int((labels_NL[:, [names.index(name) for name in new]] > 0).any(1).sum())
        notes.append(f"{against} does not know {', '.join(new)}, which {rows} test rows have: it never says them")
    if gone := [name for name in known if name not in names]:
        notes.append(f"{', '.join(gone)} of {against} is no label any more: where it is said, that counts as wrong in micro-F1")
    return notes
