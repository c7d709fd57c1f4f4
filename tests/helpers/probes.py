"""Stages that cost seconds, and parents that dispatch them to a served pool."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.helpers.served import Served
from tests.helpers.tiny_run import ROOT, commit, shell

STAGE = "train_teacher"

PIPELINE = """
stages:
  train_teacher:
    cmd: python -m tasks.launch train_teacher
    meta: {pool: torchrun}
    params: [train_teacher]
    deps: [tasks/train_teacher.py]
    outs: [data/train_teacher/sum.json]
"""


class Probe:
    """A workspace whose one stage is `tests/helpers/probe_ranks.py`, run by the real launcher under the real torchrun."""

    def __init__(self, folder: Path, *, seconds: float = 2.0, fail: str = "never", fail_rank: int = 1):
        self.folder = folder
        (folder / "tasks").mkdir(parents=True)
        (folder / "tasks" / "__init__.py").touch()
        shutil.copyfile(ROOT / "tasks" / "launch.py", folder / "tasks" / "launch.py")
        shutil.copyfile(ROOT / "tests" / "helpers" / "probe_ranks.py", folder / "tasks" / "train_teacher.py")
        shutil.copyfile(ROOT / "env.lock", folder / "env.lock")
        (folder / "dvc.yaml").write_text(PIPELINE)
        (folder / "data").mkdir()
        (folder / "data" / ".gitignore").write_text("*\n!.gitignore\n")
        (folder / ".gitignore").write_text("ranks/\n__pycache__/\n")
        self.set(seconds=seconds, fail=fail, fail_rank=fail_rank)
        shell("git", "init", "--quiet", folder=folder)
        shell("dvc", "init", "--quiet", folder=folder)
        shell("dvc", "config", "core.analytics", "false", folder=folder)
        commit(folder, "a probe")

    def set(self, **settings: Any) -> None:
        (self.folder / "params.yaml").write_text(json.dumps({STAGE: settings}))

    def ranks(self) -> dict[int, dict[str, Any]]:
        """What the ranks that have met wrote down."""
        return {int(path.stem): json.loads(path.read_text()) for path in self.folder.glob("ranks/*.json")}

    def result(self) -> int:
        return json.loads((self.folder / "data" / STAGE / "sum.json").read_text())


PARENT = """
import json, signal, sys, threading, time
from uuid import UUID
from flows.dispatch.stage_runs import dispatch
from stillhouse.core.errors import StillhouseError

given = json.loads(sys.argv[1])
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())

def log(line):
    print(json.dumps({"time": time.time(), "log": line}), flush=True)

try:
    verdict = dispatch(
        given["stage"], "torchrun", {"stage": given["stage"], "workspace": given["workspace"], "parent": given["parent"]},
        name=given["key"], key=given["key"], stop=stop, log=log, join_seconds=given["join_seconds"],
    )
    kind, message = verdict.kind, verdict.message
except StillhouseError as error:
    kind, message = type(error).__name__, str(error)
print(json.dumps({"time": time.time(), "kind": kind, "message": message}), flush=True)
"""


class Parent:
    """A process that dispatches one stage, as the flow `distill` does, and prints what it hears and its verdict."""

    count = 0

    def __init__(self, served: Served, workspace: Path, stage: str, join_seconds: float = 60.0, parent: str | None = None):
        Parent.count += 1
        key = f"p{os.getpid()}-{Parent.count}-{time.time_ns() % 10**9}"
        given = {"stage": stage, "workspace": str(workspace), "parent": parent, "key": key, "join_seconds": join_seconds}
        self.served = served
        self.began = time.time()
        self.output = served.folder / f"parent-{key}.jsonl"
        with self.output.open("w") as out, (served.folder / "parents.log").open("a") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PARENT, json.dumps(given)], cwd=served.clone, env=served.environment,
                stdin=subprocess.DEVNULL, stdout=out, stderr=errors, start_new_session=True,
            )  # fmt: skip
        served.processes.append(self.process)

    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.output.read_text().splitlines() if line.endswith("}")]

    def logged(self, text: str) -> dict | None:
        """The first logged line that holds the text."""
        return next((line for line in self.lines() if text in line.get("log", "")), None)

    def verdict(self, seconds: float) -> dict:
        """`kind`, `message` and `time` of the end. Raises AssertionError if there is none in time, or the process died."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"no verdict within {seconds:g} seconds: {self.lines()}") from None
        self.served.processes.remove(self.process)
        last = (self.lines() or [{}])[-1]
        assert "kind" in last, (self.served.folder / "parents.log").read_text()[-3000:]
        return last
