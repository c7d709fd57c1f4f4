"""The run that is to be promoted: found by its name, laid out in a workspace with what the gate needs, and really finished."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.model_registry.outputs import PACKAGE, PromotionError, bring
from flows.repository.commands import command
from flows.repository.workspace import open_workspace, remove_workspace, resolve
from stillhouse.core.identity import is_within
from stillhouse.core.scores import METRICS
from stillhouse.core.shipped import NEW_TASK, Shipped

STAGE = "export_model"


def find_commit(root: Path, name: str) -> str:
    """Hash of a commit by hash, branch, tag or name of an experiment. Raises RepositoryError if there is none."""
    experiments = command("git", "for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{name}", cwd=root).splitlines()
    return experiments[0] if len(experiments) == 1 else resolve(root, name)


@contextmanager
def finished_run(root: Path, commit: str) -> Iterator[Path]:
    """A workspace of `commit` with what the gate needs, removed afterwards. Raises PromotionError if it is no such run."""
    folder = open_workspace(root, "gate", commit)
    try:
        check_finished(folder, commit)
        for path in (PACKAGE, str(NEW_TASK)):
            fetch(root, commit, path, folder)
        shipped = Shipped.read(folder)
        # Packages are asked about texts as they came, each by its own way from text to answer.
        for path in sorted({str(shipped.data), str(shipped.table), str(METRICS)} - {str(NEW_TASK)}):
            fetch(root, commit, path, folder)
        yield folder
    finally:
        remove_workspace(root, folder)


def fetch(root: Path, commit: str, path: str, folder: Path) -> None:
    """Bring an output of a run into its workspace."""
    bring(root, commit, path, folder / path, f"commit {commit[:12]}", "run 'dvc push' where it was made")


def check_finished(folder: Path, commit: str) -> None:
    """Raises PromotionError if code or parameters are not those that the recorded package was made with."""
    # Not `report`, which depends on all of params.yaml, and so on the gate's own limits.
    status = json.loads(command("dvc", "status", "--json", "--with-deps", STAGE, cwd=folder))
    # Outputs are not there yet, so what stages hand to each other counts as changed.
    stale = sorted(
        f"{stage} ({name})"
        for stage, changes in status.items()
        for change in changes
        for name in (change.get("changed deps", {}) if isinstance(change, dict) else [change])
        if not name.startswith("data/") or is_within(name, "data/raw")
    )
    if stale:
        raise PromotionError(
            f"commit {commit[:12]} is not a finished run: {', '.join(stale)} changed since its results were made; "
            "run 'dvc repro' and commit dvc.lock, or name an experiment of 'dvc exp list'"
        )
