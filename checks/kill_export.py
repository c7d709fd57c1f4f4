"""Does the export of soft labels survive SIGKILL? Kills at random moments, and what the store holds when it was started again.

    python -m checks.kill_export [--quick] [--seed N]

In a clone in which `recipes/tiny_lm.yaml` has run up to the teacher, with many small shards, starts the stage again and again
on one process or on two, kills its launcher and ranks at a random moment between their start and their end, and starts it
anew until it ends. `kills` counts them; `identical`: the store had the bytes of the undisturbed one; `twice`: the most
finished shards that one start wrote again.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.common import arguments, commit, finish, machine, say
from flows.repository.workspace import CommandError, environment, repository_root
from stillhouse.core.artifacts import digest_folder
from stillhouse.core.command_errors import one_line_errors
from tests.helpers.clones import clone

KILLS, QUICK_KILLS = 20, 2
PART_ROWS = 64
STAGES = ("ingest", "preprocess", "train_teacher")


def start(folder: Path, ranks: int) -> subprocess.Popen:
    env = {**environment(folder), "OMP_NUM_THREADS": "1", "PET_NPROC_PER_NODE": str(ranks)}
    words = [sys.executable, "-m", "tasks.launch", "export_soft_labels"]
    return subprocess.Popen(words, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill(process: subprocess.Popen) -> None:
    """SIGKILL to the launcher and everything below it."""
    family = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
    for pid in family:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def shards(folder: Path) -> dict[str, int]:
    """Finished shards in the stage's state, and when they were written, in nanoseconds."""
    found = (folder / ".inflight" / "export_soft_labels").glob("*/soft_labels/view-*.safetensors")
    return {path.name: path.stat().st_mtime_ns for path in found}


def forget(folder: Path) -> None:
    """As if the stage had never run."""
    shutil.rmtree(folder / ".inflight", ignore_errors=True)
    shutil.rmtree(folder / "data" / "export_soft_labels", ignore_errors=True)


def run_through(folder: Path, ranks: int) -> float:
    """Seconds of a whole run. Raises CommandError if it fails."""
    begin = time.monotonic()
    if start(folder, ranks).wait():
        raise CommandError(f"the export failed in {folder}, which is kept")
    return time.monotonic() - begin


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the moments of the kills (default: 1)")
    options = parser.parse_args()
    kills = QUICK_KILLS if options.quick else KILLS
    with one_line_errors("kill_export"):
        root = repository_root()
        say(f"machine: {machine()}")
        say(f"commit: {commit(root)}; recipe tiny_lm, seed {options.seed}, {kills} kills")
        folder = Path(tempfile.mkdtemp(prefix="stillhouse-kill-export-")) / "clone"
        clone(root, folder, "tiny_lm")
        params = folder / "params.yaml"
        params.write_text(
            params.read_text().replace("part_rows: 256", f"part_rows: {PART_ROWS}").replace("threads: 1", "threads: 2")
        )
        for stage in STAGES:
            words = ["dvc", "repro", "--single-item", stage]
            subprocess.run(words, cwd=folder, env=environment(folder), check=True, stdout=sys.stderr)
        forget(folder)
        store = folder / "data" / "export_soft_labels" / "soft_labels"
        seconds = {ranks: run_through(folder, ranks) for ranks in (1, 2) if not forget(folder)}
        wanted, count = digest_folder(store), len(list(store.glob("view-*")))
        say(f"undisturbed: {count} shards, {seconds[1]:.1f} s on one process, {seconds[2]:.1f} s on two")
        chance = random.Random(options.seed)
        identical = twice = done = 0
        while done < kills:
            ranks = 1 + done % 2
            forget(folder)
            process = start(folder, ranks)
            moment = chance.uniform(0.1, 1.0) * seconds[ranks]
            time.sleep(moment)
            if process.poll() is not None:
                continue
            kill(process)
            before = shards(folder)
            run_through(folder, ranks)
            after = shards(folder)
            again = sum(after[name] != written for name, written in before.items())
            same = digest_folder(store) == wanted
            done, identical, twice = done + 1, identical + int(same), max(twice, again)
            say(
                f"{done:>3}/{kills} {ranks} ranks, killed after {moment:.1f} s with {len(before)} of {count} shards: "
                f"{'same bytes' if same else 'OTHER BYTES'}, {again} finished shards written again"
            )
        shutil.rmtree(folder.parent)
    finish(kills=done, identical=identical, twice=twice)


if __name__ == "__main__":
    main()
