"""What soft labels of next tokens belong to."""

from stillhouse.core.artifacts import digest_json
from stillhouse.modalities.blocks.rows.block_task import BlockTask
from stillhouse.soft_labels.format.manifest import Binding
from stillhouse.soft_labels.format.sampler import Sampler


def language_binding(task: BlockTask, teacher: str, sampler: Sampler | float) -> Binding:
    """Binding of soft labels on the training blocks of `task`: drawn with `sampler`, or however at a temperature.

    A student's temperature must be the one that the labels were drawn at; how many were drawn need not concern it.
    """
    return Binding(
        teacher=teacher,
        tokenizer=task.facts.digest,
        data=task.digest,
        views="",
        preprocessing=task.preprocessing,
        packing=digest_json(task.packing),
        vocab=task.facts.vocab_size,
        sampler=sampler.words() if isinstance(sampler, Sampler) else None,
        sampling_temperature=sampler.sampling_temperature if isinstance(sampler, Sampler) else sampler,
    )
