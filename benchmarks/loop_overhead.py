"""What our training loop costs per step, beside a bare PyTorch loop and transformers' Trainer.

    python -m benchmarks.loop_overhead [--quick]

All three walk the same steps: the student of `params.yaml` from the same weights, the same batches drawn by the same
`BatchPlan` and padded by the same `Collator` inside the timed steps (the Trainer is handed each as one item of a data
set, in order), the same fused AdamW over the same parameter groups, the same schedule, clipping, precision, threads and
deterministic kernels. The loss on the first batch after the last step, printed for all three, shows that the work was
the same.

Timed is the time from the first step's start to the last one's end, without set-up. Ours includes what it cannot leave out:
progress, points of the learning curve every `log_every` steps, and one evaluation on a single row, with the copy of
the best weights. The rivals do none of these. Rounds alternate (ours, bare, Trainer, ours ...) after one that is not
counted; a ratio is the median over rounds of our time over theirs in the same round, so that a slow minute of the machine
hits both sides.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
import transformers
from torch.utils.data import Dataset
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from benchmarks.common import arguments, finish, say
from benchmarks.setting import Setting
from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.errors import ParamsError
from stillhouse.data.batch import Batch
from stillhouse.data.batches import BatchPlan
from stillhouse.modalities.text.rows.text_batches import Collator
from stillhouse.runtime.distributed import Ranks, join
from stillhouse.training.optim.optimizers import parameter_groups
from stillhouse.training.optim.schedules import Schedule


class Batches(Dataset):
    """Item i is the whole padded batch of step i, as the loop draws it."""

    def __init__(self, setting: Setting):
        params, training = setting.params, setting.training
        self.steps = training.steps
        self.plan = BatchPlan(setting.rows, training.batch_size, params.seed, training.bucket_batches, params.views.count)
        self.collate = Collator(setting.rows, setting.task.facts, params.views, params.seed)

    def __len__(self) -> int:
        return self.steps

    def batch(self, step: int) -> Batch:
        return self.collate(*self.plan(step))

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        batch = self.batch(step)
        return {**batch.inputs, "labels": batch.labels}


def adamw(model: PreTrainedModel, setting: Setting) -> torch.optim.AdamW:
    options = setting.training.optimizer
    return torch.optim.AdamW(
        parameter_groups(model, options), lr=options.learning_rate, betas=(options.beta1, options.beta2), fused=True
    )


def run_ours(model: PreTrainedModel, setting: Setting, ranks: Ranks) -> float:
    return setting.fit(model, ranks).seconds


def run_bare(model: PreTrainedModel, setting: Setting, ranks: Ranks) -> float:
    """The loop one writes by hand."""
    training, device = setting.training, ranks.device
    model.to(device).train()
    optimizer, schedule, batches = adamw(model, setting), Schedule(training.schedule, training.steps), Batches(setting)
    losses = []
    start = time.perf_counter()
    for step in range(training.steps):
        for group in optimizer.param_groups:
            group["lr"] = group["base_rate"] * schedule.factor(step)
        inputs = {name: values.to(device) for name, values in batches[step].items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=training.precision == "bf16"):
            loss = model(**inputs).loss
        loss.backward()
        if training.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), training.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
    float(torch.stack(losses).mean())
    return time.perf_counter() - start


class Clock(TrainerCallback):
    """From behind the Trainer's set-up to the end of its last step."""

    start = end = 0.0

    def on_train_begin(self, args, state, control, **_):
        self.start = time.perf_counter()

    def on_step_end(self, args, state, control, **_):
        if state.global_step == state.max_steps:
            if args.device.type == "cuda":
                torch.cuda.synchronize()
            self.end = time.perf_counter()


def run_trainer(model: PreTrainedModel, setting: Setting, ranks: Ranks) -> float:
    """transformers' Trainer without evaluation, logs and checkpoints."""
    training, clock = setting.training, Clock()
    # What `optim="adamw_torch_fused"` makes, with our groups: the Trainer's own would decay embeddings.
    optimizer = adamw(model.to(ranks.device), setting)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, Schedule(training.schedule, training.steps).factor)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model,
            TrainingArguments(
                folder,
                max_steps=training.steps,
                per_device_train_batch_size=1,
                train_sampling_strategy="sequential",
                optim="adamw_torch_fused",
                max_grad_norm=training.clip_norm or 0.0,
                bf16=training.precision == "bf16",
                use_cpu=ranks.device.type == "cpu",
                logging_strategy="no",
                logging_nan_inf_filter=False,
                eval_strategy="no",
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                dataloader_pin_memory=ranks.device.type == "cuda",
            ),
            data_collator=lambda items: items[0],
            train_dataset=Batches(setting),
            callbacks=[clock],
            optimizers=(optimizer, schedule),
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    return clock.end - clock.start


SIDES: dict[str, Callable[[PreTrainedModel, Setting, Ranks], float]] = {
    "ours": run_ours,
    "bare": run_bare,
    "trainer": run_trainer,
}


@torch.no_grad()
def loss_on_first_batch(model: PreTrainedModel, setting: Setting, ranks: Ranks) -> float:
    inputs = Batches(setting)[0]
    return float(model.eval()(**{name: values.to(ranks.device) for name, values in inputs.items()}).loss)


def rounds(setting: Setting, ranks: Ranks, count: int) -> Iterator[dict[str, float]]:
    """Milliseconds per step of each side, round by round; the first is a warm-up."""
    for number in range(count + 1):
        times, losses = {}, {}
        for name, run in SIDES.items():
            model = setting.build()
            times[name] = run(model, setting, ranks) / setting.training.steps * 1000
            losses[name] = loss_on_first_batch(model, setting, ranks)
        say(
            (f"round {number}/{count}: " if number else "warm-up: ")
            + ", ".join(f"{name} {value:.2f} ms" for name, value in times.items())
            + "; loss on the first batch: "
            + ", ".join(f"{value:.5f}" for value in losses.values())
        )
        if number:
            yield times


def main() -> None:
    options = arguments(__doc__).parse_args()
    transformers.logging.set_verbosity_error()
    with one_line_errors("loop_overhead"):
        setting = Setting.read(steps=4 if options.quick else 200)
        if setting.training.optimizer.name != "adamw":
            raise ParamsError(
                f"params.yaml: student.training.optimizer is {setting.training.optimizer.name}; compared is adamw"
            )
        setting.describe("Time per training step: our loop, a bare PyTorch loop, transformers' Trainer")
        with join(setting.params.threads) as ranks:
            measured = list(rounds(setting, ranks, 1 if options.quick else 15))
    say(f"{'':10}{'median':>10}{'lowest':>10}{'highest':>10}   ms per step")
    for name in SIDES:
        values = [times[name] for times in measured]
        say(f"{name:10}{statistics.median(values):10.2f}{min(values):10.2f}{max(values):10.2f}")
    ratios = {}
    for name in ("bare", "trainer"):
        values = np.array([times["ours"] / times[name] for times in measured])
        ratios[f"over_{name}"] = float(np.median(values))
        say(f"ours over {name}: {np.median(values):.3f} ({values.min():.3f} to {values.max():.3f})")
    finish(**ratios)


if __name__ == "__main__":
    main()
