"""Stage `evaluate`: every model side by side, on test data only.

In: the models of all trainings, `data/preprocess`, `data/export_soft_labels`. Out: `metrics.json` (scores with 95 %
bootstrap intervals, sizes, agreement with the teacher, share of the gap closed), `predictions_source.parquet`,
`predictions_new.parquet`, and CSV tables: `confusion`, `most_confused`, `per_class`, `nearest_classes`, `calibration`,
`examples`. Speed goes to `timing.json`.

    python -m tasks.evaluate
"""

from pathlib import Path

from stillhouse.core.artifacts import DATA, read_json, write_json
from stillhouse.core.params import block
from stillhouse.core.stage import run_stage

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
# The model that the student is held against, on each task.
RIVAL = {"source": "baseline", "new": "scratch"}


@block
class Evaluate:
    bootstrap_samples: int
    calibration_bins: int
    examples: int
    """Rows of each kind in the table of examples."""
    linear_baseline: bool
    """Whether to train the linear model on character n-grams beside the others."""
    speed_seconds: float = 1.0
    """How long each model's speed is measured, alone and in batches."""

    def __post_init__(self) -> None:
        if min(self.bootstrap_samples, self.calibration_bins, self.examples) < 1 or self.speed_seconds <= 0:
            raise ValueError("bootstrap_samples, calibration_bins, examples and speed_seconds must be above 0")


@block
class Params:
    threads: int
    evaluate: Evaluate


def run(params: Params, out: Path) -> dict:
    # Half of this stage's time is the import of torchmetrics and scikit-learn; parameters are checked before.
    import numpy as np
    import pandas as pd

    from stillhouse.data.tokens import read_tokens
    from stillhouse.evaluation import tables
    from stillhouse.evaluation.metrics import Bootstrap, agreement, calibration_curve, test_scores
    from stillhouse.evaluation.speed import measure_speed
    from stillhouse.models.build import WEIGHTS, count_parameters, load_model
    from stillhouse.soft_labels.store import SoftLabels
    from stillhouse.training.classifier import Task
    from stillhouse.training.distributed import join
    from stillhouse.training.predict import predict

    settings = params.evaluate
    metrics: dict = {}
    speed: dict = {}
    with join(params.threads) as ranks:
        for task_name, folders in MODELS.items():
            task = Task.read(DATA / "preprocess" / task_name)
            test = read_tokens(DATA / "preprocess" / task_name / "test.arrow")
            bootstrap = Bootstrap(test.labels, len(task.labels), settings.bootstrap_samples)
            logits: dict[str, np.ndarray] = {}
            scores: dict[str, dict] = {}
            for name, folder in folders.items():
                model = load_model(folder)
                logits[name] = predict(model.to(ranks.device), test, task.facts, ranks)
                scores[name] = test_scores(logits[name], test.labels, settings.calibration_bins)
                scores[name] |= agreement(logits[name], logits["teacher"])
                scores[name] |= {"parameters": count_parameters(model), "bytes": (folder / WEIGHTS).stat().st_size}
                speed |= {
                    f"{task_name}_{name}_{key}": value
                    for key, value in measure_speed(model.cpu(), test, task.facts, settings.speed_seconds).items()
                }
                print(f"{task_name} {name}: accuracy {scores[name]['accuracy']:.4f}", flush=True)
            predicted = {name: values.argmax(1) for name, values in logits.items()}
            if settings.linear_baseline:
                predicted["linear"], weights = linear(task_name, task, test)
                scores["linear"] = linear_scores(predicted["linear"], test.labels, weights, len(task.labels))
                print(f"{task_name} linear: accuracy {scores['linear']['accuracy']:.4f}", flush=True)
            resampled = {name: bootstrap.accuracy(values) for name, values in predicted.items()}
            for name, values in predicted.items():
                low, high = bootstrap.interval(resampled[name])
                scores[name] |= {"accuracy_low": low, "accuracy_high": high}
                low, high = bootstrap.interval(bootstrap.macro_f1(values))
                scores[name] |= {"macro_f1_low": low, "macro_f1_high": high}
            scores["student"] |= against_rival(task_name, scores, resampled, bootstrap)
            metrics[task_name] = rounded(scores)

            answers = pd.DataFrame({"id": test.ids.to_pylist(), "actual": [task.labels[i] for i in test.labels]})
            for name, values in predicted.items():
                answers[name] = [task.labels[i] for i in values]
            answers.to_parquet(out / f"predictions_{task_name}.parquet", index=False)
            if task_name == "source":
                write_tables(out, settings, task, test, logits, predicted, tables, calibration_curve)
                labels = SoftLabels.open(DATA / "export_soft_labels" / "soft_labels", verify=False)
                tables.nearest_classes(labels, task.train, task.labels).to_csv(out / "nearest_classes.csv", index=False)
    write_json(out / "metrics.json", metrics)
    return speed


def write_tables(out, settings, task, test, logits, predicted, tables, calibration_curve) -> None:
    """The CSV tables about the source task."""
    import pandas as pd

    names = task.labels
    pd.DataFrame({"actual": [names[i] for i in test.labels], "predicted": [names[i] for i in predicted["student"]]}).to_csv(
        out / "confusion.csv", index=False
    )
    tables.most_confused(predicted["student"], test.labels, names).to_csv(out / "most_confused.csv", index=False)
    tables.per_class_table(predicted, test.labels, names).to_csv(out / "per_class.csv", index=False, float_format="%.4f")
    tables.examples(test, logits, names, settings.examples).to_csv(out / "examples.csv", index=False)
    curve = [
        {"model": model, **point}
        for model, values in logits.items()
        for point in calibration_curve(values, test.labels, settings.calibration_bins)
    ]
    pd.DataFrame(curve).to_csv(out / "calibration.csv", index=False, float_format="%.5f")


def linear(task_name: str, task, test):
    """The linear model, from the very rows that the others learned from."""
    import numpy as np

    from stillhouse.evaluation.linear import linear_predictions

    rows = task.labelled()
    if task_name == "new":
        chosen = set(read_json(DATA / "finetune" / "rows.json"))
        rows = rows.select(np.flatnonzero([row_id in chosen for row_id in rows.ids.to_pylist()]))
    return linear_predictions(rows.texts.to_pylist(), rows.labels, test.texts.to_pylist())


def linear_scores(predicted, labels, weights: int, num_classes: int) -> dict:
    """The linear model gives no probabilities, so only what needs none."""
    import numpy as np

    from stillhouse.training.scores import per_class_f1

    return {
        "accuracy": float((predicted == labels).mean()),
        "macro_f1": float(np.nanmean(per_class_f1(predicted, labels, num_classes))),
        "parameters": weights,
    }


def against_rival(task_name: str, scores: dict, resampled: dict, bootstrap) -> dict:
    """The student's lead over its rival with a paired interval, and the share of the rival's gap to the teacher closed."""
    rival = RIVAL[task_name]
    low, high = bootstrap.interval(resampled["student"] - resampled[rival])
    lead = scores["student"]["accuracy"] - scores[rival]["accuracy"]
    gap = scores["teacher"]["accuracy"] - scores[rival]["accuracy"]
    result = {f"lead_over_{rival}": lead, f"lead_over_{rival}_low": low, f"lead_over_{rival}_high": high}
    # Without a gap there is nothing to close, and the ratio says nothing.
    return result | ({"gap_closed": lead / gap} if gap > 0 else {})


def rounded(scores: dict) -> dict:
    return {name: {k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()} for name, row in scores.items()}


def main() -> None:
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    run_stage("evaluate", Params, run)


if __name__ == "__main__":
    main()
