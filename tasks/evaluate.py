"""Stage `evaluate`: every model side by side, on test data only.

In: the models of all trainings, `data/preprocess`, `data/export_soft_labels`. Out: `metrics.json` (scores with 95 %
intervals, sizes, agreement with the teacher, share of the gap closed), `summary.json` (the few of them by which
runs are compared) and `tables/`: of classifiers `predictions_*.parquet` and as CSV `calibration`, `confusion`,
`most_confused`, `per_class` and `examples`, of the shipped model's task and, where that is the new one, in `tables/source/`
of the source task, and `nearest_classes`; of multi-label classifiers the same without `confusion` and `nearest_classes`, and
`per_label`; of causal language models `blocks_*.parquet`, `continuations_*.csv` and
`calibration`. Speed goes to `timing.json`.

    python -m tasks.evaluate
"""

from pathlib import Path

from stillhouse.comparison.kinds import comparison_of
from stillhouse.core.artifacts import DATA, read_json, write_json
from stillhouse.core.options import no_options
from stillhouse.core.params import KindName, Threads, block
from stillhouse.core.run_stage import run_stage
from stillhouse.core.scores import METRICS, SUMMARY
from stillhouse.core.shipped import RIVALS, Shipped
from stillhouse.evaluation.kinds import evaluation_of

MODELS = {
    "source": {
        "teacher": DATA / "train_teacher" / "model",
        "student": DATA / "train_student" / "model",
        "baseline": DATA / "train_baseline" / "model",
    },
    "new": {
        "teacher": DATA / "finetune" / "teacher" / "model",
        "student": DATA / "finetune" / "student" / "model",
        "scratch": DATA / "finetune" / "scratch" / "model",
    },
}


@block
class Evaluate:
    bootstrap_samples: int
    """Resamples of the test rows (blocks, or documents), the same ones for every model."""
    calibration_bins: int
    """Bins of equal width that confidences are sorted into, for the expected calibration error and the reliability diagram."""
    examples: int
    """Rows of each kind in the table of examples; prompts that language models go on with."""
    linear_baseline: bool
    """Whether to train the yardstick without a neural network beside the others: a linear model on character n-grams, and for
    causal language models n-grams of tokens."""
    speed_seconds: float = 1.0
    """How long each model's speed is measured, alone and in batches."""

    def __post_init__(self) -> None:
        if min(self.bootstrap_samples, self.calibration_bins, self.examples) < 1 or self.speed_seconds <= 0:
            raise ValueError("bootstrap_samples, calibration_bins, examples and speed_seconds must be above 0")


@block
class Params:
    kind: KindName
    threads: Threads
    evaluate: Evaluate


def run(params: Params, out: Path) -> dict:
    # Half of this stage's time is the import of torchmetrics and scikit-learn; parameters are checked before.
    from stillhouse.runtime.distributed import join

    settings, shipped = params.evaluate, Shipped.read()
    models: dict = {task: MODELS[task] for task in reversed(shipped.tasks)}
    with join(params.threads) as ranks:
        speeds = evaluation_of(params.kind).evaluate(
            params.kind,
            models,
            RIVALS,
            out,
            ranks,
            bootstrap_samples=settings.bootstrap_samples,
            calibration_bins=settings.calibration_bins,
            examples=settings.examples,
            linear_baseline=settings.linear_baseline,
            speed_seconds=settings.speed_seconds,
            shipped=shipped,
        )
    write_json(out / SUMMARY, comparison_of(params.kind).summary_of(read_json(out / METRICS.name)))
    return speeds


def main() -> None:
    no_options("tasks.evaluate", __doc__)
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    run_stage("evaluate", Params, run)


if __name__ == "__main__":
    main()
