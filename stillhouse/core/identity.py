"""What decides that two runs of a stage give the same bytes: its command, its parameters and its inputs, as one digest.

    key(ingredients(Path(), command, params, deps))

Flows take the lease of this key before they start a stage, and the stage keeps its checkpoints under it, so that both
mean the same thing by "the same run".
"""

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from stillhouse.core.artifacts import digest_bytes, digest_json
from stillhouse.core.params import read_yaml
from stillhouse.core.stage_entries import plain_names, stage_entries


def ingredients(folder: Path, command: str, params: Mapping[str, Any], deps: Iterable[str]) -> dict[str, Any]:
    """Everything that a stage's outputs depend on, as plain values.

    Outputs of other stages count by their record in `dvc.lock`, so those must have run; anything else counts by what lies
    there now.
    """
    recorded = recorded_outputs(folder)
    inputs = {}
    for dep in deps:
        below = {path: md5 for path, md5 in recorded.items() if is_within(path, dep)}
        inputs[dep] = below or digest_path(folder / dep)
    return {"command": command, "params": without_pace(dict(params)), "inputs": inputs}


def without_pace(tree: Any) -> Any:
    """Parameters without `training.checkpoint`: how often a training is kept does not change it."""
    if not isinstance(tree, Mapping):
        return tree
    return {
        name: {key: value for key, value in without_pace(inner).items() if key != "checkpoint"}
        if name == "training" and isinstance(inner, Mapping) else without_pace(inner)
        for name, inner in tree.items()
    }  # fmt: skip


def key(ingredients: Mapping[str, Any]) -> str:
    """Digest of the ingredients: the same key, the same bytes."""
    return digest_json(ingredients)


def of_stage(folder: Path, stage: str) -> dict[str, Any] | None:
    """The ingredients of a stage of `folder/dvc.yaml`; None if there is no such file, or no such stage in it."""
    if not (folder / "dvc.yaml").is_file():
        return None
    entry = stage_entries(folder).get(stage)
    if entry is None:
        return None
    params = read_yaml(folder / "params.yaml")
    wanted = {name: params.get(name) for name in plain_names(entry, "params")}
    return ingredients(folder, entry["cmd"], wanted, plain_names(entry, "deps"))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Dotted names of parameters, and inputs, that are not the same in two sets of ingredients; `command` if that differs."""
    changed = ["command"] if old.get("command") != new["command"] else []
    before, after = old.get("params") or {}, new["params"]
    for name in sorted(before.keys() | after.keys()):
        changed += differing_keys(before.get(name), after.get(name), name)
    before, after = old.get("inputs") or {}, new["inputs"]
    return changed + [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]


def differing_keys(before: Any, after: Any, name: str) -> list[str]:
    """Dotted names of what differs in two trees of mappings."""
    if not (isinstance(before, Mapping) and isinstance(after, Mapping)):
        return [] if before == after else [name]
    keys = sorted(before.keys() | after.keys())
    return [found for key in keys for found in differing_keys(before.get(key), after.get(key), f"{name}.{key}")]


def recorded_outputs(folder: Path) -> dict[str, str]:
    """Path to MD5 of every output in `folder/dvc.lock`, as it is now."""
    lock = folder / "dvc.lock"
    stages = read_yaml(lock).get("stages", {}) if lock.exists() else {}
    return {out["path"]: out["md5"] for entry in stages.values() for out in entry.get("outs", [])}


def is_within(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or lies below it."""
    return path == folder or PurePosixPath(folder) in PurePosixPath(path).parents


def digest_path(path: Path) -> str:
    """Digest of a file or of what lies in a folder; data that DVC tracks count by their `.dvc` file. "" if missing."""
    if path.is_file():
        return digest_bytes(path.read_bytes())
    files = [p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts and p.suffix != ".pyc"]
    tracked = {p.with_suffix("") for p in files if p.suffix == ".dvc"}
    names = {
        p.relative_to(path).as_posix(): digest_bytes(p.read_bytes())
        for p in sorted(files) if p not in tracked and not tracked & set(p.parents)
    }  # fmt: skip
    return digest_json(names) if names else ""
