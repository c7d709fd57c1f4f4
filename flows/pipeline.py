"""`dvc.yaml` as a graph: order, pool, and what decides whether two runs of a stage are the same. Nothing runs here."""

from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath
from typing import Any

from stillhouse.core.artifacts import digest_bytes, digest_json
from stillhouse.core.errors import ParamsError, nearest
from stillhouse.core.params import read_yaml


@dataclass(frozen=True)
class Stage:
    """One entry of `dvc.yaml`."""

    name: str
    command: str
    pool: str
    deps: tuple[str, ...]
    params: tuple[str, ...]
    outs: tuple[str, ...]
    upstream: tuple[str, ...]
    """Stages whose outputs it depends on."""
    timeout_seconds: float | None = None
    """Longest time that its command may take; from `meta`, which DVC does not count: another limit runs nothing again."""

    @property
    def dispatched(self) -> bool:
        """Whether a worker of a torchrun pool runs it; anything else runs in the flow's own process."""
        return self.pool != "cpu"


@dataclass(frozen=True)
class Pipeline:
    """All stages, each after those that it depends on."""

    folder: Path
    stages: dict[str, Stage]

    def check_names(self, names: list[str], parameter: str) -> None:
        """Raises ParamsError for a name that is no stage."""
        for name in names:
            if name not in self.stages:
                raise ParamsError(f"{parameter}: '{name}' is no stage of dvc.yaml{nearest(name, self.stages)}")

    def needed_for(self, targets: list[str]) -> list[str]:
        """The targets and everything they depend on, in order; all stages without targets."""
        wanted = set(targets or self.stages)
        for name in reversed(list(self.stages)):
            if name in wanted:
                wanted |= set(self.stages[name].upstream)
        return [name for name in self.stages if name in wanted]

    @cached_property
    def params(self) -> dict[str, Any]:
        return read_yaml(self.folder / "params.yaml")

    def version(self, name: str) -> str:
        """Twelve digits over a stage's command, code and parameters; other inputs do not count."""
        stage = self.stages[name]
        code = [dep for dep in stage.deps if not dep.startswith("data/")]
        return self.digest(stage, {dep: digest_path(self.folder / dep) for dep in code})[:12]

    def key(self, name: str) -> str:
        """Digest over everything that a stage's outputs depend on: the same key, the same bytes.

        The upstream stages must have run: their outputs are taken from `dvc.lock`.
        """
        stage = self.stages[name]
        recorded = self.recorded_outputs()
        inputs = {}
        for dep in stage.deps:
            below = {path: md5 for path, md5 in recorded.items() if is_within(path, dep)}
            inputs[dep] = below or digest_path(self.folder / dep)
        return self.digest(stage, inputs)

    def digest(self, stage: Stage, inputs: dict[str, Any]) -> str:
        values = {name: self.params.get(name) for name in stage.params}
        return digest_json({"command": stage.command, "params": values, "inputs": inputs})

    def recorded_outputs(self) -> dict[str, str]:
        """Path to MD5 of every output in `dvc.lock`, as it is now."""
        lock = self.folder / "dvc.lock"
        stages = read_yaml(lock).get("stages", {}) if lock.exists() else {}
        return {out["path"]: out["md5"] for entry in stages.values() for out in entry.get("outs", [])}


def read_pipeline(folder: Path) -> Pipeline:
    """The graph in `folder/dvc.yaml`. Raises ParamsError if it is missing, damaged or has a cycle."""
    path = folder / "dvc.yaml"
    entries = read_yaml(path).get("stages")
    if not entries:
        raise ParamsError(f"{path} holds no stages")
    outs = {name: plain_names(entry, "outs", "metrics", "plots") for name, entry in entries.items()}
    stages = {}
    for name, entry in entries.items():
        deps = plain_names(entry, "deps")
        upstream = tuple(
            other for other in entries
            if other != name and any(is_within(out, dep) or is_within(dep, out) for out in outs[other] for dep in deps)
        )  # fmt: skip
        stages[name] = Stage(
            name=name,
            command=entry["cmd"],
            pool=(entry.get("meta") or {}).get("pool", "cpu"),
            deps=deps,
            params=plain_names(entry, "params"),
            outs=outs[name],
            upstream=upstream,
            timeout_seconds=timeout_of(entry, f"{path}: {name}"),
        )
    try:
        order = list(TopologicalSorter({name: stage.upstream for name, stage in stages.items()}).static_order())
    except CycleError as error:
        raise ParamsError(f"{path}: the stages depend on each other in a circle: {' -> '.join(error.args[1])}") from None
    return Pipeline(folder, {name: stages[name] for name in order})


def timeout_of(entry: dict, where: str) -> float | None:
    """`meta.timeout_seconds` of a stage. Raises ParamsError if it is no time."""
    value = (entry.get("meta") or {}).get("timeout_seconds")
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool) and value > 0):
        return value
    raise ParamsError(f"{where}: meta.timeout_seconds is '{value}', expected a number of seconds above 0")


def plain_names(entry: dict, *kinds: str) -> tuple[str, ...]:
    """Names in lists that may hold `name` or `{name: options}`."""
    items = [item for kind in kinds for item in entry.get(kind) or []]
    return tuple(item if isinstance(item, str) else next(iter(item)) for item in items)


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
