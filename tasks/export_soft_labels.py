"""Stage `export_soft_labels`: what the teacher believes of every training row.

In: `data/train_teacher`, `data/preprocess`, more teachers in `data/raw`. Out: `soft_labels/` (see
`stillhouse.soft_labels.store` and `docs/soft-labels.md`), bound by digests to teacher, tokenizer and data; `metrics.json`.
A classifier's store holds log-probabilities at temperature 1 of every row and view, a causal language model's store samples
of the distribution at every position. Ranks take whole shards, so bytes do not depend on their number; after a kill,
finished shards stay.

    python -m tasks.launch export_soft_labels
"""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stillhouse.core.artifacts import DATA, MANIFEST, link_folder, read_json, write_json
from stillhouse.core.options import no_options
from stillhouse.core.params import Kind, Seed, Threads, block
from stillhouse.data.views import ViewParams

if TYPE_CHECKING:
    from stillhouse.training.distributed import Ranks


@block
class SamplerParams:
    method: Literal["threshold", "systematic", "multinomial", "residual", "topk", "topk_tail"] = "threshold"
    """How ids are drawn (`docs/soft-labels.md`); top-k is biased, and offered for comparison."""
    samples: int = 50
    """Number of draws at each position; for top-k the number of ids."""
    sampling_temperature: float = 1.0
    """Temperature that the teacher's logits are divided by; the student's must be the same."""
    bases: int = 0
    """Base distributions that residual draws are taken against; 64 is a good number, and other methods need 0."""

    def __post_init__(self) -> None:
        if (self.method == "residual") != (self.bases > 0) or self.bases == 1 or self.bases > 65536:
            raise ValueError(f"residual draws need bases from 2 to 65536, other methods 0; bases is {self.bases}")
        if not 1 <= self.samples <= 65536:
            raise ValueError(f"samples must lie in [1, 65536], is {self.samples}")
        if not 0.01 <= self.sampling_temperature <= 100:
            raise ValueError(f"sampling_temperature must lie in [0.01, 100], is {self.sampling_temperature}")


@block
class MoreTeacher:
    model: str
    """A folder below data/raw with a model of the same kind and tokenizer."""
    share: float
    """This teacher's share of the mixture; the pipeline's own teacher has the rest."""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share must lie in (0, 1), is {self.share}")
        if not self.model.startswith("data/raw/") or ".." in self.model.split("/"):
            raise ValueError(f"model must be a folder below data/raw, where DVC sees it change; is {self.model!r}")


@block
class ExportSoftLabels:
    batch_size: int
    """Rows of a forward pass of the teacher."""
    part_rows: int
    """Rows of a shard of the store; shards of 64 to 256 MB suit DVC and object stores."""
    sampler: SamplerParams | None = None
    """Causal language models: how sparse targets are drawn."""
    mixture: list[MoreTeacher] | None = None
    """Further teachers, whose distributions are mixed with that of the pipeline's own."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the teacher's forward pass: bf16 and fp16 autocast it. Never chosen automatically, because another device
    would then export other bytes."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.part_rows < 1:
            raise ValueError(f"batch_size and part_rows must be at least 1, are {self.batch_size} and {self.part_rows}")
        if self.mixture and sum(teacher.share for teacher in self.mixture) >= 1:
            raise ValueError("the shares of mixture must sum to less than 1: the pipeline's own teacher has the rest")


@block
class Params:
    kind: Kind
    seed: Seed
    threads: Threads
    views: ViewParams
    export_soft_labels: ExportSoftLabels

    def __post_init__(self) -> None:
        if (self.kind == "causal_lm") != (self.export_soft_labels.sampler is not None):
            wish = "needs" if self.kind == "causal_lm" else "has no"
            raise ValueError(f"kind {self.kind} {wish} 'export_soft_labels.sampler'")


def run(params: Params, out: Path, ranks: "Ranks") -> dict:
    from stillhouse.models.folders import weights_digest
    from stillhouse.soft_labels.binding import classifier_binding, language_binding
    from stillhouse.soft_labels.export import Teachers
    from stillhouse.soft_labels.export_classifier import export_classifier
    from stillhouse.soft_labels.export_language import export_language
    from stillhouse.soft_labels.manifest import mixture
    from stillhouse.soft_labels.more_teachers import load_another
    from stillhouse.soft_labels.sampler import Sampler
    from stillhouse.training.kinds import trainer_of

    settings, trainer = params.export_soft_labels, trainer_of(params.kind)
    task = trainer.Task.read(DATA / "preprocess" / "source")
    more = settings.mixture or []
    others = [load_another(Path(teacher.model), trainer, task, params.seed) for teacher in more]
    own = 1 - sum(teacher.share for teacher in more)
    digests = [(read_json(DATA / "train_teacher" / MANIFEST)["weights"], own)]
    digests += [(weights_digest(Path(teacher.model)), teacher.share) for teacher in more]
    models = [trainer.load(DATA / "train_teacher" / "model"), *others]
    teachers = Teachers([model.to(ranks.device) for model in models], [share for _, share in digests], settings.precision)
    # Finished shards outlive a kill where a stage's state does; what stands there is of the same teacher and data.
    folder = (ranks.inflight or out) / "soft_labels"
    common = {"folder": folder, "batch_size": settings.batch_size, "part_rows": settings.part_rows, "ranks": ranks}
    if params.kind == "causal_lm":
        assert settings.sampler is not None
        drawn = settings.sampler
        sampler = Sampler(drawn.method, drawn.samples, params.seed, drawn.sampling_temperature, drawn.bases)
        binding = language_binding(task, mixture(digests), sampler)
        quality, timing = export_language(teachers, task, sampler, binding, **common)
    else:
        binding = classifier_binding(task, params.views, params.seed, mixture(digests))
        quality, timing = export_classifier(teachers, task, params.views, params.seed, binding, **common)
    if ranks.is_main:
        if ranks.inflight:
            link_folder(folder, out / "soft_labels")
        write_json(out / "metrics.json", quality)
    return timing


def main() -> None:
    no_options("tasks.export_soft_labels", __doc__)
    from stillhouse.training.stage import run_ranked_stage

    run_ranked_stage("export_soft_labels", Params, run)


if __name__ == "__main__":
    main()
