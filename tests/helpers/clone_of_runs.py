"""A clone with runs in it, of which tests of `make runs` make a table."""

import hashlib
import json
from pathlib import Path
from typing import Any

from flows.results.rows import RunRow, rows_of
from tests.helpers.tiny_run import shell
from tests.helpers.two_hosts import COMMITTER

SCORES = {"accuracy": 0.8, "accuracy_low": 0.75, "accuracy_high": 0.85, "macro_f1": 0.7, "parameters": 10, "bytes": 1_234_567}
NATS = {"nats_per_token": 3.0, "nats_per_token_low": 2.7, "nats_per_token_high": 3.3, "bits_per_byte": 1.0, "bytes": 50_000_000}
PARAMS = {"kind": "text_classification", "seed": 1, "train_student": {"distillation": {"temperature": 2.0, "weight": 0.7}}}


class Clone:
    """A repository with runs in it, as DVC and flows leave them; written without either, which is quicker."""

    def __init__(self, root: Path):
        self.root = root
        self.clock = 1_700_000_000
        root.mkdir()
        shell("git", "init", "--quiet", "--initial-branch", "main", folder=root)
        shell("dvc", "init", "--quiet", folder=root)
        (root / ".gitignore").write_text(".runs\ndata\nreports\n.dvc/tmp\n.dvc/cache\n")
        self.write("recipes/tiny.yaml", PARAMS | {"seed": 5})
        self.write("recipes/lm.yaml", PARAMS | {"kind": "causal_lm", "seed": 6})
        self.base = self.commit(PARAMS, shipped={**SCORES, "lead_over_scratch": 0.05})

    def write(self, name: str, tree: Any) -> None:
        (self.root / name).parent.mkdir(exist_ok=True)
        (self.root / name).write_text(json.dumps(tree, indent=1))

    def git(self, *words: str) -> str:
        self.clock += 100
        when = f"{self.clock} +0000"
        variables = {**COMMITTER, "GIT_AUTHOR_DATE": when, "GIT_COMMITTER_DATE": when}
        return shell("git", *words, folder=self.root, **variables).stdout.strip()

    def store(self, value: Any) -> str:
        """MD5 of a file that now lies in the cache."""
        data = json.dumps(value).encode()
        md5 = hashlib.md5(data).hexdigest()
        path = self.root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return md5

    def results(self, shipped: dict[str, float], latency: float = 0.5, seconds: float = 90) -> None:
        """A `dvc.lock` that records these scores."""
        metrics = {"new": {"student": shipped}, "source": {"student": {**shipped, "lead_over_baseline": 0.02}}}
        files = {
            "evaluate/metrics.json": metrics, "evaluate/timing.json": {"new_student_latency_ms": latency, "seconds": 4.0},
            "train_teacher/timing.json": {"seconds": seconds},
        }  # fmt: skip
        outs = [{"path": f"data/{name}", "hash": "md5", "md5": self.store(value)} for name, value in files.items()]
        self.write("dvc.lock", {"schema": "2.0", "stages": {"all": {"cmd": "x", "outs": outs}}})

    def commit(self, params: dict, shipped: dict[str, float]) -> str:
        self.write("params.yaml", params)
        self.results(shipped)
        self.git("add", "--all")
        self.git("commit", "--quiet", "-m", "a run")
        return self.git("rev-parse", "HEAD")

    def experiment(self, name: str, params: dict, shipped: dict[str, float] = SCORES, **files: str) -> str:
        """An experiment on HEAD; the checkout is left as it was."""
        base = self.git("rev-parse", "HEAD")
        for file, text in files.items():
            (self.root / file).write_text(text)
        made = self.commit(params, shipped)
        self.git("update-ref", f"refs/exps/{base[:2]}/{base[2:]}/{name}", made)
        self.git("reset", "--quiet", "--hard", base)
        return made

    def rows(self) -> dict[str, RunRow]:
        return {row.name: row for row in rows_of(self.root)}


def with_student(**values: float) -> dict:
    return {**PARAMS, "train_student": {"distillation": {**PARAMS["train_student"]["distillation"], **values}}}
