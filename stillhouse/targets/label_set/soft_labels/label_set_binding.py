"""What soft labels of label sets belong to."""

from typing import Any

from stillhouse.core.artifacts import digest_json
from stillhouse.soft_labels.format.manifest import Binding
from stillhouse.targets.label_set.predict.label_set_task import LabelSetTask


def label_set_binding(task: LabelSetTask, views: Any, seed: int, teacher: str) -> Binding:
    """Binding of soft labels of the teacher with weights digest `teacher` on the training rows of `task`."""
    scope = task.label_scope
    return Binding(
        teacher=teacher,
        tokenizer=scope.reader,
        data=scope.data,
        views=f"{views.words()}, seed {seed}",
        preprocessing=scope.preprocessing,
        classes=label_sets_digest(task.labels),
        vocab=len(task.labels),
    )


def label_sets_digest(names: list[str]) -> str:
    """For `Binding.classes`: label names in their order. Another digest than that of classes of the same names: what is stored
    are log-odds, and not the log-probabilities of a distribution over them."""
    return digest_json({"log_odds": list(names)})
