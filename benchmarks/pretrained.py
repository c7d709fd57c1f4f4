"""What a small student of a pretrained teacher is worth, beside a linear model and the same student without a teacher.

    python -m benchmarks.pretrained --model FOLDER [--data banking77 hwu64 snips] [--seeds 1 2 3] [--folder DIR]
                                    [--threads N] [--quick]

`recipes/pretrained.yaml` on intents of the test data, with the sentence model in FOLDER (as `make model` leaves it) as teacher.
Everything is chosen on validation rows; test rows are looked at once. Figures are means over the data sets and seeds: accuracy
on test rows in per cent (`teacher`, `student`, `baseline`, `linear`), the student's `weights`, and `ms_a_text` on one core.
Results already in the folder are not computed again.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import arguments, commit, finish, machine, say
from benchmarks.text_setting import place, recipe, run_stages, test_data
from flows.repository.workspace import repository_root
from stillhouse.core.artifacts import DATA, TIMING, read_json
from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.errors import ArtifactError

LABELS = {"banking77": "category", "hwu64": "intent", "snips": "intent"}
FILES = {"snips": ("train", "validation")}
"""Splits that are given as training and test rows, where they are not called so."""
MODEL = Path("data") / "raw" / "models" / "teacher"
STAGES = [
    "ingest", "preprocess", "launch train_teacher", "launch export_soft_labels", "launch train_student",
    "launch train_baseline", "launch finetune", "evaluate",
]  # fmt: skip
NAMES = ("teacher", "student", "baseline", "linear")


def run(folder: Path, data: str, seed: int, model: Path, threads: int, quick: bool) -> dict[str, float]:
    """All stages up to the evaluation, and what that measured."""
    params: dict[str, Any] = recipe("pretrained", threads) | {"seed": seed}
    train, test = FILES.get(data, ("train", "test"))
    files = [test_data() / data / f"{split}.csv" for split in (train, test)]
    names = {key: f"{data}_{path.name}" for key, path in zip(("train", "test"), files, strict=True)}
    params["ingest"]["source"] = {"kind": "files", "text": "text", "label": LABELS[data], **names}
    params["train_teacher"]["model"]["pretrained"] = str(MODEL)
    params["preprocess"]["teacher"]["tokenizer"]["pretrained"] = str(MODEL)
    if quick:
        params["ingest"]["source"]["max_rows"] = 400
        for training in (
            params["train_teacher"]["head_training"],
            params["train_teacher"]["training"],
            params["student"]["training"],
        ):
            training |= {"steps": 4, "evaluate_every": 4, "schedule": {"name": "constant"}}
    if not (folder / MODEL).exists():
        shutil.copytree(model, folder / MODEL)
    run_stages(folder, params, files, STAGES)
    scores = read_json(folder / DATA / "evaluate" / "metrics.json")["source"]
    figures = {name: 100 * scores[name]["accuracy"] for name in NAMES}
    latency = read_json(folder / DATA / "evaluate" / TIMING).get("source_student_latency_ms", float("nan"))
    return figures | {"weights": scores["student"]["parameters"], "ms_a_text": latency}


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--model", type=Path, required=True, help="folder of a sentence model, as make model leaves it")
    parser.add_argument("--data", nargs="+", default=list(LABELS), choices=list(LABELS), help="data sets of intents")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="one whole run each")
    parser.add_argument("--folder", type=Path, help="where results are kept")
    parser.add_argument("--threads", type=int, default=2, help="of the trainings")
    options = parser.parse_args()
    with one_line_errors("pretrained"):
        root = repository_root()
        if not (options.model / "config.json").is_file():
            raise ArtifactError(f"{options.model} holds no config.json; 'make model' makes such a folder")
        say(f"machine: {machine()}")
        say(f"commit: {commit(root)}; recipe pretrained, {options.threads} threads")
        found: list[dict[str, float]] = []
        with place(options.folder) as folder:
            for data in options.data:
                for seed in options.seeds[:1] if options.quick else options.seeds:
                    figures = run(
                        folder / data / str(seed), data, seed, options.model.absolute(), options.threads, options.quick
                    )
                    say(f"{data} seed {seed}: " + ", ".join(f"{name} {figures[name]:.2f}" for name in figures))
                    found.append(figures)
        finish(**{name: float(np.mean([figures[name] for figures in found])) for name in found[0]})


if __name__ == "__main__":
    main()
