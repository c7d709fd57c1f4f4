"""DVC between hosts: what lies in the remote, the lock file's entries, the run-cache's records.

Through DVC's commands; only three things go past them, because no command does them: to set one entry of `dvc.lock`, to
push one record of the run-cache, and to hold the repository's lock.
"""

import contextlib
import hashlib
import io
import itertools
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from dvc.lock import make_lock
from ruamel.yaml import YAML

from flows.repository.commands import CommandError, reason_of, run
from flows.repository.settings import LOCAL, read_settings, set_cache
from stillhouse.core.errors import StillhouseError
from stillhouse.core.params import read_yaml
from stillhouse.core.recorded_files import Recorded, damages, message_of, names_in, object_path, recorded_data

MOST_HASHED = 16
"""So many files that a pull did not bring are read in the remote, to see whether they are damaged there."""


class StoreError(StillhouseError):
    """Data are not where they have to be: no remote, not pushed, or not what the lock file says."""


def dvc(*words: str, cwd: Path) -> str:
    """Standard output of a DVC command that waits for the repository's lock. Raises CommandError with DVC's own error."""
    done = run("dvc", "--wait-for-lock", *words, cwd=cwd)
    if done.returncode:
        raise CommandError(f"'dvc {' '.join(words)}' in {cwd} failed: {reason_of(done)}")
    return done.stdout


def with_remote(*words: str, cwd: Path) -> str:
    """Standard output of a DVC command that uses the default remote. Raises StoreError that names the remote if it fails."""
    try:
        return dvc(*words, cwd=cwd)
    except CommandError as error:
        raise unusable(cwd, error) from None


def unusable(folder: Path, error: CommandError) -> StoreError:
    return StoreError(
        f"DVC remote {default_remote(folder)} cannot be used: {error}; check that it is up, its address and credentials"
    )


def push(folder: Path, targets: list[str]) -> None:
    """`dvc push`, and see that all has arrived. Raises StoreError."""
    with_remote("push", *targets, cwd=folder)
    check_arrived(folder, targets)


def pull(folder: Path, targets: list[str], what: str) -> None:
    """`dvc pull`, and see that all of it is what DVC has recorded, by content.

    Raises StoreError that names what neither this host nor the remote has, what is damaged, or the remote if it is away.
    """
    recorded = recorded_of(folder, targets)
    try:
        dvc("pull", *targets, cwd=folder)
    except CommandError as error:
        # DVC says of every file that it is missing, also where nobody answers, and of what came damaged.
        check_reachable(folder, default_remote(folder))
        check_undamaged(folder, recorded, what)
        _, _, names = str(error).partition("Checkout failed for following targets: ")
        remedy = "push it with 'dvc push' from the host that has it"
        if not names and "failed to download" in str(error):
            names = f"files of {', '.join(targets)}"
            # DVC takes a folder whose list of files is in the remote to be there wholly.
            remedy += ", after deleting the '.dir' objects of these folders in the remote, which make 'dvc push' skip them"
        if not names:
            raise unusable(folder, error) from None
        missing = f"{what} are not all in DVC remote {default_remote(folder)}: {names} missing; {remedy}"
        raise StoreError(missing) from None
    found = damages(folder, recorded)
    if found:
        # DVC checks out a folder by a list that it has just found damaged, and says that all went well.
        check_undamaged(folder, recorded, what)
        # What the cache had already came by another way.
        raise StoreError(message_of(found))


def recorded_of(folder: Path, targets: list[str]) -> Recorded:
    """What DVC has recorded of targets: stages, outputs, `.dvc` files."""
    stages = read_yaml(folder / "dvc.lock").get("stages", {}) if (folder / "dvc.lock").exists() else {}
    of_stages = {out["path"] for name in targets if name in stages for out in stages[name].get("outs", [])}
    return {
        path: (md5, source)
        for path, (md5, source) in recorded_data(folder).items()
        if path in of_stages or path in targets or source in targets
    }


def check_undamaged(folder: Path, recorded: Recorded, what: str) -> None:
    """Raises StoreError that names what the default remote holds damaged, of what the cache does not hold.

    DVC removes from the cache what came damaged, and calls it missing.
    """
    from dvc.repo import Repo

    cache = cache_folder(folder)
    with Repo(str(folder)) as repo:
        place = repo.cloud.get_remote_odb()

        def is_damaged(md5: str) -> bool:
            path = place.oid_to_path(md5)
            if not place.fs.exists(path):
                return False
            actual = hashlib.md5()
            # `hashlib.file_digest` does not take the files of every remote.
            with place.fs.open(path, "rb") as file:
                while block := file.read(1 << 20):
                    actual.update(block)
            return actual.hexdigest() != md5.removesuffix(".dir")

        for path, (md5, _) in recorded.items():
            names = {path: md5}
            if md5.endswith(".dir"):
                listed = cache / object_path(md5)
                with contextlib.suppress(OSError, ValueError):
                    data = listed.read_bytes() if listed.exists() else place.fs.cat_file(place.oid_to_path(md5))
                    names |= {f"{path}/{name}": each for name, each in names_in(data, md5).items()}
            absent = {name: each for name, each in names.items() if not (cache / object_path(each)).exists()}
            for name, each in itertools.islice(absent.items(), MOST_HASHED):
                if is_damaged(each):
                    # DVC takes a folder whose list of files is in the remote to be there wholly.
                    objects = " and ".join(object_path(broken) for broken in dict.fromkeys([each, md5]))
                    raise StoreError(
                        f"{what} came damaged from DVC remote {default_remote(folder)}: {name} is not what DVC has recorded; "
                        f"delete {objects} there, and run 'dvc push' on the host that has it; nothing was recorded"
                    )


def check_arrived(folder: Path, targets: list[str]) -> None:
    """Raises StoreError if a target is not in the remote: `dvc push` of a folder with a lost file says it went well."""
    absent = [name for name, state in cloud_states(folder, targets).items() if state in ("new", "missing")]
    if absent:
        raise StoreError(
            f"{', '.join(sorted(absent)[:3])} did not reach DVC remote {default_remote(folder)}: the local cache does not hold "
            "all of it; 'dvc repro' of the stage that makes it brings it back"
        )


def cloud_states(folder: Path, targets: list[str]) -> dict[str, str]:
    """Path to `new` (not in the remote), `deleted` (only there) or `missing` (nowhere); what is on both sides is left out."""
    return json.loads(with_remote("status", "--cloud", "--json", *targets, cwd=folder) or "{}")


def default_remote(folder: Path) -> str:
    """`'name' (url)` of the DVC remote that plain `dvc push` uses, for messages. Raises StoreError if there is none."""
    settings = dict(line.split("=", 1) for line in dvc("config", "--list", cwd=folder).splitlines())
    name = settings.get("core.remote")
    if name is None:
        known = sorted(key.split(".")[1] for key in settings if key.startswith("remote.") and key.endswith(".url"))
        how = f"dvc remote default {known[0]}" if known else "dvc remote add --default NAME URL"
        raise StoreError(f"no default DVC remote is configured, so that another host cannot get the data; '{how}' sets one")
    return f"'{name}' ({settings.get(f'remote.{name}.url', 'no url')})"


def check_reachable(folder: Path, remote: str) -> None:
    """Raises StoreError if the default remote does not answer; an empty one is in order."""
    from dvc.repo import Repo

    try:
        with Repo(str(folder)) as repo:
            place = repo.cloud.get_remote_odb()
            place.fs.exists(place.path)
    except Exception as error:  # whatever the remote's client library raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise StoreError(f"DVC remote {remote} does not answer: {reason}; check its address and credentials") from error


def push_stages(folder: Path, entries: dict[str, dict[str, Any]]) -> None:
    """Push the outputs of the stages with these entries of `dvc.lock`, and their records in the run-cache, but no others.

    `dvc push --run-cache` copies every record of the clone each time, also those whose outputs the remote never gets.
    `folder` is a worktree with settings of its own (`share_settings`), in which no other command runs now.
    """
    cache = cache_folder(folder)
    with tempfile.TemporaryDirectory(prefix="stillhouse-push-") as name:
        private = Path(name)
        (private / "files").symlink_to(cache / "files")
        for entry in entries.values():
            write_record(private, entry)
        set_cache(folder, private)
        try:
            with_remote("push", "--run-cache", *entries, cwd=folder)
        finally:
            set_cache(folder, cache)
    check_arrived(folder, [*entries])


# ---- dvc.lock ----


def write_entry(folder: Path, stage: str, entry: dict[str, Any] | None) -> None:
    """Set a stage's entry in `dvc.lock` as DVC itself would, under its lock of the repository; None takes it out."""
    path = folder / "dvc.lock"
    yaml = dvc_yaml()
    scratch = folder / ".dvc" / "tmp"
    scratch.mkdir(exist_ok=True)
    with make_lock(str(scratch / "lock"), tmp_dir=str(scratch), wait=True):
        tree: Any = (yaml.load(path.read_text(encoding="utf-8")) if path.exists() else None) or {"schema": "2.0"}
        if entry is None:
            tree.get("stages", {}).pop(stage, None)
        else:
            tree.setdefault("stages", {})[stage] = entry
        temporary = scratch / f"dvc.lock.{os.getpid()}"
        with temporary.open("w", encoding="utf-8") as file:
            yaml.dump(tree, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def check_clean(folder: Path, stage: str) -> None:
    """Raises StoreError if DVC finds that the stage's recorded result is not that of what lies in `folder`."""
    status = json.loads(dvc("status", "--json", stage, cwd=folder))
    if status:
        raise StoreError(f"{stage} is not up to date in {folder}: {json.dumps(status[next(iter(status))])}; order it again")


def dvc_yaml() -> YAML:
    """Reads and writes `dvc.lock` to the byte as DVC does."""
    yaml = YAML()
    yaml.default_flow_style = False
    return yaml


def entry_text(entry: dict[str, Any]) -> str:
    stream = io.StringIO()
    dvc_yaml().dump(entry, stream)
    return stream.getvalue()


def read_entry(text: str) -> dict[str, Any]:
    return YAML(typ="safe", pure=True).load(text)


# ---- the run-cache ----


def write_record(cache: Path, entry: dict[str, Any]) -> None:
    """Write a result into the run-cache `cache/runs`, as `dvc repro` does where it runs the stage."""
    bare = without_sizes(entry)
    key = record_digest({**bare, "outs": [out["path"] for out in bare["outs"]]})
    path = cache / "runs" / key[:2] / key / record_digest(bare)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.write_text(entry_text(entry), encoding="utf-8")
        temporary.replace(path)


def without_sizes(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_sizes(item) for key, item in value.items() if key not in ("size", "nfiles")}
    return [without_sizes(item) for item in value] if isinstance(value, list) else value


def record_digest(value: dict[str, Any]) -> str:
    """DVC's name for a record or its key."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def cache_folder(folder: Path) -> Path:
    """The DVC cache that commands in `folder` use."""
    named = read_settings(folder / LOCAL).get("cache", {}).get("dir", "")
    # DVC's own answer takes 0.4 seconds.
    return Path(named) if named.startswith("/") else (folder / dvc("cache", "dir", cwd=folder).strip()).resolve()
