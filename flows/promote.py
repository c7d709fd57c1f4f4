"""The gate and the registry: a finished run's package becomes the promoted one, or it is said why not.

    python -m flows.promote                       # the run whose results HEAD records
    python -m flows.promote --commit tiny-1f2e    # a commit, a tag, or an experiment of `dvc exp list`

Versions are annotated tags in gto's form (`student@v0.0.3`) on the run's commit, and nothing else keeps the registry:
`gto show student` lists it, `dvc artifacts get . student` brings a package out, `gto deprecate student v0.0.3` takes a
version back, and the one before it is the promoted one again. What a version is held against, and why one is refused,
stands in `stillhouse/evaluation/gate.py`.
"""

import fcntl
import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.repo import Repo
from gto.api import find_latest_version, register
from gto.exceptions import ArtifactNotFound, GTOException
from ruamel.yaml import YAML

from flows.commands import CommandError, command, missing_identity, reason_of, run
from flows.store import check_undamaged
from flows.workspace import (
    cache_folder,
    open_workspace,
    remove_workspace,
    repository_root,
    resolve,
    shared_folder,
)
from stillhouse.core.artifacts import DATA, read_json
from stillhouse.core.errors import StillhouseError
from stillhouse.core.options import Options
from stillhouse.core.scores import METRICS
from stillhouse.core.shipped import NEW_TASK, Shipped
from stillhouse.core.stage import one_line_errors
from stillhouse.core.verify import damages, message_of

ARTIFACT = "student"
"""Its entry in `dvc.yaml: artifacts`."""
STAGE = "export_model"
PACKAGE = "data/export_model/package"
DECISION = DATA / "gate" / "decision.json"


class PromotionError(StillhouseError):
    """A version cannot be compared, tagged or pushed."""


@dataclass(frozen=True)
class Version:
    """A promoted version."""

    tag: str
    commit: str


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


def promoted(root: Path) -> Version | None:
    """The promoted version: the highest one that was not taken back. None before the first promotion."""
    try:
        version = find_latest_version(root, ARTIFACT)
    except ArtifactNotFound:
        return None
    except GTOException as error:
        raise PromotionError(f"the registry cannot be read: {error}; 'gto show {ARTIFACT}' tells more") from error
    return Version(version.ref, version.commit_hexsha) if version else None


def gate(folder: Path, root: Path) -> Decision:
    """Hold the package of the finished run in `folder` against the promoted one of the checkout `root`.

    `folder` is the run's workspace, with package and test rows in place. The promoted package comes from the cache or the
    remote; the checkout is not touched. Raises PromotionError if either package cannot be had or does not run.
    """
    current = promoted(root)
    words = [sys.executable, "-m", "stillhouse.evaluation.gate"]
    with tempfile.TemporaryDirectory(prefix="stillhouse-promoted-") as scratch:
        if current is not None:
            advice = f"run 'dvc push --all-tags' where it was made, or take it back: 'gto deprecate {ARTIFACT} VERSION'"
            bring(root, current.commit, PACKAGE, Path(scratch) / "package", current.tag, advice)
            (Path(scratch) / "params.yaml").write_text(file_of(root, current.commit, "params.yaml"), encoding="utf-8")
            words += ["--against", current.tag, "--folder", scratch]
        # The run's own code judges it, as it made it.
        done = run(*words, cwd=folder)
    if done.returncode:
        raise PromotionError(reason_of(done).removeprefix("gate: "))
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


def dvc_config(root: Path) -> dict[str, Any]:
    """Cache and remotes of the checkout, with relative places resolved, for reading another commit.

    A commit's own configuration is that of its day, and never has what stands in `.dvc/config.local`.
    """
    with Repo(str(root)) as repo:
        core = {key: value for key, value in repo.config["core"].items() if key == "remote"}
        return {"core": core, "remote": dict(repo.config["remote"]), "cache": {"dir": repo.cache.local_cache_dir}}


def push(root: Path, commit: str) -> None:
    """`dvc push` of one commit's data; nothing without a default remote. The command itself knows only what is checked out."""
    config = dvc_config(root)
    if "remote" not in config["core"]:
        return
    name = config["core"]["remote"]
    # DVC warns of missing data with one line for every hash; the error below says it in one.
    for library in ("dvc", "dvc_data"):
        logging.getLogger(library).setLevel(logging.ERROR)
    try:
        with Repo(str(root), rev=commit, config=config) as repo:
            repo.push()
            left = [path for path, state in repo.status(cloud=True).items() if state in ("new", "missing")]
    except Exception as error:  # whatever the remote's client library raises
        raise PromotionError(f"'dvc push' to remote '{name}' failed: {one_line(error)}; no tag was made") from error
    if left:
        raise PromotionError(
            f"{len(left)} files of commit {commit[:12]} are neither in the cache nor on the remote '{name}', the first is "
            f"{min(left)}; run the pipeline again, which brings them back, and promote that run; no tag was made"
        )


def pushed_to(root: Path) -> str:
    """Where the data of a promoted version are, besides this clone's cache."""
    config = dvc_config(root)
    name = config["core"].get("remote")
    if name is None:
        return (
            "no DVC remote is configured: nothing was pushed, and the package is in this clone's cache alone ('dvc remote add "
            "-d NAME URL', then 'dvc push --all-tags')"
        )
    said = f"its data are in DVC remote '{name}'"
    if config["remote"][name].get("verify"):
        return said
    return f"{said}, which does not verify what it gives back ('dvc remote modify {name} verify true')"


def bring(root: Path, commit: str, path: str, target: Path, name: str, advice: str) -> None:
    """Copy an output of `commit` to `target`, out of the cache or the remote. A message calls the commit `name`.

    Raises PromotionError if it is nowhere, and StillhouseError if it is damaged.
    """
    words = ["dvc", "get", str(root), path, "--rev", commit, "--out", str(target)]
    remote = dvc_config(root)["core"].get("remote")
    target.parent.mkdir(parents=True, exist_ok=True)
    words += ["--remote", remote] if remote else []
    done = run(*words, cwd=root)
    if done.returncode:
        place = f"the remote '{remote}'" if remote else "a remote, because none is configured ('dvc remote add -d NAME URL')"
        raise PromotionError(
            f"{path} of {name} is neither in the DVC cache nor to be had from {place}: {reason_of(done)}; {advice}"
        )
    record = (output_hash(file_of(root, commit, "dvc.lock"), path, name), f"dvc.lock of {name}")
    found = damages(target.parent, {target.name: record}, cache_folder(root))
    if found:
        # Nobody is to use it.
        shutil.rmtree(target, ignore_errors=True)
        if remote:
            check_undamaged(root, {path: record}, f"{path} of {name}")
        raise PromotionError(f"{path} of {name}: {message_of(found)}")


def one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def file_of(root: Path, commit: str, name: str) -> str:
    """Text of a file as `commit` holds it."""
    try:
        return command("git", "show", f"{commit}:{name}", cwd=root)
    except CommandError:
        raise PromotionError(f"commit {commit[:12]} holds no {name}; only the commit of a finished run has a package") from None


def package_of(root: Path, commit: str) -> str:
    return output_hash(file_of(root, commit, "dvc.lock"), PACKAGE, f"commit {commit[:12]}")


def output_hash(lock: str, path: str, where: str) -> str:
    """DVC's hash of an output in the text of a `dvc.lock`."""
    stages = (YAML(typ="safe", pure=True).load(lock) or {}).get("stages", {})
    found = [out["md5"] for entry in stages.values() for out in entry.get("outs", []) if out["path"] == path]
    if not found:
        raise PromotionError(f"{where} records no {path}; only the commit of a finished run has a package")
    return found[0]


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
        if not name.startswith("data/") or name == "data/raw"
    )
    if stale:
        raise PromotionError(
            f"commit {commit[:12]} is no finished run: {', '.join(stale)} changed since its results were made; "
            "run 'dvc repro' and commit dvc.lock, or name an experiment of 'dvc exp list'"
        )


def main() -> None:
    parser = Options("flows.promote", "Promote the package of a finished run, or say why not.")
    parser.add_argument("--commit", default="HEAD", help="a commit, a tag or the name of an experiment (default: HEAD)")
    arguments = parser.parse_args()
    with one_line_errors("promote"):
        root = repository_root()
        commit = find_commit(root, arguments.commit)
        with finished_run(root, commit) as folder:
            decision = gate(folder, root)
        print("\n".join([*decision.summary, *decision.notes]), flush=True)
        if not decision.promoted:
            print("\n".join(f"refused: {reason}" for reason in decision.reasons), file=sys.stderr)
            sys.exit(1)
        tag = promote(root, commit, decision)
        print(f"promoted: {tag}" if tag != decision.against else f"nothing new: the package is {tag}, byte for byte")
        print(pushed_to(root))


if __name__ == "__main__":
    main()
