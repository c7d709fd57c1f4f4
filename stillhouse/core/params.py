"""Reads `params.yaml` into frozen dataclasses and refuses everything that is not declared.

A stage declares one dataclass whose fields are the blocks it reads, so that code, `params.yaml` and the `params:` list
of `dvc.yaml` name the same things (a test compares them). YAML is read as version 1.2, like DVC does: `1e-3` is a number
and `no` is a word (Norwegian).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast, dataclass_transform, get_args, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stillhouse.core.errors import ParamsError, nearest
from stillhouse.kinds.protocol import Kind
from stillhouse.kinds.registry import KINDS, kind_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

PARAMS_FILE = Path("params.yaml")

STAGES = (
    "ingest",
    "preprocess",
    "train_teacher",
    "export_soft_labels",
    "train_student",
    "train_baseline",
    "finetune",
    "evaluate",
    "export_model",
    "report",
)
SHARED_BLOCKS = ("kind", "seed", "threads", "views", "student")
# Read by no stage: what is done with a finished run.
FLOW_BLOCKS = ("gate",)
ROOMS = "rooms"
"""Where the code of the kind lies, for `dvc.yaml` alone: it cannot look that up."""

KindName = Annotated[str, "the name of a kind"]
"""What the pipeline's models are; the parameter `kind`, which `build` looks up before anything else."""

Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""What torch and numpy both take."""
Threads = Annotated[int, Field(ge=1, le=4096)]
"""Of torch, over all ranks of a host."""

T = TypeVar("T")
P = TypeVar("P", bound="DataclassInstance")

TAGS = ("kind", "name")
"""Keys by which forms of a block are told apart."""

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def block(cls: type[T]) -> type[T]:
    """Class decorator of every parameter block: a frozen keyword-only dataclass that forbids unknown keys."""
    frozen = dataclass(frozen=True, kw_only=True)(cls)
    frozen.__pydantic_config__ = STRICT  # pyright: ignore[reportAttributeAccessIssue]
    return frozen


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in `path`. Raises ParamsError if it is missing, is not YAML or is not a mapping."""
    try:
        with path.open(encoding="utf-8") as file:
            tree = YAML(typ="safe", pure=True).load(file)
    except FileNotFoundError:
        raise ParamsError(f"{path} is missing; run the command in the root of the repository") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ParamsError(f"{path} holds {type(tree).__name__}, expected a mapping of blocks")
    return tree


def load(params_type: type[P], path: Path = PARAMS_FILE) -> P:
    """Fill `params_type`, whose fields are names of blocks, from the file `path`.

    Raises ParamsError naming file and key: unknown block or key (with the nearest known one), missing key, wrong type,
    value out of range.
    """
    tree = read_yaml(path)
    known = {*STAGES, *SHARED_BLOCKS, *FLOW_BLOCKS, ROOMS}
    for name in tree:
        if name not in known:
            raise ParamsError(f"{path}: unknown parameter '{name}'{nearest(str(name), known)}")
    wanted = {field.name for field in fields(params_type)}
    if "kind" in wanted:
        require_rooms(tree, path)
    for name in sorted(wanted - tree.keys()):
        raise ParamsError(f"{path}: parameter '{name}' is missing")
    return build(params_type, {name: tree[name] for name in tree if name in wanted}, str(path))


def require_rooms(tree: dict[str, Any], path: Path) -> None:
    """Raises ParamsError if the stages would go by the code of another kind than that of `tree`."""
    kind = named_kind(tree, str(path))
    if tree.get(ROOMS) != kind.rooms:
        wanted = ", ".join(f"{name}: {room}" for name, room in kind.rooms.items())
        given = f"is {tree[ROOMS]!r}" if ROOMS in tree else "is missing"
        raise ParamsError(f"{path}: parameter '{ROOMS}' {given}; kind {kind.name} needs '{ROOMS}: {{{wanted}}}'")


def of_kind(params_type: type[P], kind: Kind) -> type[P]:
    """The blocks of a stage with the keys that they have for one kind of model: a key of another kind is unknown."""
    declared = {field.name: own for field in fields(params_type) if (own := kind.block(field.name))}
    if not declared:
        return params_type
    made = type(params_type.__name__, (params_type,), {"__annotations__": declared, "__module__": params_type.__module__})
    return block(cast("type[P]", made))


def build(params_type: type[P], tree: dict[str, Any], where: str) -> P:
    """`params_type` from plain values; `where` opens the error message."""
    declared = params_type
    if any(field.name == "kind" for field in fields(params_type)):
        declared = of_kind(params_type, named_kind(tree, where))
    try:
        # In JSON mode "strict" accepts mappings for dataclasses, and still no "5" for 5.
        return TypeAdapter(declared).validate_json(json.dumps(tree, default=str))
    except ValidationError as error:
        raise ParamsError(f"{where}: {_explain(error, declared, params_type, tree)}") from None


def named_kind(tree: dict[str, Any], where: str) -> Kind:
    """The kind that `tree` names. Raises ParamsError for one that there is not."""
    name = kind_of(tree)
    # A list or a mapping cannot be looked up.
    if not isinstance(name, str) or name not in KINDS:
        raise ParamsError(f"{where}: 'kind' is {name!r}, expected one of {', '.join(KINDS)}")
    return KINDS[name]


def listed(names: list[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return " and ".join([*([", ".join(names[:-1])] if names[1:] else []), names[-1]])


def _explain(error: ValidationError, params_type: type, of_any_kind: "type[DataclassInstance]", tree: dict[str, Any]) -> str:
    """The first problem that pydantic found, in our words. of_any_kind: what the stage declares, whatever the kind."""
    problems = error.errors()
    # An unknown key is the likeliest cause of a missing one: say that first.
    problem = next((p for p in problems if p["type"] in ("extra_forbidden", "unexpected_keyword_argument")), problems[0])
    context = problem.get("ctx", {})
    location = _keys_of_file(problem["loc"], tree, "missing" in problem["type"])
    key = ".".join(str(part) for part in location)
    match problem["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            path = list(problem["loc"][:-1])
            siblings = _known_keys(params_type, path)
            others = [kind.name for kind in KINDS.values() if location[-1] in _known_keys(of_kind(of_any_kind, kind), path)]
            if others and "kind" in tree:
                return f"'{key}' is a parameter of kind {listed(others)}, and 'kind' is {tree['kind']}; leave it out"
            return f"unknown parameter '{key}'{nearest(str(location[-1]), siblings)}"
        case "missing" | "missing_argument" | "missing_keyword_only_argument":
            return f"parameter '{key}' is missing"
        case "value_error":
            # A check across blocks names its keys itself.
            return f"'{key}': {context['error']}" if key else str(context["error"])
        case "union_tag_not_found":
            return f"parameter '{key}.{tag_of(problem)}' is missing"
        case "union_tag_invalid":
            tag = problem.get("ctx", {})
            return f"'{key}.{tag_of(problem)}' is {tag['tag']!r}, expected one of {tag['expected_tags']}"
        case _:
            value = problem["input"]
            wish = problem["msg"].removeprefix("Input should be ").removeprefix("a valid ")
            return f"'{key}' is {value!r} ({type(value).__name__}), expected {wish}"


def tag_of(problem: Mapping[str, Any]) -> str:
    """The key by which the forms of a block are told apart."""
    return problem["ctx"]["discriminator"].strip("'")


def _keys_of_file(location: tuple, tree: Any, missing: bool) -> list:
    """Keys and indices in pydantic's location, without the names of union members that it puts between and behind them."""
    keys = []
    for step in location:
        if (isinstance(tree, dict) and step in tree) or (isinstance(tree, list) and isinstance(step, int)):
            keys.append(step)
            tree = tree[step]
    return [*keys, location[-1]] if missing else keys


def _known_keys(params_type: Any, path: list) -> set[str]:
    """Keys allowed at `path` below `params_type`: field names of the dataclass that stands there."""
    if is_dataclass(params_type):
        hints = get_type_hints(params_type, include_extras=True)
        if not path:
            return {field.name for field in fields(params_type)}
        if path[0] in hints:
            return _known_keys(hints[path[0]], path[1:])
        return set()
    if path and isinstance(path[0], int):
        # An entry of a list: its type is what the list is of.
        return set().union(*(_known_keys(member, path[1:]) for member in get_args(params_type)))
    found: set[str] = set()
    for member in get_args(params_type):
        # What annotates a type may be an instance of a dataclass.
        a_block = isinstance(member, type) and is_dataclass(member)
        if a_block or get_args(member):
            # The tag of a discriminated union stands in the path too.
            hints = get_type_hints(member) if a_block else {}
            tagged = bool(path) and any(path[0] in get_args(hints.get(tag)) for tag in TAGS)
            found |= _known_keys(member, path[1:] if tagged else path)
    return found
