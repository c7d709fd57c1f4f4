"""Which files the project has, in which rooms they lie, and which of them imports which."""

import ast
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
PIPELINE = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
SOURCES = sorted(path for room in ("stillhouse", "flows", "tasks") for path in (ROOT / room).rglob("*.py"))
LIBRARY = sorted(path for path in (ROOT / "stillhouse").rglob("*.py") if path.name != "__init__.py")

# Of flows: each may import those before it, and itself; none may import a command or a flow, which stand above them all.
FLOW_ROOMS = [
    "repository", "execution", "remote", "model_registry", "disk", "results", "run", "intake", "server", "flow_run", "dispatch",
]  # fmt: skip


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


def library_room(path: Path) -> str:
    """As in `LAYERS` of `tests/project/test_layout.py`."""
    parts = path.relative_to(ROOT / "stillhouse").parts
    if parts[0] in ("modalities", "targets"):
        return f"{parts[0]}/*/{parts[2]}"
    return "/".join(parts[:2]) if parts[0] == "soft_labels" else parts[0]
