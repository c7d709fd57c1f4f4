"""What helps where one class has 329 times the rows of another: each means against the plain training, by macro-F1.

    python -m benchmarks.imbalance [--seeds 1 2 3] [--steps 800] [--folder DIR] [--write] [--quick]

The student's model of `recipes/intents.yaml`, from random weights, on the single-label rows of goemotions (28 classes,
12,823 : 39), with equal steps. Every training keeps its weights of the best macro-F1 on the published validation split; no
setting was chosen by anything: they are the papers' usual ones. `plain` is the mean macro-F1 over seeds on the published test
split, `<method>` the same, `<method>_gain` its lead over plain, `..._low` and `..._high` the 95 % interval of that, by
bootstrap over test rows and seeds together. `rare_f1`: mean F1 of the seven classes with the fewest training rows.
`--write` puts the table into `docs/results.md`. `--quick`: few rows and steps, measures nothing.
"""

import datetime
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.common import arguments, commit, finish, machine, say
from benchmarks.text_setting import paired_interval, place, predictions, recipe, run_stages, test_data, write_section
from flows.repository.workspace import repository_root
from stillhouse.core.artifacts import DATA
from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.params import build

METHODS = {
    "plain": {},
    "inverse": {"class_weights": "inverse"},
    "effective": {"class_weights": "effective"},
    "focal": {"focal_gamma": 2.0},
    "balanced": {"sampling": "balanced"},
    "square_root": {"sampling": "square_root"},
    "augmented": {"augmentation": {"up_to": 1000}},
    "square_root_augmented": {"sampling": "square_root", "augmentation": {"up_to": 1000}},
}
RARE = 7


def measure(folder: Path, params: dict, seeds: list[int], samples: int) -> tuple[dict[str, float], list[str]]:
    """Figures, and the table."""
    import transformers

    from stillhouse.data.views import WHOLE_ROWS, ViewParams
    from stillhouse.modalities.text.rows import text_task
    from stillhouse.modalities.text.table.tokens import read_tokens
    from stillhouse.models.config import ModelParams
    from stillhouse.runtime.distributed import join
    from stillhouse.runtime.predict import predict
    from stillhouse.targets.classes.predict.class_scores import per_class_f1
    from stillhouse.targets.classes.train import classifier
    from stillhouse.targets.classes.train.classes_config import ClassesTraining, ImbalanceParams

    transformers.logging.set_verbosity_error()
    task = text_task.read_task(folder / DATA / "preprocess" / "source")
    test = read_tokens(folder / DATA / "preprocess" / "source" / "test.arrow")
    model_params = build(ModelParams, params["student"]["model"], "recipes/intents.yaml")
    training = build(ClassesTraining, params["student"]["training"], "recipes/intents.yaml")
    views = build(ViewParams, params["views"], "recipes/intents.yaml")
    sizes = np.bincount(task.train.labels, minlength=len(task.labels))
    rare = np.argsort(sizes, kind="stable")[:RARE]
    num_classes = len(task.labels)
    say(f"{len(task.train):,} training, {len(task.validation):,} validation, {len(test):,} test rows; {num_classes} classes")
    say(f"largest to smallest class: {sizes.max():,} : {sizes.min():,}; {training.steps} steps of {training.batch_size} rows")

    def macro_f1(predicted_N: np.ndarray, rows_N: np.ndarray) -> float:
        return float(np.nanmean(per_class_f1(predicted_N[rows_N], test.labels[rows_N], num_classes)))

    found: dict[str, np.ndarray] = {}
    with join(params["threads"]) as ranks:
        for name, changes in METHODS.items():
            chosen = replace(training, imbalance=build(ImbalanceParams, changes, name))

            def train(name: str = name, chosen: ClassesTraining = chosen, seed: int = 0) -> np.ndarray:
                model = text_task.build(model_params, task, seed)
                history = classifier.fit(model, task, chosen, views, None, seed, ranks, f"{name} {seed}")
                say(f"{name}, seed {seed}: best at step {history.best_step} of {history.steps}, {history.seconds:.0f} s")
                return predict(model, test, task.collator(test, WHOLE_ROWS, 0), ranks).argmax(1)

            found[name] = np.stack(
                [predictions(folder / "results" / f"{name}-{seed}.npy", lambda s=seed, t=train: t(seed=s)) for seed in seeds]
            )
    rows = np.arange(len(test))
    figures, table = {}, []
    for name, predicted in found.items():
        per_seed = [macro_f1(one, rows) for one in predicted]
        scores = [per_class_f1(one, test.labels, num_classes)[rare] for one in predicted]
        low, high = paired_interval(predicted, found["plain"], macro_f1, samples) if name != "plain" else (0.0, 0.0)
        figures |= {name: float(np.mean(per_seed)), f"{name}_rare_f1": float(np.nanmean(scores))}
        gain = ""
        if name != "plain":
            figures |= {f"{name}_gain": figures[name] - figures["plain"], f"{name}_gain_low": low, f"{name}_gain_high": high}
            gain = f"{figures[f'{name}_gain'] * 100:+.2f} ({low * 100:+.2f} to {high * 100:+.2f})"
        spread = f"{min(per_seed) * 100:.2f} to {max(per_seed) * 100:.2f}"
        table.append(
            f"| {name.replace('_', ' ')} | {figures[name] * 100:.2f} | {spread} | {gain} | "
            f"{figures[f'{name}_rare_f1'] * 100:.1f} | {np.mean(predicted == test.labels) * 100:.2f} |"
        )
    head = "| method | macro-F1 | over seeds | gain over plain (95 % interval) | F1 of the seven rarest | accuracy |"
    return figures, [head, "|---" * 6 + "|", *table]


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: 1 2 3, with --quick: 1 2")
    parser.add_argument("--steps", type=int, default=800, help="of every training (default: 800)")
    parser.add_argument("--threads", type=int, default=1, help="of every training (default: 1)")
    parser.add_argument("--folder", type=Path, help="keep tasks and results here, and go on from what is there")
    parser.add_argument("--write", action="store_true", help="put the table into docs/results.md")
    options = parser.parse_args()
    seeds = options.seeds or ([1, 2] if options.quick else [1, 2, 3])
    with one_line_errors("imbalance"), place(options.folder) as folder:
        root = repository_root()
        facts = [f"machine: {machine()}, {options.threads} threads", f"commit: {commit(root)}", f"seeds: {seeds}"]
        say("\n".join(["Unequal classes", *facts]))
        params = recipe("intents", options.threads)
        raw = [test_data() / "goemotions" / f"{split}_single.parquet" for split in ("train", "dev", "test")]
        names = {s: f"goemotions_{p.name}" for s, p in zip(("train", "validation", "test"), raw, strict=True)}
        params["ingest"]["source"] = {"kind": "files", **names, "label": "label", "licence": "CC-BY-4.0"}
        small = params["ingest"]["source"] | {"max_rows": 600, "labels": ["neutral", "admiration", "gratitude", "curiosity"]}
        params["ingest"]["new"] = small
        if options.quick:
            params["ingest"]["source"] = small
        steps = 4 if options.quick else options.steps
        params["student"]["training"] |= {"steps": steps, "evaluate_every": max(2, steps // 8), "metric": "macro_f1"}
        run_stages(folder, params, raw, ["ingest", "preprocess"])
        figures, table = measure(folder, params, seeds, 20 if options.quick else 1000)
        say("\n".join(table))
        if options.write and not options.quick:
            lines = [
                f"Written by `python -m benchmarks.imbalance --seeds {' '.join(map(str, seeds))} --steps {steps} --write`,",
                "whose docstring says what is measured: goemotions, 28 classes, 329 : 1, test split, in per cent.",
                "",
                *table,
                "",
                *(f"* {fact}" for fact in [*facts, f"date: {datetime.datetime.now(datetime.UTC).date()}"]),
            ]
            write_section("Unequal classes", lines)
    finish(**figures)


if __name__ == "__main__":
    main()
