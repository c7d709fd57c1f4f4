"""The binding that a student expects, from what lies before it."""

from stillhouse.core.artifacts import digest_json
from stillhouse.data.views import ViewParams
from stillhouse.losses.schedule import Scheduled, extremes
from stillhouse.soft_labels.manifest import Binding, classes_digest
from stillhouse.soft_labels.sampler import Sampler
from stillhouse.training import classifier, language_model


def classifier_binding(task: classifier.Task, views: ViewParams, seed: int, teacher: str) -> Binding:
    """Binding of soft labels of the teacher with weights digest `teacher` on the training rows of `task`."""
    words = f"{views.count} of at least {views.min_share} and {views.min_tokens} tokens, seed {seed}"
    return Binding(
        teacher=teacher,
        tokenizer=task.facts.digest,
        data=task.digest,
        views=words,
        preprocessing=task.preprocessing,
        classes=classes_digest(task.labels),
        vocab=len(task.labels),
    )


def language_binding(task: language_model.Task, teacher: str, sampler: Sampler | Scheduled) -> Binding:
    """Binding of soft labels on the training blocks of `task`: drawn with `sampler`, or however at a student's temperature.

    A student's temperature must be the one that the labels were drawn at; how many were drawn need not concern it.
    """
    drawn = isinstance(sampler, Sampler)
    return Binding(
        teacher=teacher,
        tokenizer=task.facts.digest,
        data=task.digest,
        views="",
        preprocessing=task.preprocessing,
        packing=digest_json(task.packing),
        vocab=task.facts.vocab_size,
        sampler=sampler.words() if drawn else None,
        sampling_temperature=sampler.sampling_temperature if drawn else extremes(sampler)[0],
    )


def taught_by(binding: Binding, teacher: str) -> str:
    """The teacher that a student may expect: its own, or the mixture in the store that its own is a part of."""
    parts = (binding.teacher or "").split(" + ")
    return binding.teacher or "" if any(part.endswith(f" of {teacher}") for part in parts) else teacher
