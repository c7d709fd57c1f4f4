"""What stored soft labels add to a training step of the student, and what they save over an online teacher.

    python -m benchmarks.label_step [--quick] [--threads N]

Language model: a Llama-like student (hidden size 256, 4 layers), vocabularies of 8,192, 32,768 and 50,257. A step reads the
labels of its rows from a store on disk (checked and decoded), then forward pass, loss with weight 0.5, backward pass, fused
AdamW. The rival is the fastest of three cross-entropies: logits written out, the same in checkpointed chunks, our fused head
without targets. `lm_over_ce` is the median over rounds of the time with labels over the rival's, at the worst vocabulary.

Online: full forward KL to a teacher whose hidden states are computed in the step, its logits fused as ours are, so the
vocabulary is never written out. The teacher's depth is chosen so that its measured forward pass (with head) takes 3 (10)
times the student's. `speedup_over_online_3x` is its time per step over that with stored labels, at vocabulary 32,768.

Classification: the student of `params.yaml` in our loop, with soft labels of every row and view from a store (weight 0.5)
and with true labels alone; `classification_over_ce` is the ratio of time per step. `label_wait_share` is the part of a step
that went into reading labels, at the worst. A round is a step of every side (50 for classification); the first is not counted.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import LlamaForCausalLM

from benchmarks.common import arguments, finish, machine, say
from benchmarks.lm_setting import Reader, batch, llama, write_store
from benchmarks.setting import Setting
from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.progress import Progress
from stillhouse.data.batch import Batch
from stillhouse.losses.teacher_targets import TeacherHead
from stillhouse.runtime.distributed import Ranks, join
from stillhouse.soft_labels.format.manifest import Binding, Layout
from stillhouse.soft_labels.format.store import SoftLabels
from stillhouse.soft_labels.format.writer import SoftLabelsWriter
from stillhouse.targets.classes.losses.class_losses import ClassDistillation
from stillhouse.targets.next_token.losses.fused import default_chunk, fused_loss

SEED = 1


@dataclass(frozen=True)
class Size:
    vocabularies: tuple[int, ...] = (8192, 32768, 50257)
    hidden: int = 256
    layers: int = 4
    rows: int = 8
    """Of a batch."""
    positions: int = 128
    store_rows: int = 32
    ids: float = 13.0
    rounds: int = 15
    online_rounds: int = 7
    classification_rounds: int = 31
    classification_steps: int = 50


QUICK = Size((300,), 64, 1, 2, 16, 4, 5.0, 1, 1, 1, 4)

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, np.ndarray], torch.Tensor]
"""Hidden states (P, H), head (V, H), labels (P,) and rows (R,) to the loss summed over positions."""


def written_out(hidden_PH: torch.Tensor, head_VH: torch.Tensor, labels_P: torch.Tensor, _: np.ndarray) -> torch.Tensor:
    return F.cross_entropy(F.linear(hidden_PH, head_VH), labels_P, reduction="sum")


def in_chunks(hidden_PH: torch.Tensor, head_VH: torch.Tensor, labels_P: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
    size = default_chunk(len(head_VH), "cpu")
    parts = zip(hidden_PH.split(size), labels_P.split(size), strict=True)
    return sum(checkpoint(written_out, h, head_VH, l, rows, use_reentrant=False) for h, l in parts)  # noqa: E741


def fused(hidden_PH: torch.Tensor, head_VH: torch.Tensor, labels_P: torch.Tensor, _: np.ndarray) -> torch.Tensor:
    return fused_loss(hidden_PH, head_VH, None, labels_P, None, weight=0.0).total


class Side:
    """A student of its own with optimizer, trained by one loss."""

    def __init__(self, size: Size, vocabulary: int, tokens: np.ndarray, loss: Loss):
        self.model = llama(vocabulary, size.hidden, size.layers, size.positions, SEED).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        self.size, self.tokens, self.loss, self.last = size, tokens, loss, 0.0

    def step(self, number: int) -> None:
        rows = (np.arange(self.size.rows) + number * self.size.rows) % len(self.tokens)
        inputs, labels = batch(self.tokens, rows)
        hidden = self.model.model(input_ids=inputs, use_cache=False).last_hidden_state.flatten(0, 1)
        loss = self.loss(hidden, self.model.lm_head.weight, labels, rows) / len(labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.last = float(loss.detach())


class Clock:
    """Milliseconds by the wall and of the processor, to be used as a context."""

    wall = cpu = 0.0

    def __enter__(self) -> "Clock":
        self._start = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = (time.perf_counter() - self._start[0]) * 1000, (time.process_time() - self._start[1]) * 1000


Times = dict[str, list[Clock]]
"""Of each side in each round."""


def alternate(sides: dict[str, Side], rounds: int, title: str) -> Times:
    """A step of every side in each round."""
    times: Times = {name: [] for name in sides}
    with Progress(rounds + 1, title, "rounds") as bar:
        for number in range(rounds + 1):
            # Another side begins each round: what stands first meets colder caches.
            names = [*sides][number % len(sides) :] + [*sides][: number % len(sides)]
            for name in names:
                with Clock() as clock:
                    sides[name].step(number)
                if number:
                    times[name].append(clock)
            bar.update()
    for name in times:
        describe(times, name, f", loss at the end {sides[name].last:.4f}")
    return times


def median_ms(clocks: list[Clock]) -> float:
    return statistics.median(clock.wall for clock in clocks)


def describe(times: Times, name: str, more: str = "") -> None:
    walls = [clock.wall for clock in times[name]]
    cpu = statistics.median(clock.cpu for clock in times[name])
    say(f"  {name:22}{median_ms(times[name]):9.2f} ms ({min(walls):.2f} to {max(walls):.2f}), processor {cpu:.2f} ms{more}")


def ratio(above: list[Clock], below: list[Clock], what: str) -> tuple[float, float]:
    """Medians over rounds of the ratio by the wall and of processor time, which other work on the machine moves less."""
    walls = [a.wall / b.wall for a, b in zip(above, below, strict=True)]
    cpus = [a.cpu / b.cpu for a, b in zip(above, below, strict=True)]
    for name, values in (("", walls), (", processor time", cpus)):
        say(f"  {what}{name}: {statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})")
    return statistics.median(walls), statistics.median(cpus)


def language_model(size: Size, vocabulary: int, folder: Path) -> tuple[float, float, float]:
    """Time with stored labels over the fastest plain cross-entropy's, both clocks; the share of waiting for labels."""
    labels, tokens = write_store(folder, size.store_rows, size.positions, vocabulary, size.ids, SEED)
    reader = Reader(labels)

    def stored(hidden_PH: torch.Tensor, head_VH: torch.Tensor, labels_P: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        return fused_loss(hidden_PH, head_VH, None, labels_P, reader(rows), weight=0.5).total

    losses = {"plain, written out": written_out, "plain, in chunks": in_chunks, "plain, fused": fused, "stored labels": stored}
    sides = {name: Side(size, vocabulary, tokens, loss) for name, loss in losses.items()}
    say(f"vocabulary {vocabulary:,}: {size.rows} rows of {size.positions} positions")
    times = alternate(sides, size.rounds, f"vocabulary {vocabulary:,}")
    share = statistics.median(reader.seconds) * 1000 / median_ms(times["stored labels"])
    ids = reader.entries / len(reader.seconds) / size.rows / size.positions
    say(f"  {ids:.2f} ids a position; waiting for labels {share:.2%} of a step")
    rival = min((name for name in times if name != "stored labels"), key=lambda name: median_ms(times[name]))
    return *ratio(times["stored labels"], times[rival], f"stored labels over '{rival}'"), share


@torch.no_grad()
def forward_ms(model: LlamaForCausalLM, inputs: torch.Tensor, times: int = 7) -> float:
    """Median of a forward pass with all logits, in milliseconds."""
    model(input_ids=inputs, use_cache=False)
    found = []
    for _ in range(times):
        start = time.perf_counter()
        model(input_ids=inputs, use_cache=False)
        found.append(time.perf_counter() - start)
    return statistics.median(found) * 1000


def teacher_of(size: Size, vocabulary: int, times: float, inputs: torch.Tensor) -> tuple[LlamaForCausalLM, float]:
    """A teacher twice as wide, whose measured forward pass is some `times` the student's; and how many it is."""
    student = forward_ms(llama(vocabulary, size.hidden, size.layers, size.positions, SEED), inputs)

    def build(layers: int) -> LlamaForCausalLM:
        return llama(vocabulary, 2 * size.hidden, layers, size.positions, SEED + 1).eval()

    one, three = (forward_ms(build(layers), inputs) for layers in (1, 5))
    layers = max(1, round(1 + (times * student - one) / ((three - one) / 4)))
    teacher = build(layers)
    found = forward_ms(teacher, inputs) / forward_ms(llama(vocabulary, size.hidden, size.layers, size.positions, SEED), inputs)
    say(f"teacher of {layers} layers, hidden size {2 * size.hidden}: its forward pass is {found:.2f} times the student's")
    return teacher, found


def against_online(size: Size, vocabulary: int, times: float, folder: Path) -> float:
    """Time per step with the online teacher over that with stored labels."""
    labels, tokens = write_store(folder, size.store_rows, size.positions, vocabulary, size.ids, SEED)
    reader = Reader(labels)
    teacher, _ = teacher_of(size, vocabulary, times, batch(tokens, np.arange(size.rows))[0])

    def stored(hidden_PH: torch.Tensor, head_VH: torch.Tensor, labels_P: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        return fused_loss(hidden_PH, head_VH, None, labels_P, reader(rows), weight=0.5).total

    def online(hidden_PH: torch.Tensor, head_VH: torch.Tensor, labels_P: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        with torch.no_grad():
            inputs = batch(tokens, rows)[0]
            states = teacher.model(input_ids=inputs, use_cache=False).last_hidden_state.flatten(0, 1)
        targets = TeacherHead(states, teacher.lm_head.weight)
        return fused_loss(hidden_PH, head_VH, None, labels_P, targets, weight=0.5).total

    sides = {name: Side(size, vocabulary, tokens, loss) for name, loss in {"stored": stored, "online": online}.items()}
    found = alternate(sides, size.online_rounds, f"online, {times:g}x")
    return ratio(found["online"], found["stored"], f"online teacher of {times:g}x over stored labels")[0]


def write_full_store(folder: Path, setting: Setting) -> SoftLabels:
    """Random log-probabilities of every row and view, in the full form."""
    rows, views, classes = setting.rows, setting.params.views.count, len(setting.task.labels)
    part_rows = 16384
    layout = Layout("full", len(rows), views, classes, part_rows)
    writer = SoftLabelsWriter(folder, rows.ids, layout, Binding("0" * 64, "0" * 64, "0" * 64, "synthetic"))
    generator = torch.Generator().manual_seed(SEED)
    for view in range(views):
        for part in range(layout.parts):
            size = len(layout.rows_of_part(part))
            writer.write(part, view, (torch.randn(size, classes, generator=generator) * 3).log_softmax(-1).numpy())
    writer.finish()
    return SoftLabels.open(folder)


def classification(size: Size, ranks: Ranks, folder: Path) -> tuple[float, float, float]:
    """Time with stored labels over that with true labels, both clocks; the share of waiting for labels."""
    setting = Setting.read(steps=size.classification_steps)
    labels = write_full_store(folder, setting)
    waited = 0.0

    def read(batch: Batch) -> torch.Tensor:
        nonlocal waited
        start = time.perf_counter()
        found = torch.from_numpy(labels(batch.rows, batch.views))
        waited += time.perf_counter() - start
        return found

    setting.describe("Classification: stored soft labels beside true labels")
    losses = {"true labels": None, "stored labels": ClassDistillation(read, temperature=1.0, weight=0.5)}
    times: Times = {name: [] for name in losses}
    waiting = []
    with Progress(size.classification_rounds + 1, "classification", "rounds") as bar:
        for number in range(size.classification_rounds + 1):
            waited = 0.0
            for name in [*losses][:: -1 if number % 2 else 1]:
                model = setting.build()
                with Clock() as clock:
                    history = setting.fit(model, ranks, loss=losses[name])
                if number:
                    times[name].append(clock)
                    if losses[name]:
                        waiting.append(waited / history.seconds)
            bar.update()
    for name in times:
        describe(times, name, f" for {setting.training.steps} steps")
    share = statistics.median(waiting)
    say(f"  waiting for labels {share:.2%} of a step")
    return *ratio(times["stored labels"], times["true labels"], "stored labels over true labels"), share


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--threads", type=int, default=2, help="of all sides; 1 where other work shares the machine")
    options = parser.parse_args()
    size = QUICK if options.quick else Size()
    with one_line_errors("label_step"), tempfile.TemporaryDirectory() as place, join(options.threads) as ranks:
        folder = Path(place)
        say(f"machine: {machine()}, {options.threads} threads, float32, seed {SEED}")
        over, over_cpu, share = classification(size, ranks, folder / "full")
        found = {v: language_model(size, v, folder / str(v)) for v in size.vocabularies}
        vocabulary = size.vocabularies[len(size.vocabularies) // 2]
        speedups = {f"speedup_over_online_{n}x": against_online(size, vocabulary, n, folder / f"{n}x") for n in (3, 10)}
        finish(
            classification_over_ce=over,
            classification_over_ce_cpu=over_cpu,
            lm_over_ce=max(wall for wall, _, _ in found.values()),
            lm_over_ce_cpu=max(cpu for _, cpu, _ in found.values()),
            **{f"lm_over_ce_{v}": wall for v, (wall, _, _) in found.items()},
            label_wait_share=max(share, *(share for _, _, share in found.values())),
            **speedups,
        )


if __name__ == "__main__":
    main()
