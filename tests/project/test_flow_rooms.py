"""Rooms of flows import downwards, and what needs no Prefect or no torch works without it."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stillhouse.comparison.kinds import comparison_of
from stillhouse.core.params import STAGES
from stillhouse.kinds.registry import KINDS
from tests.helpers.imports import FLOW_ROOMS, ROOT, imports_of, reached

PREFECT_ROOMS = {"flow_run", "dispatch"}
FLOWS = sorted((ROOT / "flows").rglob("*.py"))


def room_of(path: Path) -> str:
    """The room of a file of flows; "" for what stands above the rooms."""
    parts = path.relative_to(ROOT / "flows").parts
    return parts[0] if len(parts) > 1 else ""


def imports_prefect(path: Path) -> bool:
    """Whether a file imports Prefect itself, anywhere in it."""
    modules = []
    for node in ast.walk(ast.parse(path.read_text())):
        modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
    return any(module.split(".")[0] == "prefect" for module in modules)


def entered_by_prefect() -> set[str]:
    """Modules that Prefect imports by name: of its deployments, and of its worker types."""
    deployments = YAML(typ="safe").load((ROOT / "prefect.yaml").read_text())["deployments"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {each["entrypoint"].rpartition(".")[0] for each in deployments} | {
        *project["entry-points"]["prefect.collections"].values()
    }


def test_every_room_of_flows_says_what_it_is_for():
    assert {room_of(path) for path in FLOWS} - {""} == set(FLOW_ROOMS)
    for room in FLOW_ROOMS:
        assert ast.get_docstring(ast.parse((ROOT / "flows" / room / "__init__.py").read_text())), room


@pytest.mark.parametrize("path", FLOWS, ids=lambda p: str(p.relative_to(ROOT)))
def test_flows_import_downwards_and_of_the_library_the_light_half(path):
    for module in imports_of(path):
        light = ("flows", "stillhouse.core", "stillhouse.kinds", "stillhouse.comparison")
        assert module.startswith(light), f"{path.name} imports {module}"
        if room_of(path) and module.startswith("flows."):
            room = module.split(".")[1]
            allowed = FLOW_ROOMS[: FLOW_ROOMS.index(room_of(path)) + 1]
            assert room in allowed, f"{path.relative_to(ROOT)} imports {module}, which stands above it"


@pytest.mark.parametrize("path", FLOWS, ids=lambda p: str(p.relative_to(ROOT)))
def test_prefect_is_known_to_its_rooms_and_to_what_it_enters_itself(path):
    """That a room without Prefect imports none with it follows from the order of the rooms."""
    assert max(map(FLOW_ROOMS.index, {*FLOW_ROOMS} - PREFECT_ROOMS)) < min(map(FLOW_ROOMS.index, PREFECT_ROOMS))
    module = str(path.relative_to(ROOT).with_suffix("")).replace("/", ".")
    assert not imports_prefect(path) or room_of(path) in PREFECT_ROOMS or module in entered_by_prefect()


def test_tasks_never_import_prefect():
    for path in [*(ROOT / "tasks").rglob("*.py"), *(ROOT / "stillhouse").rglob("*.py")]:
        assert not imports_prefect(path), path


def loaded_by(modules: list[str], heavy: set[str]) -> str:
    """Which of the heavy modules a fresh interpreter has loaded after importing `modules`."""
    code = f"import sys, {', '.join(modules)}; print(sorted({heavy!r} & set(sys.modules)))"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def test_every_stage_can_be_checked_without_torch():
    assert loaded_by([f"tasks.{stage}" for stage in STAGES], {"torch", "transformers", "prefect"}) == "[]"


def modules_of(paths: Iterable[Path]) -> list[str]:
    return [str(path.relative_to(ROOT).with_suffix("")).replace("/", ".") for path in paths if path.stem != "__init__"]


def test_flows_load_neither_torch_nor_transformers():
    assert loaded_by(modules_of(FLOWS), {"torch", "transformers", "datasets"}) == "[]"


def test_what_knows_dvc_and_git_alone_does_not_load_prefect():
    """Neither in rooms, nor as a command that needs no room with Prefect."""
    plain = [path for path in FLOWS if not any(imports_prefect(each) for each in reached(path))]
    assert {room_of(path) for path in plain} >= {"", *FLOW_ROOMS} - PREFECT_ROOMS
    assert loaded_by(modules_of(plain), {"torch", "prefect"}) == "[]"


def test_no_module_prints_or_works_at_import():
    names = [str(p.relative_to(ROOT).with_suffix("")).replace("/", ".") for p in (ROOT / "stillhouse" / "core").glob("*.py")]
    done = subprocess.run(
        [sys.executable, "-c", "import " + ", ".join(n for n in names if not n.endswith("__init__"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_flows_know_no_metric_by_name():
    """What a kind is measured by, its own module of `stillhouse.comparison` says."""
    names = {name for kind in KINDS.values() for name in (*comparison_of(kind.name).SHOWN, *kind.target.gate_metrics)}
    names -= {"parameters", "bytes"}
    for path in FLOWS:
        words = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
        assert not words & names, path
