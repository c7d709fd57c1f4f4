"""The runs of a clone, one row each: what was changed, how it stands, what came of it. Knows DVC and git, not Prefect."""

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.disk.leftovers import SUFFIX, TRASH
from flows.repository.experiments import experiment_refs, name_of
from flows.repository.in_use import is_held, lock_of
from flows.repository.workspace import RUNS, command
from flows.results.history import DEFAULT, Change, RunHistory, nearest_recipe, outputs_in
from stillhouse.comparison.figures import gain_in
from stillhouse.comparison.kinds import comparison_of
from stillhouse.core.artifacts import TIMING
from stillhouse.core.errors import ParamsError
from stillhouse.core.params import read_yaml
from stillhouse.core.scores import METRICS, shipped_task
from stillhouse.kinds.registry import kind_of

VERSIONS = "refs/tags/student@v*"
"""What `flows.promote` sets, on a run's commit; `student@v1.0.0!` takes that version back."""
# Parameters and results are told otherwise; DVC puts more into an experiment's commit than git would.
NO_CODE = re.compile(r"params\.yaml|dvc\.lock|\.dvc/tmp/.*|data/(?!raw/).*")


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """A run, or a commit that holds the results of one."""

    name: str
    state: str
    """`saved` (an experiment), `committed`, `not committed` (the checkout), `running`, or `failed, kept`."""
    when: datetime
    commit: str | None
    kind: str
    recipe: str
    """The recipe that its parameters differ least from; `params.yaml` for those that it started from."""
    changes: list[Change]
    """What differs from that."""
    files: list[str] = field(default_factory=list)
    """Other files that differ from the commit on which it stands."""
    scores: dict[str, float] = field(default_factory=dict)
    """As in `data/evaluate/summary.json`; empty if there are none, or this clone's cache does not hold them."""
    latency_ms: float | None = None
    """Of the shipped model, for one text."""
    seconds: float | None = None
    """What its stages took where they were executed, which may have been in an earlier run."""
    versions: list[str] = field(default_factory=list)
    """As which it was promoted."""
    report: str | None = None
    """Its page, relative to the checkout."""
    place: str | None = None
    """Its workspace, if that is kept."""

    @property
    def gain(self) -> float | None:
        """Of the shipped model over the same one without a teacher."""
        return gain_in(self.scores)


def rows_of(root: Path) -> list[RunRow]:
    """Every run of the clone, the newest first."""
    with RunHistory(root) as history:
        table = RunTable(history)
        rows = [*table.checkout(), *table.commits(), *table.experiments(), *table.workspaces()]
    return sorted(rows, key=lambda row: row.when, reverse=True)


class RunTable:
    """Makes the rows of one clone."""

    def __init__(self, history: RunHistory):
        self.history, self.root = history, history.root
        self.versions = versions(self.root)

    def row(self, params: Mapping[str, Any], outputs: Mapping[str, str], name: str, **facts: Any) -> RunRow:
        """A row with the scores that the outputs hold."""
        metrics = self.history.json(outputs.get(str(METRICS)))
        timing = self.history.json(outputs.get(str(METRICS.with_name(TIMING)))) or {}
        times = [self.history.json(md5) for path, md5 in outputs.items() if Path(path).name == TIMING]
        scores, latency = {}, None
        # Old commits may hold figures of another form.
        with suppress(KeyError, TypeError, AttributeError):
            if metrics:
                scores = comparison_of(kind_of(params)).summary_of(metrics)
                latency = timing.get(f"{shipped_task(metrics)}_student_latency_ms")
        report = Path("reports") / f"{name}.html"
        return RunRow(
            name=name, kind=kind_of(params), scores=scores, latency_ms=latency,
            seconds=sum(time["seconds"] for time in times if time) if scores else None,
            versions=self.versions.get(facts["commit"], []),
            report=str(report) if (self.root / report).is_file() else None, **facts,
        )  # fmt: skip

    def experiments(self) -> Iterator[RunRow]:
        """Saved runs. Their baseline is the commit that was checked out when they started."""
        form = "%(refname) %(objectname) %(committerdate:unix)"
        listed = command("git", "for-each-ref", f"--format={form}", "refs/exps", cwd=self.root).splitlines()
        known = set(experiment_refs(self.root))
        found = [(ref, commit, int(time)) for ref, commit, time in map(str.split, listed) if ref in known]
        files = files_changed(self.root, [(commit, baseline_of(ref)) for ref, commit, _ in found])
        for ref, commit, time in found:
            params, start = self.history.params(commit), self.history.params(baseline_of(ref))
            recipe, changes = nearest_recipe(params, self.history.recipes(commit), start)
            yield self.row(
                params, self.history.outputs(commit), name_of(ref), state="saved", when=at(time), commit=commit, recipe=recipe,
                changes=changes, files=files.get(commit, []),
            )  # fmt: skip

    def commits(self) -> Iterator[RunRow]:
        """The tips of branches, HEAD, and promoted commits, as far as they hold results."""
        # Of a tag the fields of its commit stand behind its own.
        form = "%(refname:short)|%(objectname)|%(committerdate:unix)|%(*objectname)|%(*committerdate:unix)"
        listed = command("git", "for-each-ref", f"--format={form}", "refs/heads", VERSIONS, cwd=self.root).splitlines()
        experiments = command("git", "for-each-ref", "--format=%(objectname)", "refs/exps", cwd=self.root).split()
        names: dict[str, list[str]] = {}
        times: dict[str, int] = {}
        for name, *branch, commit, time in (line.rsplit("|", 4) for line in listed):
            if commit:
                names.setdefault(commit, [])
                times[commit] = int(time)
            elif not is_version(name):
                names.setdefault(branch[0], []).append(name)
                times[branch[0]] = int(branch[1])
        head = command("git", "log", "-1", "--format=%H %ct", cwd=self.root).split()
        names.setdefault(head[0], [])
        times[head[0]] = int(head[1])
        for commit, branches in names.items():
            outputs = self.history.outputs(commit)
            if str(METRICS) not in outputs or (commit in experiments and not branches):
                continue
            params = self.history.params(commit)
            recipe, changes = nearest_recipe(params, self.history.recipes(commit), params)
            yield self.row(
                params, outputs, ", ".join(branches) or commit[:7], state="committed", when=at(times[commit]), commit=commit,
                recipe=recipe, changes=changes,
            )  # fmt: skip

    def checkout(self) -> Iterator[RunRow]:
        """What the checkout holds and HEAD does not."""
        head = command("git", "rev-parse", "HEAD", cwd=self.root)
        lock = self.root / "dvc.lock"
        found = self.history.read(f"{head}:dvc.lock")
        if lock.exists() and (found is None or found[1] != lock.read_bytes()):
            yield from self.folder(self.root, "checkout", "not committed", lock.stat().st_mtime, head)

    def workspaces(self) -> Iterator[RunRow]:
        """Runs that go on, and runs that failed, whose workspaces are kept."""
        saved = {name_of(ref) for ref in experiment_refs(self.root)}
        folders = (self.root / RUNS).iterdir() if (self.root / RUNS).is_dir() else []
        for folder in sorted(path for path in folders if path.is_dir() and not path.name.startswith(TRASH)):
            name, running = folder.name[:-SUFFIX], is_held(lock_of(folder))
            # The gate's is not a run, and a saved run's is about to be removed.
            if (folder / ".git").is_file() and name not in ("gate", *saved):
                state = "running" if running else "failed, kept"
                with suppress(OSError):
                    head = command("git", "rev-parse", "HEAD", cwd=folder)
                    yield from self.folder(folder, name, state, (folder / ".git").stat().st_mtime, head)

    def folder(self, folder: Path, name: str, state: str, time: float, head: str) -> Iterator[RunRow]:
        """The row of what lies in a folder, which stands on the commit `head`."""
        try:
            params = json.loads(json.dumps(read_yaml(folder / DEFAULT), default=str))
            lock = read_yaml(folder / "dvc.lock") if (folder / "dvc.lock").exists() else {}
        except ParamsError:
            # It is being written, or was never whole.
            return
        recipe, changes = nearest_recipe(params, self.history.recipes(head), self.history.params(head))
        mine = folder == self.root
        # What a workspace's lock file holds is of the run before, until its own has come to the end.
        outputs = outputs_in(lock) if mine else {}
        yield self.row(
            params, outputs, name, state=state, when=at(time), commit=None, recipe=recipe, changes=changes,
            place=None if mine else str(folder.relative_to(self.root)),
        )  # fmt: skip


def at(time: float) -> datetime:
    return datetime.fromtimestamp(time, UTC)


def baseline_of(ref: str) -> str:
    """The commit on which an experiment stands, out of its reference: refs/exps/XX/REST/NAME."""
    parts = ref.split("/")
    return parts[2] + parts[3]


def is_version(tag: str) -> bool:
    return re.fullmatch(r"student@v.*", tag) is not None


def versions(root: Path) -> dict[str, list[str]]:
    """Commit to the versions as which it was promoted."""
    form = "%(refname:short) %(*objectname)"
    tags = dict(
        line.split() for line in command("git", "for-each-ref", f"--format={form}", VERSIONS, cwd=root).splitlines()
        if len(line.split()) == 2
    )  # fmt: skip
    found: dict[str, list[str]] = {}
    for tag, commit in tags.items():
        name = tag.partition("@")[2]
        if re.fullmatch(r"v\d+\.\d+\.\d+", name):
            back = any(other.startswith(f"{tag}!") for other in tags)
            found.setdefault(commit, []).append(f"{name} (taken back)" if back else name)
    return found


def files_changed(root: Path, pairs: list[tuple[str, str]]) -> dict[str, list[str]]:
    """Commit to the files in which it differs from another, but for what every run changes."""
    words = ["git", "-c", "core.quotepath=off", "diff-tree", "-r", "--name-only", "--stdin"]
    lines = "".join(f"{commit} {other}\n" for commit, other in pairs)
    done = subprocess.run(words, cwd=root, input=lines, capture_output=True, text=True)
    found: dict[str, list[str]] = {}
    names: list[str] = []
    for line in done.stdout.splitlines():
        if re.fullmatch(r"[0-9a-f]{40,64}", line):
            names = found.setdefault(line, [])
        elif not NO_CODE.fullmatch(line):
            names.append(line)
    return found
