"""Order and receipt: a stage on a host that shares nothing with this one but a git remote and a DVC remote (decision 5).

    order = place_order(folder, "train_teacher")      # here: checks, pushes the stage's inputs
    receipt = fulfil(order, root, scratch=scratch)    # there: pulls them, runs the stage, pushes its outputs
    merge(receipt, folder)                            # here: the entry into dvc.lock, the outputs into the workspace

Order and receipt are JSON (`dataclasses.asdict`); who carries them is not this module's business. A host that has only a
fresh clone and the remote gets a published run back with `dvc repro --pull`, which executes nothing.
"""

import fcntl
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from flows.remote import dvc_transfer
from flows.repository.commands import CommandError, command, run
from flows.repository.in_use import hold
from flows.repository.nested import allow_worktrees, bring_submodules
from flows.repository.pipeline import is_within, read_pipeline
from flows.repository.settings import share_settings
from flows.repository.workspace import prune_waits, remove_workspace
from stillhouse.core.checkout import main_checkout
from stillhouse.core.errors import StillhouseError
from stillhouse.core.params import read_yaml

# They travel in the order, as do the pointers of own data.
CARRIED = ("params.yaml", "dvc.lock")
POINTER = re.compile(r"data/raw/(?:models/)?[^/]+\.dvc")


class OrderError(StillhouseError):
    """A stage cannot be ordered from, or fulfilled on, another host."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """All that another host needs to run a stage as it would run here."""

    stage: str
    revision: str
    """Full commit hash: a branch would move."""
    params: str
    """Text of `params.yaml`."""
    lock: str
    """Text of `dvc.lock`; empty if there is none."""
    run: str
    """Name of the flow run, for people."""
    data: dict[str, str] = field(default_factory=dict)
    """Texts of the `.dvc` files of own data that differ from the commit; empty for one that is not there."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", self.revision):
            raise OrderError(f"order of {self.stage}: '{self.revision}' is not a full commit hash")
        for name in self.data:
            if not POINTER.fullmatch(name):
                raise OrderError(f"order of {self.stage}: '{name}' is no .dvc file in data/raw")


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What came of an order; the outputs themselves lie in the DVC remote."""

    stage: str
    entry: str
    """The stage's entry of `dvc.lock` as YAML text: JSON would turn a parameter's numeric keys into words."""
    cached: bool
    """Whether it was taken from a cache, so that nothing was executed."""


# ---- the host that orders ----


def place_order(folder: Path, stage: str, run: str = "") -> Order:
    """Push the stage's inputs and return the order for it. `folder` is the run's worktree, its upstream stages done.

    Raises OrderError if another host could not run the stage as it lies here, and says what to do.
    """
    inherit_settings(folder, main_checkout(folder))
    dvc_transfer.default_remote(folder)
    data = check_pushed(folder)
    targets = input_targets(folder, stage)
    if targets:
        dvc_transfer.push(folder, targets)
    return Order(
        stage=stage,
        revision=command("git", "rev-parse", "HEAD", cwd=folder),
        params=text_of(folder / "params.yaml"),
        lock=text_of(folder / "dvc.lock"),
        run=run or folder.name,
        data=data,
    )


def check_pushed(folder: Path) -> dict[str, str]:
    """Own data's pointers that differ from the commit: name to text.

    Raises OrderError unless the code of `folder` is a commit that a git remote holds.
    """
    listed = (
        command("git", "diff", "--name-only", "-z", "HEAD", cwd=folder),
        command("git", "ls-files", "--others", "--exclude-standard", "-z", cwd=folder),
    )
    changed = [name for names in listed for name in names.split("\0") if name and name not in CARRIED]
    data = {name: text_of(folder / name) for name in changed if POINTER.fullmatch(name)}
    differing = [name for name in changed if name not in data]
    if differing:
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        raise OrderError(
            f"{differing[0]}{more} differs from the commit, which is all that another host can fetch; commit and push it, "
            "or run the stage on this host"
        )
    remotes = command("git", "remote", cwd=folder).split()
    if not remotes:
        raise OrderError(
            "this clone has no git remote from which another host could fetch the code; 'git remote add' one and push"
        )
    if command("git", "branch", "--remotes", "--contains", "HEAD", cwd=folder):
        return data
    tags = set(command("git", "tag", "--contains", "HEAD", cwd=folder).split())
    for name in remotes if tags else []:
        there = command("git", "ls-remote", "--tags", name, cwd=folder).splitlines()
        if tags & {line.split("refs/tags/", 1)[1].removesuffix("^{}") for line in there}:
            return data
    head = command("git", "rev-parse", "--short", "HEAD", cwd=folder)
    raise OrderError(
        f"commit {head} is on no branch or tag of a git remote, so that another host cannot fetch it; 'git push' it"
    )


def input_targets(folder: Path, stage: str) -> list[str]:
    """What of the stage's dependencies lies in DVC: outputs of other stages, and the pointers of own data.

    Raises OrderError if a stage that it depends on has not run.
    """
    pipeline = read_pipeline(folder)
    pipeline.check_names([stage], "stage")
    deps = pipeline.stages[stage].deps
    recorded = pipeline.recorded_outputs()
    outs = [out for name in pipeline.stages[stage].upstream for out in pipeline.stages[name].outs if touches(out, deps)]
    for out in outs:
        if out not in recorded:
            raise OrderError(f"{stage} needs {out}, which dvc.lock does not hold; run the stages before it first")
    return outs + [name for name in own_data(folder) if touches(name.removesuffix(".dvc"), deps)]


def own_data(folder: Path) -> list[str]:
    """The `.dvc` files that git does not ignore: what `make data` added."""
    names = command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.dvc", cwd=folder).split("\0")
    return sorted({name for name in names if name and (folder / name).is_file()})


def touches(out: str, deps: Iterable[str]) -> bool:
    """Whether an output is, holds or lies in a dependency."""
    return any(is_within(out, dep) or is_within(dep, out) for dep in deps)


def merge(receipt: Receipt, folder: Path) -> None:
    """Put the receipt's entry into `folder/dvc.lock` and bring the stage's outputs. Stages may end at the same time.

    Raises StoreError if the outputs are not in the remote, came damaged, or are not those of the workspace as it lies here;
    nothing is recorded then.
    """
    entry = dvc_transfer.read_entry(receipt.entry)
    before = read_yaml(folder / "dvc.lock").get("stages", {}).get(receipt.stage) if (folder / "dvc.lock").exists() else None
    dvc_transfer.write_entry(folder, receipt.stage, entry)
    try:
        dvc_transfer.pull(folder, [receipt.stage], f"the outputs of {receipt.stage}")
        dvc_transfer.check_clean(folder, receipt.stage)
    except StillhouseError:
        dvc_transfer.write_entry(folder, receipt.stage, before)
        raise
    # Here too the next run then finds the result without asking another host.
    dvc_transfer.write_record(dvc_transfer.cache_folder(folder), entry)


def publish(folder: Path) -> None:
    """Push all that a finished run recorded, so that `dvc repro --pull` in a fresh clone restores it, executing nothing.

    `folder` is the run's worktree; in a checkout `dvc push --run-cache` does it.
    """
    inherit_settings(folder, main_checkout(folder))
    pointers = own_data(folder)
    if pointers:
        dvc_transfer.push(folder, pointers)
    dvc_transfer.push_stages(folder, read_yaml(folder / "dvc.lock")["stages"])


# ---- the host that fulfils ----


def fulfil(order: Order, root: Path, execute: Callable[[Path], bool] | None = None, *, scratch: Path) -> Receipt:
    """Run an ordered stage in a worktree of the clone `root` and push its outputs.

    `execute` runs the stage in the folder it is given, says whether it came from a cache, and raises if it failed; the
    worktree is then kept. Without one, `reproduce` runs it.
    """
    with ordered_workspace(order, root, scratch) as folder:
        cached = execute(folder) if execute else reproduce(folder, order.stage)
        dvc_transfer.check_clean(folder, order.stage)
        entry = read_yaml(folder / "dvc.lock")["stages"][order.stage]
        dvc_transfer.push_stages(folder, {order.stage: entry})
    return Receipt(stage=order.stage, entry=dvc_transfer.entry_text(entry), cached=cached)


@contextmanager
def ordered_workspace(order: Order, root: Path, scratch: Path) -> Iterator[Path]:
    """A worktree of `root` in `scratch` with the order's code, parameters and lock file, and the stage's inputs.

    Removed when the block ends well, kept when it fails. Raises OrderError if code or inputs are not to be had.
    """
    obtain_revision(order, root)
    allow_worktrees(root)
    scratch.mkdir(parents=True, exist_ok=True)
    prefix = re.sub(r"[^\w.-]+", "-", f"{order.run}-{order.stage}-")
    with prune_waits(root):
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=scratch)).resolve()
        hold(folder)
    try:
        command("git", "worktree", "add", "--quiet", "--detach", str(folder), order.revision, cwd=root)
        bring_submodules(root, folder)
        inherit_settings(folder, root)
        for name, text in (("params.yaml", order.params), ("dvc.lock", order.lock), *order.data.items()):
            (folder / name).write_text(text, encoding="utf-8") if text else (folder / name).unlink(missing_ok=True)
        dvc_transfer.default_remote(folder)
        targets = input_targets(folder, order.stage)
        if targets:
            dvc_transfer.pull(folder, targets, f"the inputs of {order.stage}")
    except BaseException:
        remove_workspace(root, folder)
        raise
    yield folder
    remove_workspace(root, folder)


def obtain_revision(order: Order, root: Path) -> None:
    """Fetch until the clone knows the order's commit. Raises OrderError if no git remote has it."""
    reason = ""
    # Two fetches at once would fail on each other's reference locks.
    with (shared_git_folder(root) / "stillhouse-fetch.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if knows(root, order.revision):
            return
        try:
            command("git", "fetch", "--quiet", "--all", "--tags", cwd=root)
        except CommandError as error:
            reason = f" ({error})"
    if not knows(root, order.revision):
        raise OrderError(
            f"commit {order.revision[:12]}, ordered by {order.run}, is in no git remote of {root}{reason}; "
            "push it from the host that orders, or let this clone's remote point at the same repository"
        )


def knows(root: Path, revision: str) -> bool:
    return run("git", "cat-file", "-e", f"{revision}^{{commit}}", cwd=root).returncode == 0


def reproduce(folder: Path, stage: str) -> bool:
    """Run the stage's command unless a cache, the remote's included, holds the result; returns whether it did.

    Raises CommandError with DVC's reason.
    """
    # --pull looks for the result in the remote's run-cache first: another host may have run the same stage.
    return f"Running stage '{stage}'" not in dvc_transfer.dvc("repro", "--single-item", "--pull", stage, cwd=folder)


def inherit_settings(folder: Path, root: Path) -> None:
    share_settings(folder, root, dvc_transfer.cache_folder(root))


def shared_git_folder(folder: Path) -> Path:
    return Path(command("git", "rev-parse", "--path-format=absolute", "--git-common-dir", cwd=folder))


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
