"""Ten nights of `distill/nightly`: is it one run a night, and are gate and tag right each time?

    python -m checks.nights [--quick]

In a clone with its own server and workers, own data are classified by script (Greek, Cyrillic, digits ...), which a small
model learns at once. Each night is a run of the deployment with that night's date as its scheduled start; between nights
rows are added, labels are scrambled and mended again, the server and a worker are killed, everything is deployed anew, and
a tick comes twice. `nights` counts them; `right` those with exactly one working run in the expected state, training only
where data changed, and exactly the expected tag, annotated, on the run's own commit.
"""

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

from benchmarks.common import arguments, commit, finish, machine, say
from flows.repository.workspace import command, repository_root
from flows.service import Service
from stillhouse.core.command_errors import one_line_errors
from tests.helpers.clones import Server, make, served_clone

SCRIPTS = {"greek": "αβγδεζηθικλμνξοπρστυφχψω", "cyrillic": "абвгдежзийклмнопрстуфхцчшщ", "digits": "0123456789"}
ROWS, MORE_ROWS = 120, 24
SEED = 7


@dataclass(frozen=True)
class Night:
    """What happens before a night, and what must be true after it."""

    story: str
    before: Callable[["Scene"], None]
    state: str
    version: int
    """Highest version afterwards."""
    trains: bool
    ticks: int = 1


class Scene:
    """The clone, its data and its service."""

    def __init__(self, folder: Path, service: Service | None):
        self.folder, self.service = folder, service
        self.count = ROWS
        self.scrambled = False

    def write_data(self) -> None:
        """`data/raw/scripts.csv`, tracked by DVC as `make data` does it."""
        chance = random.Random(SEED)
        lines = ["text,label"]
        for label, letters in SCRIPTS.items():
            words = random.Random(f"{SEED}{label}")
            for _ in range(self.count):
                text = " ".join("".join(words.choices(letters, k=words.randint(2, 6))) for _ in range(words.randint(2, 5)))
                lines.append(f"{text},{chance.choice(list(SCRIPTS)) if self.scrambled else label}")
        path = self.folder.parent / "scripts.csv"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        command("python", "-m", "flows.data", str(path), cwd=self.folder)

    def nothing(self) -> None: ...

    def more(self) -> None:
        self.count += MORE_ROWS
        self.write_data()

    def scramble(self) -> None:
        self.scrambled = True
        self.write_data()

    def mend(self) -> None:
        self.scrambled = False
        self.more()

    def kill(self, program: str) -> None:
        assert self.service is not None
        self.service.supervisor.control("signal", str(signal.SIGKILL.value), program)
        time.sleep(1)
        make(self.folder, "up")

    def kill_server(self) -> None:
        self.kill("server")

    def kill_worker(self) -> None:
        self.kill("torchrun")

    def deploy_again(self) -> None:
        assert self.service is not None
        command("prefect", "--no-prompt", "deploy", "--all", cwd=self.folder, env=self.service.environment())


NIGHTS = [
    Night("first night", Scene.nothing, "Completed", 1, True),
    Night("unchanged data", Scene.nothing, "Completed", 1, False),
    Night("worse data", Scene.scramble, "Refused", 1, True),
    Night("new data, mended", Scene.mend, "Completed", 2, True),
    Night("server killed, unchanged data", Scene.kill_server, "Completed", 2, False),
    Night("new data", Scene.more, "Completed", 3, True),
    Night("worker killed, unchanged data", Scene.kill_worker, "Completed", 3, False),
    Night("deployed again, the tick comes twice", Scene.deploy_again, "Completed", 3, False, ticks=2),
    Night("worse data again", Scene.scramble, "Refused", 3, True),
    Night("new data, mended again", Scene.mend, "Completed", 4, True),
]


def use_own_data(folder: Path) -> None:
    """Both tasks of the tiny recipe read the scripts; training long enough to learn them."""
    yaml = YAML()
    path = folder / "params.yaml"
    with path.open(encoding="utf-8") as file:
        params = yaml.load(file)
    source = {"kind": "files", "train": "scripts.csv", "text": "text", "label": "label"}
    params["ingest"] = {"source": dict(source), "new": dict(source)}
    params["preprocess"]["withheld_labels"] = 0.0
    params["finetune"]["training"]["steps"] = 60
    params["finetune"]["examples_per_class"] = 50
    params["gate"]["max_calibration_error"] = 1.0
    params["gate"]["max_latency_ms"] = 1000.0
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(params, file)
    Scene(folder, None).write_data()


def tags(folder: Path) -> list[str]:
    return command("git", "tag", "--list", "student@v*", "--sort=version:refname", cwd=folder).split()


def judge(scene: Scene, server: Server, night: Night, runs: list[str], tags_before: list[str]) -> list[str]:
    """What is wrong after a night; nothing, if it is right."""
    wrong = []
    found = [server.run(run) for run in runs]
    working = [run for run in found if run["state"]["name"] not in ("Skipped", "Cancelled")]
    if len(working) != 1:
        return [f"{len(working)} working runs: {[run['state']['name'] for run in found]}"]
    (run,) = working
    if run["state"]["name"] != night.state:
        wrong.append(f"state {run['state']['name']} ({run['state']['message']}), expected {night.state}")
    trained = [child["name"] for child in server.runs(run["id"])[1:] if child["state"]["name"] == "Completed"]
    if bool(trained) != night.trains:
        wrong.append(f"trained {trained or 'nothing'}")
    after = tags(scene.folder)
    if len(after) != night.version:
        wrong.append(f"tags {after}, expected {night.version}")
    for tag in set(after) - set(tags_before):
        if command("git", "cat-file", "-t", tag, cwd=scene.folder) != "tag":
            wrong.append(f"{tag} is not annotated")
        tagged = command("git", "rev-parse", f"{tag}^{{commit}}", cwd=scene.folder)
        own = command("git", "for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{run['name']}", cwd=scene.folder)
        if tagged != own:
            wrong.append(f"{tag} is on {tagged[:8]}, the run's commit is {own[:8]}")
    return wrong


def main() -> None:
    options = arguments(__doc__ or "").parse_args()
    nights = NIGHTS[:2] if options.quick else NIGHTS
    with one_line_errors("nights"):
        root = repository_root()
        say(f"machine: {machine()}")
        say(f"commit: {commit(root)}; recipe tiny on own data, seed {SEED}, {ROWS} rows a class and {MORE_ROWS} more at a time")
        right = 0
        with served_clone(root, change=use_own_data) as (folder, service, server):
            scene = Scene(folder, service)
            for number, night in enumerate(nights, start=1):
                start = time.monotonic()
                night.before(scene)
                before = tags(folder)
                state = {"type": "SCHEDULED", "state_details": {"scheduled_time": f"2026-01-{number:02}T02:00:00Z"}}
                given = {"force": ["ingest"], "promote": True, "once_a_night": "UTC"}
                runs = [server.start("distill/nightly", given, state=state) for _ in range(night.ticks)]
                for run in runs:
                    server.await_end(run, 600)
                wrong = judge(scene, server, night, runs, before)
                right += not wrong
                said = "; ".join(wrong) if wrong else f"right, {(tags(folder) or ['no tag'])[-1]}"
                say(f"night {number:>2}: {night.story}: {said} ({time.monotonic() - start:.0f} s)")
    finish(nights=len(nights), right=right)


if __name__ == "__main__":
    main()
