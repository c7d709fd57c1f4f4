"""`params.yaml` for own data: the block that was proposed, written among the rest, whose comments and layout stay.

What a user has edited by hand and not committed is not overwritten without being asked for. What `make data` itself has
written is no such edit: it is remembered beside git's own files.
"""

import difflib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from flows.repository.commands import CommandError, command
from flows.repository.workspace import shared_folder
from stillhouse.core.errors import ParamsError
from stillhouse.core.params import PARAMS_FILE, read_yaml
from stillhouse.kinds.registry import KINDS, kind_of

MEMORY = "own_params.json"


@dataclass(frozen=True)
class Plan:
    """What params.yaml is and what it is to be."""

    before: str
    after: str
    edited: list[str]
    """Keys that would be overwritten although somebody has edited them since the last commit."""
    recipe: str | None
    """The recipe that takes the place of all other values, because they are for another kind of model."""
    values: dict[str, Any]

    @property
    def diff(self) -> str:
        lines = difflib.unified_diff(
            self.before.splitlines(keepends=True), self.after.splitlines(keepends=True), "params.yaml", "params.yaml", n=1
        )
        return "".join(lines)


def reads(root: Path, names: list[str]) -> bool:
    """Whether params.yaml reads all of those names of `data/raw` already."""
    block = (read_yaml(root / PARAMS_FILE).get("ingest") or {}).get("source") or {}
    given = [block.get(key) for key in ("train", "validation", "test", "files") if block.get("kind") in ("files", "cloze")]
    given.append(block.get("dataset") if block.get("kind") == "hub" else None)
    texts = [text for each in given for text in (each if isinstance(each, list) else [each]) if isinstance(text, str)]
    read = {text.removeprefix("data/raw/").split("/")[0] for text in texts}
    return bool(names) and all(name.split("/")[0] in read for name in names)


def values_of(kind: str, source: dict[str, Any], preprocess: dict[str, Any], title: str) -> dict[str, Any]:
    """Dotted keys that own data need to be other than the recipe has them."""
    values = {"ingest": {"source": source, "new": None}, "report.title": title}
    if KINDS[kind].target.of_classes:
        values["preprocess.withheld_labels"] = 0.0
    return values | {f"preprocess.{key}": value for key, value in preprocess.items()}


def plan(root: Path, kind: str, values: dict[str, Any]) -> Plan:
    """What `values` make of params.yaml. Raises ParamsError if it cannot be read."""
    path = root / PARAMS_FILE
    present = read_yaml(path)
    before = path.read_text(encoding="utf-8")
    committed = committed_params(root)
    recipe, base = None, before
    if kind_of(present) != kind:
        recipe = KINDS[kind].own_recipe
        base = (root / "recipes" / f"{recipe}.yaml").read_text(encoding="utf-8")
    tree = round_trip().load(base)
    for key, value in values.items():
        put(tree, key, value)
    stream = io.StringIO()
    round_trip().dump(tree, stream)
    after = stream.getvalue()
    edited = []
    remembered = memory(root).get("values", {})
    recipes = [path.read_text(encoding="utf-8") for path in (root / "recipes").glob("*.yaml")]
    if before in recipes:
        # As 'make use' leaves it: whatever is overwritten stands there still.
        pass
    elif recipe and committed is not None:
        known = {committed.strip(), str(memory(root).get("text")).strip()}
        edited = [] if before.strip() in known else [str(PARAMS_FILE)]
    elif committed is not None:
        old = round_trip().load(committed)
        for key, value in values.items():
            now = plain(get(present, key))
            written = key in remembered and now == remembered[key]
            if now not in (plain(value), plain(get(old, key))) and not written:
                edited.append(key)
    return Plan(before, after, edited, recipe, {key: plain(value) for key, value in values.items()})


def write(root: Path, what: Plan) -> None:
    """Write params.yaml, whole or not at all, and remember it."""
    path = root / PARAMS_FILE
    scratch = path.with_name(".params.yaml.partial")
    scratch.write_text(what.after, encoding="utf-8")
    scratch.replace(path)
    (shared_folder(root) / MEMORY).write_text(json.dumps({"values": what.values, "text": what.after}), encoding="utf-8")


def memory(root: Path) -> dict[str, Any]:
    """What was written last."""
    try:
        return json.loads((shared_folder(root) / MEMORY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def committed_params(root: Path) -> str | None:
    """The last commit's params.yaml; None where there is none."""
    try:
        return command("git", "show", f"HEAD:{PARAMS_FILE}", cwd=root) + "\n"
    except CommandError:
        return None


def round_trip() -> YAML:
    """A reader and writer that keeps comments, quotes and layout."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 128
    yaml.representer.add_representer(type(None), lambda writer, _: writer.represent_scalar("tag:yaml.org,2002:null", "null"))
    return yaml


def get(tree: Any, key: str) -> Any:
    """The value at a dotted key; None where there is none."""
    for step in key.split("."):
        tree = tree.get(step) if isinstance(tree, dict) else None
    return tree


def put(tree: Any, key: str, value: Any) -> None:
    """Set a dotted key; a comment behind another value is taken away, because it is about that one."""
    *path, last = key.split(".")
    for step in path:
        tree = tree.setdefault(step, CommentedMap())
        if not isinstance(tree, dict):
            raise ParamsError(f"{PARAMS_FILE}: '{step}' is {type(tree).__name__}, expected a block")
    if plain(tree.get(last)) == plain(value):
        return
    if isinstance(value, dict):
        # Its own keys one by one, so that the block keeps its place and the comments around it.
        block = tree.setdefault(last, CommentedMap())
        for name in [name for name in block if name not in value]:
            del block[name]
        for name, inner in value.items():
            if name not in block or plain(block[name]) != plain(inner):
                block[name] = in_one_line(inner)
                drop_comment(block, name)
        return
    tree[last] = value
    drop_comment(tree, last)


def drop_comment(tree: Any, key: str) -> None:
    """Take away the comment behind a value, and leave the blank lines and comments that follow it."""
    token = (tree.ca.items.get(key) or [None] * 3)[2]
    if token is not None:
        _, newline, rest = token.value.partition("\n")
        token.value = newline + rest


def in_one_line(value: Any) -> Any:
    """Mappings and lists as they are written in braces."""
    if isinstance(value, dict):
        block = CommentedMap({name: in_one_line(inner) for name, inner in value.items()})
        block.fa.set_flow_style()
        return block
    if isinstance(value, list):
        items = CommentedSeq([in_one_line(inner) for inner in value])
        items.fa.set_flow_style()
        return items
    return value


def plain(value: Any) -> Any:
    """The value without what the reader knows of its layout."""
    return None if value is None else json.loads(json.dumps(value))
