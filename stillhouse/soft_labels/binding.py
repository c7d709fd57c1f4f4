"""The binding that a student expects, from what lies before it."""

from stillhouse.data.views import ViewParams
from stillhouse.soft_labels.manifest import Binding, classes_digest
from stillhouse.training.classifier import Task


def expected_binding(task: Task, views: ViewParams, seed: int, teacher: str) -> Binding:
    """Binding of soft labels of the teacher with weights digest `teacher` on the training rows of `task`."""
    words = f"{views.count} of at least {views.min_share} and {views.min_tokens} tokens, seed {seed}"
    return Binding(
        teacher=teacher,
        tokenizer=task.facts.digest,
        data=task.digest,
        views=words,
        classes=classes_digest(task.labels),
        vocab=len(task.labels),
    )
