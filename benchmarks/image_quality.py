"""What stored labels of views are worth to a small classifier of pictures, beside labels of a fixed view and no teacher.

    python -m benchmarks.image_quality [--seeds 1 2 3] [--folder DIR] [--threads N] [--write] [--quick]

Fashion-MNIST of the test data. Per seed: a teacher, then students of under 100,000 weights with equal steps, batches, views and
starting weights: by cross-entropy (`baseline`), from the teacher's stored labels of the very views that are seen
(`consistent`), and from its labels of the whole pictures, whichever view is seen (`fixed`; Beyer et al. 2022,
arXiv:2106.05237, fig. 2). Steps, rates and views were chosen on validation rows; test rows are looked at once. Figures are
accuracy on the 10,000 test rows in per cent; intervals are by bootstrap over rows and seeds together. Results already in the
folder are not computed again. `--write` puts the table into `docs/results.md`.
"""

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import arguments, commit, finish, machine, say
from benchmarks.text_setting import paired_interval, place, predictions, recipe, run_stages, test_data, write_section
from flows.repository.workspace import repository_root
from stillhouse.core.artifacts import DATA, digest_json
from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.params import build

VIEWS = {"count": 6, "shift": 2, "flip": True, "erase": 0.25}
TEACHER: dict[str, Any] = {
    "config": {"channels": [32, 64, 128], "blocks": [1, 1, 1], "stem_stride": 2, "norm": "batch"},
    "training": {"steps": 12000, "batch_size": 128, "evaluate_every": 1000, "metric": "accuracy", "clip_norm": 1.0,
                 "precision": "bf16", "optimizer": {"name": "adamw", "learning_rate": 3e-3, "weight_decay": 0.05},
                 "schedule": {"name": "cosine", "warmup_steps": 200}},
}  # fmt: skip
STUDENT: dict[str, Any] = {
    "config": {"channels": [16, 32, 48], "blocks": [1, 1, 1], "stem_stride": 2, "norm": "batch"},
    "training": {"steps": 10000, "batch_size": 128, "evaluate_every": 1000, "metric": "accuracy", "clip_norm": 1.0,
                 "precision": "bf16", "optimizer": {"name": "adamw", "learning_rate": 1e-2, "weight_decay": 0.02},
                 "schedule": {"name": "cosine", "warmup_steps": 200}},
}  # fmt: skip
STUDENTS = ("consistent", "fixed", "baseline")
BOOTSTRAP = 1000


def prepare(folder: Path, threads: int) -> None:
    """Read and preprocess Fashion-MNIST, unless that has been done in the folder."""
    params, source = recipe("image", threads), test_data().parent / "image" / "fashion-mnist"
    files = [source / f"{part}-{what}-ubyte.gz" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1")]
    params["ingest"] = {
        "source": {
            "kind": "files",
            "train": "fashion-mnist_train-images-idx3-ubyte.gz",
            "train_labels": "fashion-mnist_train-labels-idx1-ubyte.gz",
            "test": "fashion-mnist_t10k-images-idx3-ubyte.gz",
            "test_labels": "fashion-mnist_t10k-labels-idx1-ubyte.gz",
            "licence": "MIT",
        },
        "new": None,
    }
    params["preprocess"]["withheld_labels"] = 0.0
    run_stages(folder, params, files, ["ingest", "preprocess"])


def measure(folder: Path, seeds: list[int], threads: int, quick: bool) -> dict[str, np.ndarray]:
    """Whether each test row is answered rightly, bool (S, N), of the teacher and of each student."""
    from stillhouse.modalities.images.rows import image_task
    from stillhouse.modalities.images.table.image_config import ImageViews
    from stillhouse.models.config import ModelParams
    from stillhouse.models.saved import save_model
    from stillhouse.runtime.distributed import join
    from stillhouse.runtime.predict import predict
    from stillhouse.soft_labels.produce.export import Teachers
    from stillhouse.targets.classes.export_soft_labels.export_classifier import export_classifier
    from stillhouse.targets.classes.losses.class_losses import ClassDistillation
    from stillhouse.targets.classes.soft_labels.class_binding import classifier_binding
    from stillhouse.targets.classes.train.classifier import fit
    from stillhouse.targets.classes.train.image_training_config import ImageTraining
    from stillhouse.targets.classes.train_student.classifier_objective import stored_log_probs

    task = image_task.read_task(folder / DATA / "preprocess" / "source")
    test, views = task.test(), build(ImageViews, VIEWS, "views")
    whole = replace(task.whole_rows, count=1)
    if quick:
        task = replace(task, train=task.train.select(np.arange(300)), validation=task.validation.select(np.arange(100)))
    right: dict[str, list[np.ndarray]] = {name: [] for name in ("teacher", *STUDENTS)}

    def settings(of: dict[str, Any]) -> tuple[ModelParams, ImageTraining]:
        shorter = {"steps": 2, "evaluate_every": 2, "schedule": {"name": "cosine"}} if quick else {}
        model = ModelParams(architecture="residual_cnn", config=of["config"])
        return model, build(ImageTraining, of["training"] | shorter, "training")

    with join(threads) as ranks:
        for seed in seeds:
            done = folder / "results" / digest_json([VIEWS, TEACHER, STUDENT, quick])[:12] / str(seed)
            weights = done / "teacher"

            def trained(name: str, of: dict[str, Any], num_views: int | None, loss: Any = None, seed: int = seed, done=done):
                model_params, training = settings(of)
                model = image_task.build(model_params, task, seed)
                history = fit(model, task, training, views, num_views, seed, ranks, name, rows=task.train, loss=loss)
                say(f"seed {seed} {name}: {history.seconds:.0f} s, best step {history.best_step}")
                return model

            def answers(name: str, model: Any, seed: int = seed) -> np.ndarray:
                predicted = predict(model, test, task.collator(test, task.whole_rows, 0), ranks).argmax(1)
                say(f"seed {seed} {name}: {100 * (predicted == test.labels).mean():.2f} % of test rows")
                return predicted

            if not (weights / "config.json").exists():
                save_model(trained("teacher", TEACHER, None), weights)
            teacher = task.load(weights)
            right["teacher"].append(predictions(done / "teacher.npy", lambda t=teacher: answers("teacher", t)) == test.labels)

            def store(of: ImageViews, name: str, teacher=teacher, done=done, seed: int = seed):
                """Labels of the rows in these views, written to disk and read from there."""
                labels, binding = done / name, classifier_binding(task, of, seed, "teacher")
                if not (labels / "manifest.json").exists():
                    export_classifier(Teachers([teacher], [1.0]), task, of, seed, binding, labels, 512, 16384, ranks)
                return stored_log_probs(labels, task, of, seed, "teacher", ranks)

            def student(name: str, seed: int = seed, store=store) -> np.ndarray:
                loss = None
                if name == "consistent":
                    loss = ClassDistillation(store(views, "views"), temperature=1.0, weight=1.0)
                if name == "fixed":
                    said = store(whole, "whole")
                    only = lambda batch: said(replace(batch, views=np.zeros_like(batch.views)))  # noqa: E731
                    loss = ClassDistillation(only, temperature=1.0, weight=1.0)
                return answers(name, trained(name, STUDENT, views.count, loss))

            for name in STUDENTS:
                right[name].append(predictions(done / f"{name}.npy", lambda n=name: student(n)) == test.labels)
    return {name: np.stack(rows) for name, rows in right.items()}


def lead(right: dict[str, np.ndarray], one: str, other: str) -> tuple[float, float, float]:
    """Points that `one` leads `other` by on average, and the ends of the 95 % interval."""
    low, high = paired_interval(right[one], right[other], lambda row, rows: float(row[rows].mean()) * 100, BOOTSTRAP)
    return 100 * float(right[one].mean() - right[other].mean()), low, high


def table(right: dict[str, np.ndarray], seeds: list[int], threads: int) -> list[str]:
    """The section of `docs/results.md`."""
    rows = [
        f"| {name} | {' | '.join(f'{100 * row.mean():.2f}' for row in values)} | {100 * values.mean():.2f} |"
        for name, values in right.items()
    ]
    leads = [
        f"* consistent views lead {other} by {lead(right, 'consistent', other)[0]:+.2f} points "
        f"({lead(right, 'consistent', other)[1]:+.2f} to {lead(right, 'consistent', other)[2]:+.2f})"
        for other in ("baseline", "fixed")
    ]
    return [
        f"Written by `python -m benchmarks.image_quality --seeds {' '.join(map(str, seeds))} --write`,",
        "whose docstring says what is measured: accuracy on the 10,000 test rows in per cent.",
        "",
        f"| labels | {' | '.join(f'seed {seed}' for seed in seeds)} | mean |",
        f"|---|{'---|' * (len(seeds) + 1)}",
        *rows,
        "",
        *leads,
        f"* machine: {machine()}, {threads} threads",
        f"* commit: {commit(repository_root())}",
        f"* date: {date.today()}",
    ]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="a teacher and three students each")
    parser.add_argument("--folder", type=Path, help="keep data, teachers and results here, and go on from what is there")
    parser.add_argument("--threads", type=int, default=2, help="of every training (default: 2)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/results.md")
    options = parser.parse_args()
    with one_line_errors("image_quality"), place(options.folder) as folder:
        say("Students of pictures: labels of the views that are seen, labels of whole pictures, no teacher")
        say(f"machine: {machine()}, {options.threads} threads")
        say(f"commit: {commit(repository_root())}; seeds {options.seeds}")
        prepare(folder.resolve(), options.threads)
        seeds = options.seeds[:1] if options.quick else options.seeds
        right = measure(folder.resolve(), seeds, options.threads, options.quick)
        figures = {name: 100 * float(values.mean()) for name, values in right.items()}
        for other in ("baseline", "fixed"):
            over = lead(right, "consistent", other)
            figures |= {f"over_{other}{end}": value for end, value in zip(("", "_low", "_high"), over, strict=True)}
        if options.write and not options.quick:
            write_section("Pictures: Fashion-MNIST", table(right, seeds, options.threads))
    finish(**figures)


if __name__ == "__main__":
    main()
