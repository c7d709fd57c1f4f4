"""Stage `export_soft_labels`: what the teacher believes of every training row.

In: `data/train_teacher`, `data/preprocess`, more teachers or files of labels in `data/raw`. Out: `soft_labels/` (see
`stillhouse.soft_labels.format.store` and `docs/soft-labels.md`), bound by digests to teacher, tokenizer and data;
`metrics.json`. A classifier's store holds log-probabilities at temperature 1 of every row and view, a causal language model's
store samples of the distribution at every position. Ranks take whole shards, so bytes do not depend on their number; after a
kill, finished shards stay.

    python -m tasks.launch export_soft_labels
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillhouse.core.artifacts import DATA, MANIFEST, link_folder, read_json, write_json
from stillhouse.core.options import no_options
from stillhouse.core.params import KindName, Seed, Threads, block
from stillhouse.data.views import ViewParams
from stillhouse.kinds.registry import KINDS
from stillhouse.soft_labels.produce.config import ExportSoftLabels, ImportedLabels

if TYPE_CHECKING:
    from stillhouse.runtime.distributed import Ranks
    from stillhouse.soft_labels.produce.kinds import Import


@block
class Params:
    kind: KindName
    seed: Seed
    threads: Threads
    views: ViewParams
    export_soft_labels: ExportSoftLabels


def run(params: Params, out: Path, ranks: "Ranks") -> dict:
    from stillhouse.models.kinds import models_of
    from stillhouse.models.model_folders import weights_digest
    from stillhouse.runtime.model_types import on_device
    from stillhouse.soft_labels.format.manifest import mixture
    from stillhouse.soft_labels.produce.export import Teachers
    from stillhouse.soft_labels.produce.kinds import export_of, import_of
    from stillhouse.soft_labels.produce.more_teachers import load_another

    settings, models = params.export_soft_labels, models_of(params.kind)
    task = models.read_task(DATA / KINDS[params.kind].modality.teacher_data / "source")
    if settings.source is not None:
        importing = import_of(params.kind), settings.source, task, settings, params.views, params.seed, out
        return ranks.on_main(lambda: take_over(*importing))
    more = settings.mixture or []
    others = [load_another(Path(teacher.model), models, task, params.seed) for teacher in more]
    own = 1 - sum(teacher.share for teacher in more)
    digests = [(read_json(DATA / "train_teacher" / MANIFEST)["weights"], own)]
    digests += [(weights_digest(Path(teacher.model)), teacher.share) for teacher in more]
    all_teachers = [models.load(DATA / "train_teacher" / "model"), *others]
    teachers = Teachers(
        [on_device(model, ranks.device) for model in all_teachers], [share for _, share in digests], settings.precision
    )
    # Finished shards outlive a kill where a stage's state does; what stands there is of the same teacher and data.
    folder = (ranks.inflight or out) / "soft_labels"
    quality, timing = export_of(params.kind).export(
        teachers, task, settings, params.views, params.seed, mixture(digests), folder, ranks
    )
    if ranks.is_main:
        if ranks.inflight:
            link_folder(folder, out / "soft_labels")
        write_json(out / "metrics.json", quality)
    return timing


def take_over(
    module: "Import", source: ImportedLabels, task: Any, settings: ExportSoftLabels, views: Any, seed: int, out: Path
) -> dict:
    """Labels that were made elsewhere, in place of a teacher's; returns timing."""
    quality, timing = module.import_labels(source, task, settings, views, seed, out / "soft_labels")
    write_json(out / "metrics.json", quality)
    return timing


def main() -> None:
    no_options("tasks.export_soft_labels", __doc__)
    from stillhouse.runtime.ranked_stage import run_ranked_stage

    run_ranked_stage("export_soft_labels", Params, run)


if __name__ == "__main__":
    main()
