"""The shape of the project: names agree, imports point down, and tests lie in the rooms of what they test."""

import ast
from collections import defaultdict
from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stillhouse.core.params import FLOW_BLOCKS, ROOMS, SHARED_BLOCKS, STAGES
from tests.helpers.imports import FLOW_ROOMS, LIBRARY, PIPELINE, ROOT, SOURCES, imports_of, library_room, module_file

PARAMS = YAML(typ="safe").load((ROOT / "params.yaml").read_text())

# Rooms of the library: each may import those before it, and itself. A star is any modality, or any target.
LAYERS = [
    "kinds", "core", "comparison", "losses", "data", "preprocessing", "sources", "soft_labels/format", "runtime", "models",
    "distillation", "modalities/*/table", "modalities/*/rows", "modalities/*/ingest", "modalities/*/preprocess",
    "targets/*/losses", "training", "targets/*/predict", "targets/*/train", "transfer", "soft_labels/produce",
    "targets/*/soft_labels", "targets/*/export_soft_labels", "targets/*/train_student", "exchange", "evaluation",
    "targets/*/evaluate", "packaging", "modalities/*/export_model", "reporting", "targets/*/report", "gate",
    "modalities/*/gate",
]  # fmt: skip

MOST_LINES = 300


def test_one_spelling_per_stage():
    assert list(PIPELINE) == list(STAGES)
    assert set(PARAMS) == {*STAGES, *SHARED_BLOCKS, *FLOW_BLOCKS, ROOMS}
    for stage, entry in PIPELINE.items():
        assert (ROOT / "tasks" / f"{stage}.py").is_file()
        assert list((ROOT / "tests").rglob(f"test_{stage}.py")), f"test_{stage}.py is missing"
        assert entry["cmd"] in (f"python -m tasks.{stage}", f"python -m tasks.launch {stage}")
        outs = [out for kind in ("outs", "metrics", "plots") for out in entry.get(kind, [])]
        assert all(out.startswith(f"data/{stage}/") for out in outs)
        assert entry["meta"]["pool"] == ("torchrun" if "tasks.launch" in entry["cmd"] else "cpu")


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    layer = library_room(path)
    for module in imports_of(path):
        assert module.startswith("stillhouse."), f"{path} imports {module}: the library must work without flows and tasks"
        imported = module_file(module)
        assert imported is not None, module
        allowed = LAYERS.index(library_room(imported)) <= LAYERS.index(layer)
        assert allowed, f"{path.relative_to(ROOT)} imports {module}, which lies above it"


@pytest.mark.parametrize("family", ["modalities", "targets"])
def test_no_modality_imports_another_and_no_target_does(family):
    for path in (ROOT / "stillhouse" / family).rglob("*.py"):
        own = path.relative_to(ROOT / "stillhouse").parts[1]
        for module in imports_of(path):
            assert not module.startswith(f"stillhouse.{family}.") or module.split(".")[2] == own, f"{path} imports {module}"


def test_no_module_is_in_a_circle_of_imports():
    """Imports for type checkers and inside of functions count: whatever goes round can only be read as one."""
    graph = {path: {file for module in imports_of(path) if (file := module_file(module))} for path in SOURCES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" <- ".join(str(path.relative_to(ROOT)) for path in error.args[1])) from None


def test_no_file_is_too_long_to_read_in_one_sitting():
    rooms = ("stillhouse", "tasks", "flows", "tests", "benchmarks", "checks")
    files = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    long = {str(path.relative_to(ROOT)) for path in files if len(path.read_text().splitlines()) > MOST_LINES}
    assert long == set(), "divide by what belongs together"


CLASSES_OF_MANY = {
    "Params": "each stage's parameters, by the convention of `tasks/`",
}
"""Names that several classes may have, and why."""


def twice(places: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Names that stand in more than one place."""
    found = defaultdict(list)
    for name, place in places:
        found[name].append(place)
    return {name: where for name, where in found.items() if len(where) > 1}


def test_no_two_classes_have_one_name():
    classes = [
        (node.name, f"{path.relative_to(ROOT)}:{node.lineno}")
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and node.name not in CLASSES_OF_MANY
    ]
    assert twice(classes) == {}


MODULES_OF_MANY = {
    "config": "the parameters of a room, beside what they are for",
    "data": "the room, and the command that a user types",
    "kinds": "what a room asks of a kind's module",
}


def test_no_two_modules_have_one_name():
    modules = [(path.stem, str(path.relative_to(ROOT))) for path in SOURCES if path.stem != "__init__"]
    rooms = [(path.parent.name, str(path.parent.relative_to(ROOT))) for path in SOURCES if path.stem == "__init__"]
    # Those of modalities and targets are named alike on purpose: after the stages that depend on them.
    rooms = [(name, place) for name, place in rooms if "/modalities/" not in place and "/targets/" not in place]
    assert {name: places for name, places in twice([*modules, *rooms]).items() if name not in MODULES_OF_MANY} == {}


def modules_imported(path: Path) -> set[str]:
    """Whatever a file imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_benchmarks_and_checks_take_of_the_tests_their_helpers_and_tests_take_nothing_of_theirs():
    for path in [*(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "checks").rglob("*.py")]:
        taken = {module for module in modules_imported(path) if module.split(".")[0] == "tests"}
        assert all(module.startswith("tests.helpers") for module in taken), f"{path}: {taken}"
    for path in (ROOT / "tests").rglob("*.py"):
        if path.name != "test_benchmarks.py":
            assert not {module.split(".")[0] for module in modules_imported(path)} & {"benchmarks", "checks"}, path
    for path in (ROOT / "benchmarks").rglob("*.py"):
        assert "checks" not in {module.split(".")[0] for module in modules_imported(path)}, path


def test_tests_lie_in_the_rooms_of_what_they_test():
    """A room of the library, a room of flows, or `project` for what is about all of it."""
    rooms = {path.name for path in (ROOT / "stillhouse").iterdir() if path.is_dir()}
    rooms |= {path.name for path in (ROOT / "stillhouse" / "modalities").iterdir() if path.is_dir()}
    rooms |= {*(f"flows/{room}" for room in FLOW_ROOMS), "tasks", "project"}
    for path in (ROOT / "tests").rglob("test_*.py"):
        assert str(path.parent.relative_to(ROOT / "tests")) in rooms, path
