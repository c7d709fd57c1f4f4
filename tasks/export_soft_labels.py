"""Stage `export_soft_labels`: what the teacher believes of every training row and view.

In: `data/train_teacher`, `data/preprocess`. Out: `soft_labels/`, log-probabilities at temperature 1 (see
`stillhouse.soft_labels.store`), bound by digests to teacher, tokenizer, data and views; `metrics.json`.
Each shard is one part of the rows under one view; ranks take whole shards, so bytes do not depend on their number.

    python -m tasks.launch export_soft_labels
"""

from pathlib import Path
from typing import TYPE_CHECKING

from stillhouse.core.artifacts import DATA, MANIFEST, read_json, write_json
from stillhouse.core.params import block
from stillhouse.data.views import ViewParams

if TYPE_CHECKING:
    from stillhouse.training.distributed import Ranks


@block
class ExportSoftLabels:
    batch_size: int
    """Rows of a forward pass of the teacher."""
    part_rows: int
    """Rows of a shard."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.part_rows < 1:
            raise ValueError(f"batch_size and part_rows must be at least 1, are {self.batch_size} and {self.part_rows}")


@block
class Params:
    seed: int
    threads: int
    views: ViewParams
    export_soft_labels: ExportSoftLabels


def run(params: Params, out: Path, ranks: "Ranks") -> dict:
    from stillhouse.models.build import load_model
    from stillhouse.soft_labels.binding import expected_binding
    from stillhouse.soft_labels.export import export
    from stillhouse.training.classifier import Task

    settings = params.export_soft_labels
    task = Task.read(DATA / "preprocess" / "source")
    model = load_model(DATA / "train_teacher" / "model").to(ranks.device)
    binding = expected_binding(task, params.views, params.seed, read_json(DATA / "train_teacher" / MANIFEST)["weights"])
    figures = export(
        model, task, params.views, params.seed, binding, out / "soft_labels", settings.batch_size, settings.part_rows, ranks
    )
    if ranks.is_main:
        write_json(out / "metrics.json", figures.quality)
    return figures.timing


def main() -> None:
    from stillhouse.training.stage import run_ranked_stage

    run_ranked_stage("export_soft_labels", Params, run)


if __name__ == "__main__":
    main()
