"""What stored soft labels are worth to a language model, beside an online teacher and beside no teacher.

    python -m benchmarks.lm_quality [--data sample|novels] [--seeds 1 2 3] [--folder DIR] [--no-curve] [--write] [--quick]

Trains the teacher of `recipes/lm.yaml` on the sample's Python code or on the Victorian novels of the test data, then the
student, with equal steps, batches and starting weights, by cross-entropy (`ce`), from an online teacher's full distribution
(`online`) and from stores with threshold samples N = 50 (`stored`), per seed; and once, with the first seed, from residual
draws, from other N, from the paper's multinomial draws, and from top-k. Figures are mean nats per token on test
documents. `gap_closed`: the stored student's lead over cross-entropy, over the online one's; `gap_closed_low`, `..._high`: its
95 % interval, by bootstrap over test blocks and seeds together. Results already in the folder are not computed again.
`--no-curve` leaves out the students of the first seed alone; `--write` puts the table into `docs/results.md`.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from benchmarks.common import arguments, commit, finish, machine, say
from benchmarks.text_setting import write_section
from flows.repository.workspace import environment, repository_root
from stillhouse.core.artifacts import DATA, MANIFEST, read_json
from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.errors import DataError
from stillhouse.core.params import build

CURVE = [
    ("residual", 50),
    ("threshold", 12),
    ("threshold", 24),
    ("threshold", 127),
    ("multinomial", 50),
    ("topk", 12),
    ("topk", 50),
    ("topk_tail", 12),
]
STAGES = ("ingest", "preprocess", "launch train_teacher")


@dataclass
class Bench:
    """A folder with a trained teacher, and what was measured there so far."""

    folder: Path
    params: dict[str, Any]

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def known(self, name: str) -> np.ndarray | None:
        """Nats of every test block, summed."""
        path = self.results / f"{name}.npy"
        return np.load(path) if path.exists() else None

    def keep(self, name: str, nats: np.ndarray) -> None:
        self.results.mkdir(exist_ok=True)
        np.save(self.results / f"{name}.npy", nats)


def prepare(folder: Path, data: str, quick: bool, threads: int) -> Bench:
    """Run the stages up to the teacher, unless they have been run in the folder."""
    root = repository_root()
    yaml = YAML(typ="safe")
    params = yaml.load((root / "recipes" / "lm.yaml").read_text())
    params["threads"] = threads
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data" / "raw").mkdir(parents=True, exist_ok=True)
    if data == "novels":
        source = root.parent / "shared" / "data" / "lm"
        if not source.is_dir():
            raise DataError(f"{source} does not exist; the novels are part of the test data")
        names = {}
        for split in ("train", "validation", "test"):
            target = folder / "data" / "raw" / f"novels_{split}.parquet"
            target.write_bytes((source / "victorian_novels" / f"{split}.parquet").read_bytes())
            names[split] = target.name
        params["ingest"]["source"] = {"kind": "files", **names, "text": "text", "document": "book"}
        for split, name in (("train", "train.txt"), ("validation", "val.txt"), ("test", "val.txt")):
            text = (source / "tinyshakespeare" / name).read_text()
            half = len(text) // 2
            text = {"train": text, "validation": text[:half], "test": text[half:]}[split]
            (folder / "data" / "raw" / f"shakespeare_{split}.txt").write_text(text)
        splits = {split: f"shakespeare_{split}.txt" for split in ("train", "validation", "test")}
        params["ingest"]["new"] = {"kind": "files", **splits}
    if quick:
        params["train_teacher"]["training"] |= {"steps": 2, "evaluate_every": 2}
        params["student"]["training"] |= {"steps": 2, "evaluate_every": 2}
        params["ingest"]["source"]["max_rows"] = 40
    (folder / "params.yaml").write_text(json.dumps(params))
    (folder / "env.lock").write_bytes((root / "env.lock").read_bytes())
    for stage in STAGES:
        if not (folder / DATA / stage.split()[-1] / "timing.json").exists():
            env = {**environment(root), "OMP_NUM_THREADS": str(threads)}
            subprocess.run(
                [sys.executable, "-m", *f"tasks.{stage}".split()], cwd=folder, env=env, check=True, stdout=sys.stderr
            )
    return Bench(folder, params)


def measure(bench: Bench, seeds: list[int], curve: list[tuple[str, int]]) -> dict[str, float]:
    """Every student; returns the figures."""
    import torch
    import transformers

    from stillhouse.data.blocks import read_blocks
    from stillhouse.modalities.blocks.rows import block_task
    from stillhouse.models.config import ModelParams
    from stillhouse.runtime.distributed import join
    from stillhouse.soft_labels.format.sampler import Sampler
    from stillhouse.soft_labels.produce.export import Teachers
    from stillhouse.targets.next_token.export_soft_labels.export_language import export_language
    from stillhouse.targets.next_token.predict.language_predict import block_nats
    from stillhouse.targets.next_token.soft_labels.token_binding import language_binding
    from stillhouse.targets.next_token.train import language_model
    from stillhouse.targets.next_token.train_student.language_objective import online_targets, stored_targets
    from stillhouse.training.config import TrainingParams

    transformers.logging.set_verbosity_error()
    folder, params = bench.folder, bench.params
    task = block_task.read_task(folder / DATA / "preprocess" / "source")
    test = read_blocks(folder / DATA / "preprocess" / "source" / "test.arrow")
    weights = read_json(folder / DATA / "train_teacher" / MANIFEST)["weights"]
    training = build(TrainingParams, params["student"]["training"], "recipes/lm.yaml")
    model_params = build(ModelParams, params["student"]["model"], "recipes/lm.yaml")
    teacher = block_task.load(folder / DATA / "train_teacher" / "model")
    with join(params["threads"]) as ranks:

        def train(name: str, seed: int, objective) -> np.ndarray:
            nats = bench.known(name)
            if nats is None:
                model = block_task.build(model_params, task, seed)
                history = language_model.fit(model, task, training, None, 0, seed, ranks, name, loss=objective())
                nats = block_nats(model, test, task.facts.pad_id, ranks)
                bench.keep(name, nats)
                say(f"{name}: {nats.sum() / test.lengths.sum():.5f} nats per token, {history.seconds:.0f} s")
            return nats

        def distilled(targets):
            return language_model.Distillation(task.train.lengths, targets, 1.0, 1.0)

        def store(method: str, samples: int, seed: int):
            place = folder / "stores" / f"{method}-{samples}-{seed}"
            if not (place / MANIFEST).exists():
                sampler = Sampler(method, samples, seed, bases=64 if method == "residual" else 0)
                binding = language_binding(task, weights, sampler)
                quality, _ = export_language(Teachers([teacher], [1.0]), task, sampler, binding, place, 16, 2048, ranks)
                say(f"store {place.name}: {quality['ids_per_token']:.2f} ids, {quality['bytes_per_token']:.2f} bytes per token")
            return stored_targets(place, task, weights, 1.0, ranks)

        def online():
            return distilled(online_targets(folder / DATA / "train_teacher" / "model", task.facts.vocab_size, ranks))

        tokens = int(test.lengths.sum())
        teacher_nats = block_nats(teacher, test, task.facts.pad_id, ranks).sum() / tokens
        say(f"teacher: {teacher_nats:.5f} nats per token on {tokens:,} test tokens")
        by_seed: dict[str, list[np.ndarray]] = {"ce": [], "stored": [], "online": []}
        for seed in seeds:
            by_seed["ce"].append(train(f"ce-{seed}", seed, lambda: None))
            by_seed["stored"].append(train(f"stored-{seed}", seed, lambda s=seed: distilled(store("threshold", 50, s))))
            by_seed["online"].append(train(f"online-{seed}", seed, online))
        figures = {"teacher": teacher_nats} | {
            name: float(np.mean([nats.sum() for nats in of])) / tokens for name, of in by_seed.items()
        }
        figures |= {
            f"{name}_{seed}": float(nats.sum()) / tokens
            for name, of in by_seed.items()
            for seed, nats in zip(seeds, of, strict=True)
        }
        figures |= gap(by_seed)
        for method, samples in curve:
            name = f"{method}_{samples}"
            nats = train(name, seeds[0], lambda m=method, n=samples: distilled(store(m, n, seeds[0])))
            figures[f"{name}_{seeds[0]}"] = float(nats.sum()) / tokens
        torch.set_num_threads(1)
    return figures


def gap(by_seed: dict[str, list[np.ndarray]]) -> dict[str, float]:
    """Share of the online teacher's lead over cross-entropy that the stored labels give, with an interval."""
    ce, stored, online = (np.stack(by_seed[name]) for name in ("ce", "stored", "online"))

    def share(of: tuple[np.ndarray, np.ndarray]) -> float:
        seeds, blocks = of
        sums = [values[seeds][:, blocks].sum() for values in (ce, stored, online)]
        return float((sums[0] - sums[1]) / (sums[0] - sums[2]))

    generator = np.random.default_rng(0)
    everything = (np.arange(len(ce)), np.arange(ce.shape[1]))
    draws = [
        share((generator.integers(0, len(ce), len(ce)), generator.integers(0, ce.shape[1], ce.shape[1]))) for _ in range(1000)
    ]
    low, high = np.quantile(draws, [0.025, 0.975])
    return {"gap_closed": share(everything), "gap_closed_low": float(low), "gap_closed_high": float(high)}


def table(figures: dict[str, float], data: str, seeds: list[int]) -> list[str]:
    """The section of `docs/results.md`."""
    columns = [str(seed) for seed in seeds]
    names = list(dict.fromkeys(name.rpartition("_")[0] for name in figures if name.rpartition("_")[2] in columns))

    def cell(value: float | None) -> str:
        return "" if value is None else f"{value:.4f}"

    rows = [
        f"| {name.replace('_', ' ')} | {' | '.join(cell(figures.get(f'{name}_{seed}')) for seed in seeds)} |" for name in names
    ]
    closed, low, high = (100 * figures[name] for name in ("gap_closed", "gap_closed_low", "gap_closed_high"))
    return [
        f"Written by `python -m benchmarks.lm_quality --data {data} --seeds {' '.join(columns)} --write`,",
        "whose docstring says what is measured: nats per token on test documents, of the student of `recipes/lm.yaml`; its",
        f"teacher has {figures['teacher']:.4f}.",
        "",
        f"Stored samples (threshold, N = 50) close {closed:.1f} % (95 % interval {low:.1f} to {high:.1f}) of the gap that the",
        "online teacher closes over cross-entropy, with equal steps.",
        "",
        f"| labels | {' | '.join(f'seed {seed}' for seed in seeds)} |",
        f"|---|{'---|' * len(seeds)}",
        *rows,
        "",
        f"* machine: {machine()}",
        f"* commit: {commit(repository_root())}",
        f"* date: {date.today()}",
    ]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--data",
        choices=("sample", "novels"),
        default="sample",
        help="what the models learn from",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="a training each (default: 1 2 3)")
    parser.add_argument("--folder", type=Path, help="keep teacher, stores and results here, and go on from what is there")
    parser.add_argument("--threads", type=int, default=2, help="of every training (default: 2)")
    parser.add_argument("--no-curve", action="store_true", help="only the students that every seed has")
    parser.add_argument("--write", action="store_true", help="put the table into docs/results.md")
    options = parser.parse_args()
    with one_line_errors("lm_quality"), tempfile.TemporaryDirectory() as scratch:
        folder = (options.folder or Path(scratch)).resolve()
        say("Language model students: cross-entropy, stored soft labels, online teacher")
        say(f"machine: {machine()}")
        say(f"commit: {commit(repository_root())}; recipe lm, data {options.data}, seeds {options.seeds}")
        bench = prepare(folder, options.data, options.quick, options.threads)
        seeds = options.seeds[:1] if options.quick else options.seeds
        figures = measure(bench, seeds, CURVE[:1] if options.quick else [] if options.no_curve else CURVE)
        for name, value in figures.items():
            say(f"{name:20} {value:.5f}")
        if options.write and not options.quick:
            write_section(f"Language model, {options.data}", table(figures, options.data, seeds))
    finish(**figures)


if __name__ == "__main__":
    main()
