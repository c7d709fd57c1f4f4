"""`dvc.yaml` as a graph: order, pool, and what decides whether two runs of a stage are the same. Nothing runs here."""

from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from stillhouse.core.errors import ParamsError, nearest
from stillhouse.core.identity import digest_path, ingredients, is_within, key, recorded_outputs
from stillhouse.core.params import read_yaml
from stillhouse.core.stage_entries import plain_names, stage_entries


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
        """Raises ParamsError for a name that is not a stage."""
        for name in names:
            if name not in self.stages:
                raise ParamsError(f"{parameter}: '{name}' is not a stage of dvc.yaml{nearest(name, self.stages)}")

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
        inputs = {dep: digest_path(self.folder / dep) for dep in code}
        return key({"command": stage.command, "params": self.values(stage), "inputs": inputs})[:12]

    def key(self, name: str) -> str:
        """Digest over everything that a stage's outputs depend on: the same key, the same bytes.

        The upstream stages must have run: their outputs are taken from `dvc.lock`. The stage itself keeps its checkpoints
        under this key.
        """
        stage = self.stages[name]
        return key(ingredients(self.folder, stage.command, self.values(stage), stage.deps))

    def values(self, stage: Stage) -> dict[str, Any]:
        """The parameters that a stage reads."""
        return {name: self.params.get(name) for name in stage.params}

    def recorded_outputs(self) -> dict[str, str]:
        """Path to MD5 of every output in `dvc.lock`, as it is now."""
        return recorded_outputs(self.folder)


def read_pipeline(folder: Path) -> Pipeline:
    """The graph in `folder/dvc.yaml`. Raises ParamsError if it is missing, damaged or has a cycle."""
    path = folder / "dvc.yaml"
    entries = stage_entries(folder)
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
    """`meta.timeout_seconds` of a stage. Raises ParamsError if it is not a time."""
    value = (entry.get("meta") or {}).get("timeout_seconds")
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool) and value > 0):
        return value
    raise ParamsError(f"{where}: meta.timeout_seconds is '{value}', expected a number of seconds above 0")
