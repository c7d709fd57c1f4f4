"""Is a stage that is killed at a random moment, and started again, worth what an undisturbed one is?

    python -m checks.kill_training [--quick] [--seed N] [--kills N] [--only STAGE] [--ranks N]

In a clone in which the tiny recipe has run, starts one stage's command after the other, and sends SIGKILL to its launcher or
a rank: after a random step, while a checkpoint is written, in an evaluation, between two shards, at the end, or at any moment
at all, the imports among them. Then it starts the same command again, half of the time to kill that too, until one ends.

`kills` counts the signals. `identical`: those after which the files in `data/<stage>` were byte for byte those of the
undisturbed run (but for `timing.json`, which holds clocks). `most_steps_lost`: work done after the last checkpoint that was
gone on from, at most; `beyond_interval`: how often it was more than the interval of checkpoints (5 steps, in `finetune` 2).
"""

import mmap
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.common import arguments, commit, finish, machine, say
from flows.repository.workspace import command, repository_root, snapshot
from stillhouse.core.artifacts import digest_file
from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.params import STAGES, read_yaml
from tests.helpers.clones import repro

KILLS, QUICK_KILLS = 50, 3
MOMENTS = ("step", "write", "evaluation", "end", "any")
TRAININGS = ("train_teacher", "train_student", "train_baseline", "finetune")
OTHERS = tuple(stage for stage in STAGES if stage not in (*TRAININGS, "export_soft_labels"))
NAMES = ("teacher", "student", "baseline", "fine-tune student", "fine-tune scratch", "fine-tune teacher")
PHASES = {"step": 1, "write": 2, "evaluation": 3, "end": 4}
PULSE = struct.Struct("iii")
"""Number of the training in NAMES, steps done, phase."""

# Runs in every rank before its own code: writes down what the training is at, and changes nothing of it.
WATCH = """
import os
if "RANK" in os.environ and os.environ.get("PULSE"):
    import mmap, struct
    import stillhouse.training.checkpoint.checkpoint_manager as resume
    import stillhouse.training.checkpoint.storage as checkpoint
    from stillhouse.training.loop import Training
    pulse, names = struct.Struct("iii"), NAMES
    file = open(os.environ["PULSE"] + os.environ["RANK"], "w+b")
    file.write(pulse.pack(-1, 0, 0)); file.flush()
    memory = mmap.mmap(file.fileno(), pulse.size)
    now = [-1, 0, 0]
    def tell(**changes):
        for index, name in enumerate(("training", "step", "phase")):
            now[index] = changes.get(name, now[index])
        memory[:] = pulse.pack(*now)
    def during(owner, name, phase, after=0):
        inner = getattr(owner, name)
        def outer(self, *given, **named):
            tell(phase=phase)
            try:
                return inner(self, *given, **named)
            finally:
                tell(phase=after)
        setattr(owner, name, outer)
    run, take = Training.run, Training.take_step
    def watched_run(self, manager):
        tell(training=names.index(self.job.description), step=self.state.step, phase=0)
        run(self, manager)
    def watched_step(self, replica):
        tell(phase=1)
        take(self, replica)
        tell(step=self.state.step)
    Training.run, Training.take_step = watched_run, watched_step
    during(Training, "evaluate", 3)
    during(checkpoint.Checkpoints, "save", 2)
    during(resume.CheckpointManager, "finish", 4, after=4)
"""


@dataclass
class Start:
    """One start of a stage's command."""

    process: subprocess.Popen
    log: Path
    pulse: Path

    def read(self) -> tuple[int, int, int]:
        """What rank 0 is at."""
        path = self.pulse.with_name(self.pulse.name + "0")
        try:
            with path.open("rb") as file, mmap.mmap(file.fileno(), PULSE.size, access=mmap.ACCESS_READ) as memory:
                return PULSE.unpack(memory[:])
        except (OSError, ValueError):
            return -1, 0, 0

    @property
    def said(self) -> str:
        return self.log.read_text()


class Bench:
    def __init__(self, folder: Path, scratch: Path, ranks: int, seed: int):
        self.folder, self.scratch, self.ranks = folder, scratch, ranks
        self.chance = random.Random(seed)
        self.commands = {name: entry["cmd"] for name, entry in read_yaml(folder / "dvc.yaml")["stages"].items()}
        (scratch / "watch").mkdir()
        (scratch / "watch" / "sitecustomize.py").write_text(WATCH.replace("NAMES", repr(NAMES)))
        self.count = 0
        self.seconds: dict[str, float] = {}

    def start(self, stage: str) -> Start:
        self.count += 1
        log, pulse = self.scratch / f"log-{self.count}", self.scratch / f"pulse-{self.count}-"
        env = {
            **os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PULSE": str(pulse),
            "PYTHONPATH": f"{self.scratch / 'watch'}{os.pathsep}{self.folder}", "PET_NPROC_PER_NODE": str(self.ranks),
            # Threads that wait for each other in a busy loop take three times as long beside other work.
            "OMP_WAIT_POLICY": "PASSIVE",
        }  # fmt: skip
        with log.open("w") as file:
            process = subprocess.Popen(
                self.commands[stage].split(), cwd=self.folder, env=env, stdout=file, stderr=file, start_new_session=True
            )
        return Start(process, log, pulse)

    def outputs(self, stage: str) -> dict[str, str]:
        root = self.folder / "data" / stage
        files = [path for path in sorted(root.rglob("*")) if path.is_file() and path.name != "timing.json"]
        return {path.relative_to(root).as_posix(): digest_file(path) for path in files}

    def forget(self, stage: str) -> None:
        shutil.rmtree(self.folder / ".inflight" / stage, ignore_errors=True)

    def undisturbed(self, stage: str) -> dict[str, str]:
        """The outputs of a start that nothing happens to; notes how long it takes."""
        self.forget(stage)
        began = time.monotonic()
        started = self.start(stage)
        if started.process.wait():
            raise RuntimeError(started.said)
        self.seconds[stage] = time.monotonic() - began
        self.forget(stage)
        return self.outputs(stage)

    def await_moment(self, started: Start, stage: str, moment: str) -> None:
        """Return at a random instance of such a moment, or when the stage has ended."""
        chance, deadline = self.chance, time.monotonic() + 600
        until: Callable[[], bool]
        if moment == "any":
            time.sleep(chance.uniform(0, self.seconds[stage]))
            return
        if moment == "shard":
            wanted = chance.randint(1, 4)
            places = [self.folder / ".inflight" / stage, self.folder / "data" / f".{stage}.partial"]
            until = lambda: sum(len(list(place.rglob("*.safetensors"))) for place in places) >= wanted  # noqa: E731
        else:
            training = NAMES.index(chance.choice([name for name in NAMES if belongs(name, stage)]))
            steps = chance.randint(1, max_steps(self.folder, stage) - 1)
            until = lambda: (  # noqa: E731
                (now := started.read())[0] == training and now[2] == PHASES[moment] and (moment == "end" or now[1] >= steps)
            )
        while started.process.poll() is None and time.monotonic() < deadline and not until():
            time.sleep(0.0005)
        time.sleep(chance.choice([0.0, chance.uniform(0, 0.03)]))

    def kill(self, started: Start) -> bool:
        """SIGKILL to the launcher or a rank; returns whether it still lived, when all of it is gone."""
        try:
            family = [psutil.Process(started.process.pid)]
            family += family[0].children(recursive=True)
            self.chance.choice(family).kill()
        except psutil.NoSuchProcess:
            pass
        started.process.wait()
        psutil.wait_procs(family[1:] if "family" in locals() else [], timeout=30)
        return started.process.returncode != 0


def belongs(name: str, stage: str) -> bool:
    return name == stage.removeprefix("train_") or (stage == "finetune" and name.startswith("fine-tune"))


def block_of(folder: Path, stage: str) -> dict:
    tree = read_yaml(folder / "params.yaml")
    return tree[stage]["training"] if stage in ("train_teacher", "finetune") else tree["student"]["training"]


def max_steps(folder: Path, stage: str) -> int:
    return block_of(folder, stage)["steps"]


def steps_lost(killed: Start, again: Start) -> int:
    """Steps of the killed start that the next one had to take again."""
    training, reached, _ = killed.read()
    if training < 0:
        return 0
    name = re.escape(NAMES[training])
    if re.search(rf"note: {name}: had finished", again.said):
        return 0
    found = re.search(rf"note: {name}: resumes from step (\d+)", again.said)
    return reached - (int(found[1]) if found else 0)


def one_run(bench: Bench, stage: str, moment: str, reference: dict[str, str], interval: int) -> tuple[int, bool, list[int]]:
    """Kill a stage until one start is left alone; returns kills, whether the bytes are the same, and steps lost each time."""
    bench.forget(stage)
    kills, lost, killed = 0, [], None
    while True:
        started = bench.start(stage)
        spared = kills > 0 and bench.chance.random() < 0.5
        if not spared:
            bench.await_moment(started, stage, moment)
        if not spared and bench.kill(started):
            ended = False
        else:
            ended = started.process.wait() == 0
            if not ended:
                raise RuntimeError(f"{stage} failed by itself: {started.said[-2000:]}")
        if killed is not None and (ended or started.read()[0] >= 0):
            lost.append(steps_lost(killed, started))
            killed = None
        if ended:
            break
        kills += 1
        killed = started if stage in TRAININGS and (started.read()[0] >= 0 or killed is None) else killed
    same = bench.outputs(stage) == reference
    return kills, same, lost


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--seed", type=int, default=1, help="of the moments of the kills (default: 1)")
    parser.add_argument("--kills", type=int, default=None, help="how many (default: as many as this form has)")
    parser.add_argument("--only", default=None, help="one stage")
    parser.add_argument("--ranks", type=int, default=1, help="processes of every training (default: 1)")
    options = parser.parse_args()
    wanted = options.kills or (QUICK_KILLS if options.quick else KILLS)
    # Four of five kills hit a training: there is most to lose.
    turns = [(stage, moment) for moment in MOMENTS for stage in TRAININGS]
    turns[4:4] = [("export_soft_labels", "shard"), ("export_soft_labels", "any")]
    for number, stage in enumerate(OTHERS):
        turns.insert(6 + 3 * number, (stage, "any"))
    if options.only:
        turns = [turn for turn in turns if turn[0] == options.only]
    with one_line_errors("kill_training"), tempfile.TemporaryDirectory(prefix="stillhouse-kills-") as place:
        root = repository_root()
        say(f"machine: {machine()}")
        say(f"commit: {commit(root)}; recipe tiny, seed {options.seed}, {options.ranks} ranks, {wanted} kills")
        folder = Path(place) / "clone"
        clone(root, folder)
        repro(folder)
        bench = Bench(folder, Path(place), options.ranks, options.seed)
        references: dict[str, dict[str, str]] = {}
        counts, most, beyond, turn = {"kills": 0, "identical": 0}, 0, 0, 0
        while counts["kills"] < wanted:
            stage, moment = turns[turn % len(turns)]
            turn += 1
            began = time.monotonic()
            if stage not in references:
                references[stage] = bench.undisturbed(stage)
            interval = block_of(folder, stage)["checkpoint"]["every_steps"] if stage in TRAININGS else 0
            kills, same, lost = one_run(bench, stage, moment, references[stage], interval)
            counts["kills"] += kills
            counts["identical"] += kills * same
            most = max([most, *lost])
            beyond += sum(steps > interval for steps in lost)
            say(
                f"{counts['kills']:>3}/{wanted} {stage}, {moment}: {kills} kills, steps lost {lost or '-'}, "
                f"{'same bytes' if same else 'OTHER BYTES'}, {time.monotonic() - began:.0f} s"
            )
    finish(**counts, most_steps_lost=most, beyond_interval=beyond)


def clone(root: Path, folder: Path) -> None:
    """A repository of its own with the checkout's files as they lie there, and the tiny recipe."""
    folder.mkdir()
    command("git", "init", "--quiet", cwd=folder)
    archive = subprocess.run(["git", "archive", snapshot(root)], cwd=root, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x"], cwd=folder, input=archive, check=True)
    shutil.copyfile(folder / "recipes" / "tiny.yaml", folder / "params.yaml")
    (folder / "dvc.lock").unlink(missing_ok=True)
    command("git", "add", "--all", cwd=folder)
    command("git", "-c", "user.name=bench", "-c", "user.email=bench@localhost", "commit", "--quiet", "-m", "tiny", cwd=folder)


if __name__ == "__main__":
    main()
