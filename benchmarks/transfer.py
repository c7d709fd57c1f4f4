"""What a distilled student is worth on a target task with few examples, and by which method of fine-tuning.

    python -m benchmarks.transfer [--source cloze] [--seeds 1 2 3] [--examples 5 10 30] [--folder DIR] [--write] [--tune]
                                  [--quick]

The pipeline up to the distilled student, once per seed; then banking77 (77 intents) with few examples per class, by every
method, from the distilled student, and from random weights (`scratch`). The student's source, with the recipe of that name:
`cloze`, the words that were taken out of texts of banking77 and hwu64 (training rows, without a label), or `intents`, the
labels of hwu64. `linear`: character n-grams and a linear SVM on the same rows. `<method>_<n>` is the mean accuracy over seeds
on the published test split with n examples per class, `..._lead` that less scratch, `..._low` and `..._high` the 95 %
interval of that, by bootstrap over test rows and seeds together. A seed decides about teacher, student, the rows that are
chosen, and the new head.

Weights are those of the best accuracy on the validation split (a tenth of the published training rows: more labels than the
few examples, for all methods alike). Each method has the learning rate that was best there with 10 examples and seed 11;
`--tune` prints that choice. No test row takes part in it. `--write` puts the table into `docs/results.md`.
"""

import datetime
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import arguments, commit, finish, machine, say
from benchmarks.text_setting import paired_interval, place, predictions, recipe, run_stages, test_data, write_section
from flows.repository.workspace import repository_root
from stillhouse.core.artifacts import DATA
from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.params import build

STAGES = ["ingest", "preprocess", "launch train_teacher", "launch export_soft_labels", "launch train_student"]
TUNING_SEED = 11


@dataclass(frozen=True)
class Way:
    """A method with its learning rate; `mode` None is from random weights."""

    mode: str | None
    rate: float
    optimizer: dict[str, Any] = field(default_factory=dict)
    lora: dict[str, Any] | None = None


TABLES = ["query_key_value", "attention_out", "feed_forward_in", "feed_forward_out", "tokens", "0"]
"""Every linear module of the student, its table of tokens, and that of its only n-gram size."""
METHODS = {
    "scratch": Way(None, 1e-2),
    "full": Way("full", 1e-2),
    "frozen": Way("frozen", 3e-2),
    "gradual": Way("gradual", 3e-2),
    "layerwise": Way("layerwise", 1e-2, {"layer_decay": 0.7}),
    "lora": Way("lora", 3e-2, lora={"rank": 8, "alpha": 16.0}),
    "lora_tables": Way("lora", 3e-2, lora={"rank": 8, "alpha": 16.0, "targets": TABLES}),
}
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
TUNED: dict[str, dict[str, float]] = {
    "intents": {},
    "cloze": {"scratch": 3e-3, "full": 3e-3, "frozen": 1e-2, "gradual": 3e-3, "lora": 1e-2, "lora_tables": 3e-3},
}
"""Learning rates that differ from those above; scratch was as good at 1e-2 with 10 examples, and better at 3e-3 with 5."""
TITLES = {"cloze": "Transfer with few examples, from unlabelled texts", "intents": "Transfer with few examples"}


def ways(source: str) -> dict[str, Way]:
    """The methods with their learning rates for a student of that source."""
    return {name: replace(way, rate=TUNED[source].get(name, way.rate)) for name, way in METHODS.items()}


@dataclass(frozen=True)
class Bench:
    """What fine-tuning needs, in a folder where the stages have run."""

    folder: Path
    source: str
    params: dict[str, Any]
    steps: int

    @property
    def where(self) -> str:
        return f"recipes/{self.source}.yaml"

    def finetune(self, way: Way, examples: int, seed: int, ranks: Any) -> tuple[Any, Any, Any]:
        """Model, task and history of one fine-tuning, as the stage `finetune` does it."""
        from stillhouse.data.views import ViewParams
        from stillhouse.modalities.text.rows import text_task
        from stillhouse.models.config import ModelParams
        from stillhouse.targets.classes.train import classifier
        from stillhouse.targets.classes.train.classes_config import ClassesTraining
        from stillhouse.targets.classes.train.classifier import few_examples
        from stillhouse.training.config import LoraParams
        from stillhouse.transfer.methods import prepare

        task = text_task.read_task(self.folder / DATA / "preprocess" / "new")
        rows = few_examples(task.labelled(), examples, seed)
        tree = self.params["finetune"]["training"]
        tree = tree | {"steps": self.steps, "evaluate_every": max(1, self.steps // 6), "metric": "accuracy"}
        tree = tree | {"optimizer": tree["optimizer"] | {"learning_rate": way.rate} | way.optimizer}
        training = build(ClassesTraining, tree, self.where)
        if way.mode is None:
            model = text_task.build(build(ModelParams, self.params["student"]["model"], self.where), task, seed)
        else:
            model = text_task.adapt(text_task.load(self.folder / DATA / "train_student" / "model"), task, seed)
        method = prepare(
            model,
            way.mode or "full",
            new_head=True,
            steps=self.steps,
            seed=seed,
            unfreeze_every=max(1, self.steps // 6),
            lora=way.lora and build(LoraParams, way.lora, "lora"),
        )
        views = build(ViewParams, self.params["views"], self.where)
        history = classifier.fit(
            model, task, training, views, None, seed, ranks, "fine-tune", rows, None, method.fingerprint, method.hold
        )
        return method.finish(model), task, history


def tune(bench: Bench, ranks: Any) -> None:
    """Print the validation accuracy of every method at every rate."""
    for name, way in ways(bench.source).items():
        found = {}
        for rate in RATES:
            _, _, history = bench.finetune(replace(way, rate=rate), 10, TUNING_SEED, ranks)
            found[rate] = max(p["accuracy"] for p in history.points if p["split"] == "validation")
        say(f"{name}: " + ", ".join(f"{rate:g} {value * 100:.2f}" for rate, value in found.items()) + f"; taken: {way.rate:g}")


def predict_all(bench: Bench, examples: list[int], seed: int, ranks: Any) -> None:
    """Every method with one seed; predictions are kept in the folder."""
    from stillhouse.data.views import WHOLE_ROWS
    from stillhouse.modalities.text.rows import text_task
    from stillhouse.modalities.text.rows.linear_text import linear_predictions
    from stillhouse.modalities.text.table.tokens import read_tokens
    from stillhouse.runtime.predict import predict
    from stillhouse.targets.classes.train import classifier

    new = bench.folder / DATA / "preprocess" / "new"
    test = read_tokens(new / "test.arrow")
    for number in examples:
        for name, way in ways(bench.source).items():

            def run(name: str = name, way: Way = way, number: int = number) -> np.ndarray:
                model, task, history = bench.finetune(way, number, seed, ranks)
                predicted = predict(model, test, task.collator(test, WHOLE_ROWS, 0), ranks).argmax(1)
                score = np.mean(predicted == test.labels) * 100
                say(f"seed {seed}, {number} examples, {name}: {score:.2f}, {history.seconds:.0f} s")
                return predicted

            predictions(result(bench.folder, name, number), run)

        def linear(number: int = number) -> np.ndarray:
            rows = classifier.choose(text_task.read_task(new), number, seed)
            return linear_predictions(rows.texts.to_pylist(), rows.labels, test.texts.to_pylist())[0]

        predictions(result(bench.folder, "linear", number), linear)


def result(folder: Path, name: str, examples: int) -> Path:
    return folder / "results" / f"{name}-{examples}.npy"


def summarise(folders: list[Path], examples: list[int], samples: int) -> tuple[dict[str, float], list[str]]:
    """Figures, and the table."""
    from stillhouse.modalities.text.table.tokens import read_tokens

    labels = read_tokens(folders[0] / DATA / "preprocess" / "new" / "test.arrow").labels
    right = {
        (name, number): np.stack([np.load(result(folder, name, number)) == labels for folder in folders])
        for name in [*METHODS, "linear"]
        for number in examples
    }
    figures: dict[str, float] = {}
    table = ["| method | " + " | ".join(f"{number} per class | lead over scratch" for number in examples) + " |"]
    table.append("|---" * (1 + 2 * len(examples)) + "|")
    for name in [*METHODS, "linear"]:
        cells = []
        for number in examples:
            per_seed = right[name, number].mean(1)
            figures[f"{name}_{number}"] = float(per_seed.mean())
            spread = f"{per_seed.min() * 100:.1f} to {per_seed.max() * 100:.1f}"
            cells.append(f"{per_seed.mean() * 100:.2f} ({spread})")
            if name == "scratch":
                cells.append("")
                continue
            scratch = right["scratch", number]
            low, high = paired_interval(right[name, number], scratch, lambda one, rows: float(one[rows].mean()), samples)
            lead = float(per_seed.mean() - scratch.mean())
            key = f"{name}_{number}_lead"
            figures |= {key: lead, f"{key}_low": low, f"{key}_high": high}
            cells.append(f"{lead * 100:+.2f} ({low * 100:+.2f} to {high * 100:+.2f})")
        table.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    return figures, table


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: 1 2 3, with --quick: 1 2")
    parser.add_argument("--examples", type=int, nargs="+", help="per class; default: 5 10 30, with --quick: 5")
    parser.add_argument("--steps", type=int, default=300, help="of fine-tuning")
    parser.add_argument("--threads", type=int, default=1, help="of every training (default: 1)")
    parser.add_argument("--folder", type=Path, help="keep students and results here, and go on from what is there")
    parser.add_argument("--tune", action="store_true", help="show the choice of learning rates, on validation rows alone")
    parser.add_argument("--write", action="store_true", help="put the table into docs/results.md")
    parser.add_argument("--source", choices=list(TUNED), default="cloze", help="what teacher and student learn from")
    options = parser.parse_args()
    seeds = options.seeds or ([1, 2] if options.quick else [1, 2, 3])
    examples = options.examples or ([5] if options.quick else [5, 10, 30])
    steps = 6 if options.quick else options.steps
    with one_line_errors("transfer"), place(options.folder) as folder:
        root = repository_root()
        facts = [f"machine: {machine()}, {options.threads} threads", f"commit: {commit(root)}", f"seeds: {seeds}"]
        say("\n".join(["Transfer to banking77", *facts]))
        params = recipe(options.source, options.threads)
        raw = [test_data() / name / f"{split}.csv" for name in ("hwu64", "banking77") for split in ("train", "test")]
        params["ingest"]["new"] |= {"train": "banking77_train.csv", "test": "banking77_test.csv"}
        if options.source == "cloze":
            params["ingest"]["source"] |= {"files": ["banking77_train.csv", "hwu64_train.csv"]}
        else:
            params["ingest"]["source"] |= {"train": "hwu64_train.csv", "test": "hwu64_test.csv"}
        if options.quick:
            quickly(params)
        folders = []
        for seed in seeds:
            folders.append(folder / f"seed-{seed}")
            run_stages(folders[-1], params | {"seed": seed}, raw, STAGES)
            measure(Bench(folders[-1], options.source, params, steps), examples, seed, options)
        figures, table = summarise(folders, examples, 20 if options.quick else 1000)
        say("\n".join(table))
        if options.write and not options.quick:
            words = ["--source", options.source, "--seeds", *seeds, "--examples", *examples, "--steps", steps, "--write"]
            command = " ".join(map(str, words))
            lines = [
                f"Written by `python -m benchmarks.transfer {command}`,",
                "whose docstring says what is measured: accuracy on banking77's test split in per cent, mean (over seeds).",
                "",
                *table,
                "",
                *(f"* {fact}" for fact in [*facts, f"date: {datetime.datetime.now(datetime.UTC).date()}"]),
            ]
            write_section(TITLES[options.source], lines)
    finish(**figures)


def measure(bench: Bench, examples: list[int], seed: int, options: Any) -> None:
    import transformers

    from stillhouse.runtime.distributed import join

    transformers.logging.set_verbosity_error()
    with join(options.threads) as ranks:
        if options.tune:
            tune(bench, ranks)
        predict_all(bench, examples, seed, ranks)


def quickly(params: dict[str, Any]) -> None:
    """Few rows, classes and steps."""
    few = (
        {"words": 20, "max_rows": 1000}
        if params["ingest"]["source"]["kind"] == "cloze"
        else {"labels": ["alarm_query", "alarm_set", "audio_volume_mute"]}
    )
    params["ingest"]["source"] |= few
    params["ingest"]["new"] |= {"labels": ["activate_my_card", "age_limit", "card_arrival", "cash_withdrawal_charge"]}
    for block in (params["train_teacher"], params["student"]):
        block["training"] |= {"steps": 2, "evaluate_every": 2}
    params["train_teacher"]["model"]["config"] |= {"hidden_size": 32, "ngram_buckets": 256, "intermediate_size": 32}


if __name__ == "__main__":
    main()
