"""A finished run's package is held against the promoted one, and becomes the next version.

The gate is a command of the run's own code (`stillhouse/gate/decision.py`): what a version is held against, and why one is
refused, stands there.
"""

import fcntl
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gto.api import register
from gto.exceptions import GTOException

from flows.model_registry.outputs import PACKAGE, PromotionError, bring, file_of, output_hash, package_of, push
from flows.model_registry.versions import ARTIFACT, promoted
from flows.repository.commands import ask, command, missing_identity, reason_of
from flows.repository.workspace import shared_folder
from stillhouse.core.artifacts import DATA, read_json

DECISION = DATA / "gate" / "decision.json"


@dataclass(frozen=True)
class Decision:
    """What the gate says of one package."""

    promoted: bool
    """Whether it may be promoted."""
    reasons: list[str]
    """Why not, one line each."""
    notes: list[str]
    """What to know when reading the comparison."""
    summary: list[str]
    """Every figure beside what it was held against, one line each."""
    against: str | None
    """Tag of the version it was compared with; None where there was none."""
    package: str
    """DVC's hash of the package: the decision holds for no other."""
    figures: dict[str, Any]
    """All of `decision.json`."""


def gate(folder: Path, root: Path) -> Decision:
    """Hold the package of the finished run in `folder` against the promoted one of the checkout `root`.

    `folder` is the run's workspace, with package and test rows in place. The promoted package comes from the cache or the
    remote; the checkout is not touched. Raises PromotionError if either package cannot be had or does not run.
    """
    current = promoted(root)
    words = [sys.executable, "-m", "stillhouse.gate.decision"]
    with tempfile.TemporaryDirectory(prefix="stillhouse-promoted-") as scratch:
        if current is not None:
            advice = f"run 'dvc push --all-tags' where it was made, or take it back: 'gto deprecate {ARTIFACT} VERSION'"
            bring(root, current.commit, PACKAGE, Path(scratch) / "package", current.tag, advice)
            (Path(scratch) / "params.yaml").write_text(file_of(root, current.commit, "params.yaml"), encoding="utf-8")
            words += ["--against", current.tag, "--folder", scratch]
        # The run's own code judges it, as it made it.
        done, failure = ask(*words, cwd=folder)
    if done.returncode:
        raise PromotionError(failure["message"] if failure else reason_of(done))
    figures = read_json(folder / DECISION)
    named = {name: figures[name] for name in ("promoted", "reasons", "notes", "summary", "against")}
    package = output_hash((folder / "dvc.lock").read_text(encoding="utf-8"), PACKAGE, "dvc.lock")
    return Decision(**named, package=package, figures=figures)


def promote(root: Path, commit: str, decision: Decision) -> str:
    """Push the data of `commit` to the DVC remote, if there is one, and tag it as the next version; returns the tag.

    A package that is promoted already, byte for byte, gets no second version: its tag is returned, so that a night
    without anything new adds nothing and an interrupted promotion can be repeated. Data go before the tag: a tag never
    names what nobody can get. Raises PromotionError if the decision is a refusal, belongs to another package, or was
    made against a version that is no longer the promoted one, and if data are missing or the remote does not answer.
    """
    if not decision.promoted:
        raise PromotionError(f"{commit[:12]} was refused: {'; '.join(decision.reasons)}")
    commit = command("git", "rev-parse", "--verify", f"{commit}^{{commit}}", cwd=root)
    if package_of(root, commit) != decision.package:
        raise PromotionError(
            f"commit {commit[:12]} holds another package than the one that passed the gate; run the gate again"
        )
    with promotion_lock(root):
        current = promoted(root)
        if (current.tag if current else None) != decision.against:
            raise PromotionError(
                f"the gate compared with {decision.against or 'no version'}, and now "
                f"{current.tag if current else 'no version'} is the promoted one; run the gate again"
            )
        if current is not None and package_of(root, current.commit) == decision.package:
            push(root, current.commit)
            return current.tag
        push(root, commit)
        message = "\n".join([f"{ARTIFACT} of run {commit[:12]}", "", *decision.summary, *decision.notes])
        # Where the user has told git no name, the tag is ours.
        tagger = missing_identity(root)
        try:
            return register(
                root, ARTIFACT, commit, message=message, author=tagger.get("GIT_COMMITTER_NAME"),
                author_email=tagger.get("GIT_COMMITTER_EMAIL"),
            ).tag  # fmt: skip
        except GTOException as error:
            raise PromotionError(f"commit {commit[:12]} could not be tagged: {error}") from error


@contextmanager
def promotion_lock(root: Path) -> Iterator[None]:
    """One promotion at a time in a clone, whichever of its worktrees it comes from."""
    with (shared_folder(root) / "promotion.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
