"""The shape of the project: names agree, imports point down, and every module a stage imports is among its deps."""

import ast
import subprocess
import sys
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stillhouse.core.params import FLOW_BLOCKS, SHARED_BLOCKS, STAGES
from stillhouse.kinds.registry import KINDS

ROOT = Path(__file__).parent.parent
PIPELINE = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
PARAMS = YAML(typ="safe").load((ROOT / "params.yaml").read_text())

# A package may import those below it, and itself.
LAYERS = ["kinds", "core", "comparison", "sources", "data", "models", "losses", "training", "soft_labels", "evaluation"]


def imports_of(path: Path) -> set[str]:
    """Modules of this project that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            module = node.module
            names = [f"{module}.{alias.name}" for alias in node.names]
            found |= {name if module_file(name) else module for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] in ("stillhouse", "tasks", "flows")}


def module_file(module: str) -> Path | None:
    path = ROOT / Path(*module.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


def reached(start: Path) -> set[Path]:
    """Every file of this project that running `start` may import."""
    seen, todo = set(), [start]
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            todo += [file for module in imports_of(path) if (file := module_file(module))]
    return seen


def test_one_spelling_per_stage():
    assert list(PIPELINE) == list(STAGES)
    assert set(PARAMS) == {*STAGES, *SHARED_BLOCKS, *FLOW_BLOCKS}
    for stage, entry in PIPELINE.items():
        assert (ROOT / "tasks" / f"{stage}.py").is_file()
        assert (ROOT / "tests" / f"test_{stage}.py").is_file(), f"tests/test_{stage}.py is missing"
        assert entry["cmd"] in (f"python -m tasks.{stage}", f"python -m tasks.launch {stage}")
        outs = [out for kind in ("outs", "metrics", "plots") for out in entry.get(kind, [])]
        assert all(out.startswith(f"data/{stage}/") for out in outs)
        assert entry["meta"]["pool"] == ("torchrun" if "tasks.launch" in entry["cmd"] else "cpu")


@pytest.mark.parametrize("stage", STAGES)
def test_params_of_dvc_are_the_blocks_that_the_stage_reads(stage):
    read = {field.name for field in fields(import_module(f"tasks.{stage}").Params)}
    assert set(PIPELINE[stage]["params"]) == read


def modules_of_kinds(stage: str) -> set[str]:
    """What a stage loads by the names that kinds give: their parts for it, and the declarations of its blocks."""
    read = {field.name for field in fields(import_module(f"tasks.{stage}").Params)}
    found = set()
    for kind in KINDS.values():
        found |= {getattr(kind, part.name) for part in fields(kind) if stage in part.metadata.get("stages", ())}
        found |= {place.partition(":")[0] for block, place in kind.blocks.items() if block in read}
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_deps_cover_every_module_that_the_stage_imports(stage):
    start = [ROOT / "tasks" / f"{stage}.py"]
    if "tasks.launch" in PIPELINE[stage]["cmd"]:
        start.append(ROOT / "tasks" / "launch.py")
    start += [path for module in modules_of_kinds(stage) if (path := module_file(module))]
    deps = [ROOT / dep for dep in PIPELINE[stage]["deps"]]
    for path in {file for begin in start for file in reached(begin)}:
        if path.name == "__init__.py" and not path.read_text():
            continue
        covered = any(path == dep or dep in path.parents for dep in deps)
        assert covered, f"{stage} imports {path.relative_to(ROOT)}, which its deps do not name"


@pytest.mark.parametrize("path", sorted((ROOT / "stillhouse").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    layer = path.relative_to(ROOT / "stillhouse").parts[0]
    if layer not in LAYERS:
        return
    for module in imports_of(path):
        parts = module.split(".")
        assert parts[0] == "stillhouse", f"{path} imports {module}: the library must work without flows and tasks"
        allowed = LAYERS.index(parts[1]) <= LAYERS.index(layer)
        assert allowed, f"{path.relative_to(ROOT)} imports {module}, which lies above it"


def test_flows_import_only_the_light_half():
    for path in (ROOT / "flows").glob("*.py"):
        for module in imports_of(path):
            light = ("flows", "stillhouse.core", "stillhouse.kinds", "stillhouse.comparison")
            assert module.startswith(light), f"{path.name} imports {module}"


def test_tasks_never_import_prefect():
    for path in [*(ROOT / "tasks").glob("*.py"), *(ROOT / "stillhouse").rglob("*.py")]:
        assert "import prefect" not in path.read_text()
        assert "from prefect" not in path.read_text()


def loaded_by(modules: list[str], heavy: set[str]) -> str:
    """Which of the heavy modules a fresh interpreter has loaded after importing `modules`."""
    code = f"import sys, {', '.join(modules)}; print(sorted({heavy!r} & set(sys.modules)))"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def test_every_stage_can_be_checked_without_torch():
    assert loaded_by([f"tasks.{stage}" for stage in STAGES], {"torch", "transformers", "prefect"}) == "[]"


def test_flows_load_neither_torch_nor_transformers():
    modules = [f"flows.{path.stem}" for path in (ROOT / "flows").glob("*.py")]
    assert loaded_by(modules, {"torch", "transformers", "datasets"}) == "[]"


def test_what_knows_dvc_and_git_alone_does_not_load_prefect():
    modules = ["guard", "pipeline", "workspace", "repro", "run", "local", "remote", "store", "promote", "recipe", "summary"]
    assert loaded_by([f"flows.{name}" for name in modules], {"torch", "prefect"}) == "[]"


def test_no_module_prints_or_works_at_import():
    names = [str(p.relative_to(ROOT).with_suffix("")).replace("/", ".") for p in (ROOT / "stillhouse" / "core").glob("*.py")]
    done = subprocess.run(
        [sys.executable, "-c", "import " + ", ".join(n for n in names if not n.endswith("__init__"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
