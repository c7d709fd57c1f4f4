"""The stages of `dvc.yaml` as DVC reads them: `${key}` stands for a parameter."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stillhouse.core.errors import ParamsError
from stillhouse.core.params import PARAMS_FILE, read_yaml

REFERENCE = re.compile(r"\$\{([\w.]+)\}")


def stage_entries(folder: Path) -> dict[str, Any]:
    """Name to entry of every stage of `folder/dvc.yaml`, with the values of `folder/params.yaml` in place.

    Raises ParamsError if one of the files is missing or damaged, or a parameter that is referred to is missing.
    """
    entries = read_yaml(folder / "dvc.yaml").get("stages") or {}
    # A pipeline that refers to nothing needs no parameters.
    return resolved(entries, read_yaml(folder / PARAMS_FILE)) if REFERENCE.search(str(entries)) else entries


def resolved(tree: Any, params: Mapping[str, Any]) -> Any:
    """`tree` with the values of `params` for the references in its strings."""
    if isinstance(tree, Mapping):
        return {key: resolved(value, params) for key, value in tree.items()}
    if isinstance(tree, list):
        return [resolved(value, params) for value in tree]
    return REFERENCE.sub(lambda found: value_of(found[1], params), tree) if isinstance(tree, str) else tree


def value_of(key: str, params: Mapping[str, Any]) -> str:
    value: Any = params
    for step in key.split("."):
        if not isinstance(value, Mapping) or step not in value:
            remedy = "'python -m tasks.check' says what belongs there"
            raise ParamsError(f"{PARAMS_FILE}: parameter '{key}' is missing, which dvc.yaml refers to; {remedy}")
        value = value[step]
    return str(value)


def plain_names(entry: Mapping[str, Any], *kinds: str) -> tuple[str, ...]:
    """Names in lists that may hold `name` or `{name: options}`."""
    items = [item for kind in kinds for item in entry.get(kind) or []]
    return tuple(item if isinstance(item, str) else next(iter(item)) for item in items)
