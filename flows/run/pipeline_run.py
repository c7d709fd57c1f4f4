"""One run of the pipeline: its parameters, workspace, stages and what is kept of it. Knows DVC and git, not Prefect.

`flows.distill` walks it with Prefect tasks, `flows.run.local` with plain threads where there is no server.
"""

import contextlib
import json
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from flows.execution.repro import Verdict, core_slot, cores_for, in_run_cache, lease, repro
from flows.repository.commands import ask, command, committing, ended_with, environment, reason_in
from flows.repository.experiments import free_name
from flows.repository.own_data import refuse_untracked
from flows.repository.pipeline import Pipeline, is_within, read_pipeline
from flows.repository.workspace import open_workspace, remove_workspace, up_to_date
from flows.run.preflight import check_checkout
from flows.run.recipes import recipe_file
from stillhouse.core.errors import ParamsError
from stillhouse.core.params import PARAMS_FILE, read_yaml
from stillhouse.core.recorded_files import check, recorded_data

# Waiting threads cost nothing; what runs at once is bounded by cores and workers.
MAX_TASKS = 16
LOST_ATTEMPTS = 3

Log = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asks of a run."""

    recipe: str | None = None
    """A name in `recipes/`, or a path; without it `params.yaml` as it lies in the checkout."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Dotted key of `params.yaml` to value."""
    targets: list[str] = field(default_factory=list)
    """Stages to run, with all they depend on; such a run is not saved as an experiment. Empty: all."""
    force: list[str] = field(default_factory=list)
    """Stages to execute even if nothing changed; `all` for every stage."""
    rev: str | None = None
    """A branch, tag or commit to run instead of the checkout as it lies there."""


@dataclass
class Run:
    """A run with its workspace; `open_run` makes one."""

    root: Path
    folder: Path
    name: str
    request: Request
    pipeline: Pipeline
    stages: list[str]
    """What has to be looked at, in order."""
    stale: set[str]
    """Stages that DVC found changed when the run began."""
    recorded: dict[str, str]
    """Path to MD5 of every output in `dvc.lock` when the run began."""
    stop: threading.Event = field(default_factory=threading.Event)
    ran: set[str] = field(default_factory=set)
    """Stages that were given to DVC."""
    executed: set[str] = field(default_factory=set)
    """Those of them whose command ran, and was not taken from the cache."""
    saved: bool = False
    """Whether it is an experiment by now."""

    @cached_property
    def forced(self) -> set[str]:
        return set(self.pipeline.stages if "all" in self.request.force else self.request.force)

    def unchanged(self, stage: str) -> bool:
        """Whether there is nothing to do, because nothing that the stage depends on has changed.

        Its upstream stages must be done: they may have run and given the same outputs as before. DVC would say the same in
        more than a second a stage.
        """
        if stage in self.stale | self.forced:
            return False
        if not self.ran:
            return True
        deps = self.pipeline.stages[stage].deps
        now = self.pipeline.recorded_outputs()
        return not any(
            self.recorded.get(path) != md5 for path, md5 in now.items() if any(is_within(path, dep) for dep in deps)
        )  # fmt: skip

    def run_stage(self, stage: str, log: Log, execute: Callable[[], Verdict] | None = None) -> Verdict:
        """Run one stage whose upstream stages are done: from the cache, in this process, or by `execute` elsewhere."""
        if self.unchanged(stage):
            return Verdict("cached", f"{stage} is unchanged")
        force = stage in self.forced

        def waiting() -> None:
            log(f"another run computes the same {stage}; waiting for its result")

        with lease(self.root, self.pipeline.key(stage), self.stop, waiting) as waited:
            if self.stop.is_set():
                return Verdict("stopped", f"{stage} was not started")
            # What another run has just computed need not be forced again.
            if execute and (not force or waited) and in_run_cache(self.folder, stage):
                execute, force = None, False
            if execute:
                verdict = execute()
            else:
                threads = self.pipeline.params.get("threads", 1)
                with core_slot(self.root, cores_for(threads if isinstance(threads, int) else 1), self.stop):
                    verdict = repro(
                        self.folder, stage, on_line=log, stop=self.stop, force=force and not waited,
                        timeout_seconds=self.pipeline.stages[stage].timeout_seconds,
                    )  # fmt: skip
        self.ran.add(stage)
        if verdict.kind == "executed":
            self.executed.add(stage)
        return verdict

    def save(self) -> str | None:
        """Save the finished run as a DVC experiment; returns its name, or None if it may not be saved.

        Raises ArtifactError if an output is damaged.

        `dvc exp save` commits whatever lies there, so only a pipeline that is wholly done may be saved (decision 4).
        """
        # Where DVC was given nothing to do, it has just said that all is up to date.
        if self.request.targets or ((self.ran or self.stale) and not up_to_date(self.folder)):
            return None
        # A damaged file of the cache would be saved, shown and promoted under the good one's hash.
        check(self.folder, recorded_data(self.folder))
        # Another run of this name may have ended meanwhile.
        self.name = free_name(self.root, self.name)
        command("dvc", "exp", "save", "--name", self.name, cwd=self.folder, env=committing(self.folder))
        self.saved = True
        return self.name

    def keep_report(self) -> Path | None:
        """Copy the report out of the workspace to `reports/`; returns its place."""
        page = self.folder / "data" / "report" / "index.html"
        if not page.is_file():
            return None
        kept = self.root / "reports" / f"{self.name}.html"
        kept.parent.mkdir(exist_ok=True)
        shutil.copyfile(page, kept)
        return kept

    def close(self) -> None:
        remove_workspace(self.root, self.folder)


def attempt(run: Run, name: str, log: Log, elsewhere: Callable[[], Verdict] | None) -> Verdict:
    """Run a stage; one that was lost in this process is tried again, as those on workers are (`flows.dispatch.stage_runs`)."""
    verdict = run.run_stage(name, log, elsewhere)
    for number in range(2, LOST_ATTEMPTS + 1):
        if verdict.kind != "lost" or elsewhere or run.stop.is_set():
            break
        log(f"{verdict.message}; attempt {number} of {LOST_ATTEMPTS}")
        verdict = run.run_stage(name, log, None)
    return verdict


def open_run(root: Path, name: str, request: Request) -> Run:
    """Check the request and make the workspace. Raises StillhouseError, with nothing left behind, if it cannot run."""
    check_checkout(root)
    if request.recipe:
        recipe_file(root, request.recipe)
    name = free_name(root, name)
    checkout = read_pipeline(root)
    if request.rev is None:
        check_stages(checkout, request)
    folder = open_workspace(root, name, request.rev)
    try:
        # Brings what an earlier run recorded, while the parameters are checked; what the cache lacks is stale, and runs.
        restoring = subprocess.Popen(
            ["dvc", "checkout", "--quiet"], cwd=folder, env=environment(folder), stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            write_params(root, folder, request)
            if request.rev is None:
                refuse_untracked(root, folder)
            pipeline = read_pipeline(folder)
            check_stages(pipeline, request)
        except BaseException:
            # The workspace goes: what it was to hold is not waited for.
            restoring.kill()
            raise
        finally:
            restoring.wait()
        stages = pipeline.needed_for(request.targets)
        return Run(
            root, folder, name, request, pipeline, stages, stale_stages(folder), pipeline.recorded_outputs()
        )  # fmt: skip
    except BaseException:
        with contextlib.suppress(Exception):
            remove_workspace(root, folder)
        raise


def check_stages(pipeline: Pipeline, request: Request) -> None:
    pipeline.check_names(request.targets, "targets")
    forced = [name for name in request.force if name != "all"]
    pipeline.check_names(forced, "force")
    needed = pipeline.needed_for(request.targets)
    for name in forced:
        if name not in needed:
            raise ParamsError(
                f"force: '{name}' is not run for targets {', '.join(request.targets)}; name it there too, or leave it"
            )


def write_params(root: Path, folder: Path, request: Request) -> None:
    """Put recipe and overrides into the workspace's `params.yaml`. Raises ParamsError if that is not valid."""
    target = folder / PARAMS_FILE
    if request.recipe:
        shutil.copyfile(recipe_file(root, request.recipe), target)
    if request.overrides:
        try:
            read_yaml(target)
        except ParamsError as error:
            # The workspace goes, so that its path says nothing.
            raise ParamsError(str(error).replace(f"{folder}/", "")) from None
        # Comments and order stay: people read this file in the experiment's commit.
        yaml = YAML()
        yaml.preserve_quotes = True
        with target.open(encoding="utf-8") as file:
            tree = yaml.load(file)
        for key, value in request.overrides.items():
            override(tree, key, value)
        with target.open("w", encoding="utf-8") as file:
            yaml.dump(tree, file)
    # Into the index too, which holds the checkout's edits: where this file is the commit's again, git could not bring back both
    # when DVC stashes the workspace to save it.
    command("git", "add", str(PARAMS_FILE), cwd=folder)
    check_params(folder)


def check_params(folder: Path) -> None:
    """Let the code of the workspace check its parameters. Raises ParamsError with what it says, or why it cannot say it."""
    done, failure = ask("python", "-m", "tasks.check", cwd=folder)
    if not done.returncode:
        return
    if failure:
        raise ParamsError(failure["message"])
    if done.returncode < 0:
        reason = f"was killed by {signal.Signals(-done.returncode).name}"
    else:
        reason = f"failed: {reason_in(done.stderr) or ended_with(done.returncode)}"
    raise ParamsError(
        f"the code of this run cannot check {PARAMS_FILE}: 'python -m tasks.check' {reason}; run it in a checkout of that "
        "code to see where"
    )


def override(tree: Any, key: str, value: Any) -> None:
    """Set `key`, dotted, in a tree of mappings. Whether the key is known is for `tasks.check` to say."""
    *path, last = key.split(".")
    if not all([*path, last]):
        raise ParamsError(
            f"overrides: '{key}' is not a key of params.yaml; expected, for example, 'train_student.training.steps'"
        )
    for depth, step in enumerate(path):
        tree = tree.setdefault(step, {})
        if not isinstance(tree, dict):
            raise ParamsError(f"overrides: '{key}': '{'.'.join(path[: depth + 1])}' is a value, not a block of params.yaml")
    tree[last] = value


def stale_stages(folder: Path) -> set[str]:
    """Stages that DVC finds changed in the workspace."""
    return set(json.loads(command("dvc", "status", "--json", cwd=folder)))
