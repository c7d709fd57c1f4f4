"""What a commit records of its outputs, and the outputs themselves: out of the cache or the DVC remote, and into it."""

import logging
import shutil
from pathlib import Path
from typing import Any

from dvc.repo import Repo
from ruamel.yaml import YAML

from flows.remote.dvc_transfer import check_undamaged
from flows.repository.commands import CommandError, command, reason_of, run
from flows.repository.workspace import cache_folder
from stillhouse.core.errors import StillhouseError
from stillhouse.core.recorded_files import damages, message_of

PACKAGE = "data/export_model/package"


class PromotionError(StillhouseError):
    """A version cannot be compared, tagged or pushed."""


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
