"""What stored labels of views add to a training step on pictures, and how many pictures a second we train on beside timm.

    python -m benchmarks.image_step [--quick] [--threads N] [--timm-python PYTHON --timm-script train.py]

`stored_over_ce`: time per step of the student of `recipes/image.yaml` with soft labels of the very views from a store on disk,
over that with true labels alone, on the same views; the median over rounds of both, each a training of some steps.

`over_timm`: pictures a second of our loop over those of timm's own training script (`train.py` of its repository, at the tag
of the installed timm), on the same ViT (a student's: two layers of 32, 17 positions), pictures (the sample's digits, 28 x 28),
batch, threads, optimizer and augmentation (cut-outs of at least 0.7 of the area, mirrored). `over_timm_larger` is the same of
four layers of 64 with 50 positions, where nine tenths of a step are the same kernels in both. timm reads PNG files in workers:
with one worker beside one thread, and with as many workers as threads; the faster of the two counts. PYTHON is the
interpreter of an environment with timm and a torch of the same release; without it this part is left out. Rounds alternate.
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import arguments, finish, machine, say
from benchmarks.text_setting import recipe, run_stages
from stillhouse.core.artifacts import DATA
from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.errors import ArtifactError
from stillhouse.core.params import build

ROUNDS, STEPS, BATCH = 15, 60, 128
VIEWS = {"count": 4, "min_area": 0.7, "flip": True}
VITS = {"": (32, 2, 7, 200), "_larger": (64, 4, 4, STEPS)}
"""End of the figure's name to size, layers, patch and steps; there is an attention head for every 16 features."""
TIMM_ROUNDS = 3
COPIES = 4
"""Of each file, so that an epoch of timm's is long enough."""
RATE = re.compile(r"Time: [\d.]+s, +([\d.]+)/s")


class Side:
    """Trainings of a task's student, with or without stored labels."""

    def __init__(self, folder: Path, quick: bool):
        from stillhouse.modalities.images.rows import image_task

        self.task = image_task.read_task(folder / DATA / "preprocess" / "source")
        # Scores of a single row: what is measured is the steps.
        self.task = replace(self.task, validation=self.task.validation.select(np.arange(1)))
        self.params, self.quick, self.folder = recipe("image", 2), quick, folder

    def rate(self, model: dict[str, Any], views: dict[str, Any], ranks: Any, loss: Any = None, steps: int = STEPS) -> float:
        """Pictures a second of one training."""
        from stillhouse.modalities.images.rows import image_task
        from stillhouse.modalities.images.table.image_config import ImageViews
        from stillhouse.models.config import ModelParams
        from stillhouse.targets.classes.train.classifier import fit
        from stillhouse.targets.classes.train.image_training_config import ImageTraining

        steps = 2 if self.quick else steps
        given = self.params["student"]["training"] | {
            "steps": steps, "evaluate_every": steps, "batch_size": BATCH, "schedule": {"name": "constant"},
            "optimizer": {"name": "adamw", "learning_rate": 1e-3},
        }  # fmt: skip
        network = image_task.build(ModelParams(**model), self.task, 1)
        training, shown = build(ImageTraining, given, "training"), build(ImageViews, views, "views")
        rows = self.task.train if loss else None
        history = fit(network, self.task, training, shown, shown.count, 1, ranks, "student", rows=rows, loss=loss)
        return history.tokens / history.seconds

    def stored(self, ranks: Any) -> Any:
        """Distillation from a store of a new teacher's labels."""
        from stillhouse.modalities.images.rows import image_task
        from stillhouse.modalities.images.table.image_config import ImageViews
        from stillhouse.models.config import ModelParams
        from stillhouse.soft_labels.produce.export import Teachers
        from stillhouse.targets.classes.export_soft_labels.export_classifier import export_classifier
        from stillhouse.targets.classes.losses.class_losses import ClassDistillation
        from stillhouse.targets.classes.soft_labels.class_binding import classifier_binding
        from stillhouse.targets.classes.train_student.classifier_objective import stored_log_probs

        views = build(ImageViews, self.params["views"], "views")
        teacher = image_task.build(ModelParams(**self.params["student"]["model"]), self.task, 2).eval()
        binding = classifier_binding(self.task, views, 1, "teacher")
        place = self.folder / "labels"
        export_classifier(Teachers([teacher], [1.0]), self.task, views, 1, binding, place, 512, 16384, ranks)
        return ClassDistillation(stored_log_probs(place, self.task, views, 1, "teacher", ranks), temperature=1.0, weight=1.0)


def labels_over_truth(side: Side, ranks: Any, rounds: int) -> float:
    model, views, loss = side.params["student"]["model"], side.params["views"], side.stored(ranks)
    ratios = []
    for number in range(rounds + 1):
        # The side that begins changes, because what runs first may find a cooler processor.
        order = (None, loss) if number % 2 else (loss, None)
        rates = {side_loss is loss: side.rate(model, views, ranks, side_loss) for side_loss in order}
        if number:
            ratios.append(rates[False] / rates[True])
            say(f"round {number}/{rounds}: {rates[True]:,.0f} pictures a second with labels, {rates[False]:,.0f} without")
    say(f"stored over cross-entropy: {statistics.median(ratios):.4f} ({min(ratios):.3f} to {max(ratios):.3f})")
    return statistics.median(ratios)


def write_files(side: Side, folder: Path) -> None:
    """The training rows as PNG files in folders of classes, as timm reads them."""
    from stillhouse.modalities.images.ingest.pictures import encode_png

    rows = side.task.labelled()
    for row, picture in enumerate(rows.at(np.arange(len(rows)))):
        place = folder / side.task.labels[rows.labels[row]]
        place.mkdir(parents=True, exist_ok=True)
        data = encode_png(picture[..., 0])
        for copy in range(COPIES):
            (place / f"{row}-{copy}.png").write_bytes(data)


def timm_rate(python: str, script: Path, files: Path, side: Side, model: list[str], workers: int, threads: int) -> float:
    """Pictures a second of an epoch of timm's script. Raises ArtifactError if it fails."""
    facts = side.task.facts
    words = [
        python, str(script), "--data-dir", str(files.parent), "--train-split", files.name, "--val-split", files.name,
        "--device", "cpu", "--num-classes", str(len(side.task.labels)), "--input-size", "1", "28", "28",
        "--mean", str(facts.mean[0]), "--std", str(facts.std[0]), "--batch-size", str(BATCH), "--epochs", "1",
        "--workers", str(workers), "--opt", "adamw", "--lr", "1e-3", "--scale", "0.7", "1.0", "--color-jitter", "0",
        "--interpolation", "bilinear", "--smoothing", "0", "--log-interval", "5", "--output", str(files.parent / "out"),
        *model,
    ]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(words, capture_output=True, text=True, env=env, cwd=files.parent)
    rates = [float(rate) for rate in RATE.findall(done.stdout + done.stderr)]
    if len(rates) < 3:
        raise ArtifactError(f"timm's script ended with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
    return statistics.median(rates[1:])


def against_timm(side: Side, ranks: Any, python: str, script: Path, threads: int) -> dict[str, float]:
    files = side.folder / "files" / "train"
    write_files(side, files)
    found = {}
    for end, (size, layers, patch, steps) in VITS.items():
        sizes = {"hidden_size": size, "num_hidden_layers": layers, "num_attention_heads": size // 16, "patch_size": patch}
        ours_model = {"architecture": "vit", "config": sizes | {"intermediate_size": 4 * size}}
        same = [f"patch_size={patch}", f"embed_dim={size}", f"depth={layers}", f"num_heads={size // 16}"]
        model = ["--model", "vit_tiny_patch16_224", "--model-kwargs", "img_size=28", *same]
        ratios = []
        for number in range(TIMM_ROUNDS):
            ours = side.rate(ours_model, VIEWS, ranks, steps=steps)
            theirs = {
                f"{workers} workers, {each} threads": timm_rate(python, script, files, side, model, workers, each)
                for workers, each in ((1, max(1, threads - 1)), (threads, threads))
            }
            ratios.append(ours / max(theirs.values()))
            told = ", ".join(f"{rate:,.0f} ({name})" for name, rate in theirs.items())
            say(f"{layers} layers of {size}, round {number + 1}/{TIMM_ROUNDS}: ours {ours:,.0f} pictures a second, timm {told}")
        found[f"over_timm{end}"] = statistics.median(ratios)
        say(f"over timm, {layers} layers of {size}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--threads", type=int, default=2, help="of every training (default: 2)")
    parser.add_argument("--timm-python", help="interpreter of an environment with timm")
    parser.add_argument("--timm-script", type=Path, help="train.py of timm's repository")
    options = parser.parse_args()
    with one_line_errors("image_step"), tempfile.TemporaryDirectory() as scratch:
        from stillhouse.runtime.distributed import join

        folder = Path(scratch)
        say(f"machine: {machine()}, {options.threads} threads; recipe image, seed 1, {STEPS} steps of {BATCH} pictures")
        params = recipe("image", options.threads)
        params["preprocess"]["withheld_labels"] = 0.0
        run_stages(folder, params | {"ingest": params["ingest"] | {"new": None}}, [], ["ingest", "preprocess"])
        side, figures = Side(folder, options.quick), {}
        with join(options.threads) as ranks:
            figures["stored_over_ce"] = labels_over_truth(side, ranks, 1 if options.quick else ROUNDS)
            if options.timm_python and options.timm_script and not options.quick:
                figures |= against_timm(side, ranks, options.timm_python, options.timm_script, options.threads)
            else:
                print("timm is left out: no --timm-python and --timm-script", file=sys.stderr)
    finish(**figures)


if __name__ == "__main__":
    main()
