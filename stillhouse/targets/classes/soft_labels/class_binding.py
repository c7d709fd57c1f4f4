"""What soft labels of classes belong to."""

from typing import Any

from stillhouse.soft_labels.format.manifest import Binding, classes_digest
from stillhouse.targets.classes.predict.classes_task import ClassesTask


def classifier_binding(task: ClassesTask, views: Any, seed: int, teacher: str) -> Binding:
    """Binding of soft labels of the teacher with weights digest `teacher` on the training rows of `task`."""
    scope = task.label_scope
    return Binding(
        teacher=teacher,
        tokenizer=scope.reader,
        data=scope.data,
        views=f"{views.words()}, seed {seed}",
        preprocessing=scope.preprocessing,
        classes=classes_digest(task.labels),
        vocab=len(task.labels),
    )
