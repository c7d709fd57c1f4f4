"""A multi-label classifier as it is shipped: as a classifier (`classifier_package`), with a threshold for each label.

`config.json` has the thresholds, chosen on validation rows, in the order of the labels and of the logits; a text has each label
whose probability reaches its threshold, perhaps none.

Shapes: N rows, L labels.
"""

from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from stillhouse.core.errors import ArtifactError
from stillhouse.core.shipped import Shipped
from stillhouse.modalities.text.export_model.classifier_package import (
    READS_TEXTS,
    Answer,
    CardForm,
    fill_package,
    open_package,
    summary,
)
from stillhouse.runtime.distributed import Ranks
from stillhouse.targets.label_set.predict.label_scores import sigmoid

__all__ = ["summary", "write_package"]

CODE = f"""\
{READS_TEXTS}logits = logits_of(["a text"])
scores = 1 / (1 + np.exp(-logits.astype(np.float64) / config["temperature"]))
there = scores >= np.array(config["thresholds"])
labels = [[name for name, has_it in zip(config["labels"], row, strict=True) if has_it] for row in there]
"""
"""What the card says to do."""


def open_label_sets(package: Path, threads: int) -> Answer:
    """Raw texts to log-odds, float32 (N, L), by the card's code. Raises ArtifactError if the model does not run."""
    return open_package(package, threads, CODE)


def thresholds_of(model: PreTrainedModel) -> list[float]:
    """Those that its training chose. Raises ArtifactError for a model that has none."""
    found = getattr(model.config, "thresholds", None)
    if found is None or len(found) != model.config.num_labels:
        raise ArtifactError(
            f"the config of the model ({model.config.model_type}) has no threshold for each of its {model.config.num_labels} "
            "labels; run 'dvc repro' to train it again"
        )
    return [float(each) for each in found]


FORM = CardForm(
    kind="multi_label",
    code=CODE,
    title="Distilled multi-label text classifier",
    verb="Finds the labels of a text, any number of them or none, out of",
    noun="labels",
    figures=("micro_f1", "macro_f1"),
    served=(
        '`pipeline("text-classification", "model"{options}, truncation=True, top_k=None)` gives the probability of '
        "every label, to be held against the thresholds"
    ),
    settings=lambda model: {"thresholds": thresholds_of(model)},
    answers=lambda logits, model: sigmoid(logits) >= np.array(thresholds_of(model)),
)


def write_package(shipped: Shipped, package: Path, ranks: Ranks, *, opset: int, tolerance: float, threads: int) -> dict:
    """Fill `package`; returns its metrics. Raises ArtifactError if it answers a raw text otherwise than the pipeline."""
    return fill_package(FORM, shipped, package, ranks, opset=opset, tolerance=tolerance, threads=threads)
