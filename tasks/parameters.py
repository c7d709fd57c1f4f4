"""Writes `docs/parameters.md`: every parameter of `params.yaml` with type, default and meaning, from the blocks themselves.

What a parameter means stands under its field, as a string; a test holds the page against that, so neither can go stale.

    python -m tasks.parameters            # prints the page
    python -m tasks.parameters --write    # writes docs/parameters.md
"""

import ast
import importlib
import inspect
import textwrap
import types
from collections.abc import Iterator
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from stillhouse.core.options import Options
from stillhouse.core.params import FLOW_BLOCKS, SHARED_BLOCKS, STAGES
from stillhouse.evaluation.gate import Params as GateParams

PAGE = Path("docs") / "parameters.md"
KINDS = {"Classification: ": "`text_classification`", "Causal language models: ": "`causal_lm`"}
"""How the description of a parameter begins that only one kind of model has, and how the page says so."""
NAMES = {int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "null"}

HEAD = """# Parameters

Every key of `params.yaml`, written by `make docs` from the code that reads it. `python -m tasks.check` checks the file without
running anything: an unknown key, a wrong type or a value out of range is one line that names the key.

*Kinds*: which kind of model (`kind:`) a key is for; nothing there means all of them. A key without a default has to be given.
"""


@dataclass(frozen=True)
class Row:
    """One key of a block."""

    key: str
    type: str
    default: str
    kinds: str
    meaning: str


@dataclass
class Section:
    """One block: its keys, and where it stands."""

    block: type
    title: str
    rows: list[Row]
    places: list[str] = field(default_factory=list)
    """Dotted keys in `params.yaml`; a block may serve in several places."""


def page() -> str:
    """The whole page. Blocks that several stages share are told once, and linked to."""
    sections: dict[type, Section] = {}
    values: list[Row] = []
    for name, declared in top_level():
        blocks = blocks_in(declared)
        if blocks:
            for block in blocks:
                add(sections, block, name)
        else:
            values.append(Row(f"`{name}`", type_words(declared, {}), "", "", SHARED_MEANINGS[name]))
    lines = [HEAD, "## Shared by all stages", "", *table(values)]
    anchors = {block: anchor(section.title) for block, section in sections.items()}
    for section in sections.values():
        lines += ["", f"## {section.title}", "", *described(section.block)]
        if section.places[1:]:
            lines += ["Stands in " + ", ".join(f"`{place}`" for place in section.places) + ".", ""]
        lines += table([row_of(section.block, entry, anchors) for entry in fields(section.block)])  # type: ignore[arg-type]
    return "\n".join(lines) + "\n"


SHARED_MEANINGS = {
    "kind": "What the models are: classifiers of texts, or causal language models.",
    "seed": "Seed of weights, the order of the rows, dropout and draws; the same seed gives the same bytes.",
    "threads": "CPU threads of a host, shared by its ranks. Another number rounds differently, so it is part of the result.",
}
"""The parameters that are no blocks have no field of their own to be described under."""


def top_level() -> Iterator[tuple[str, Any]]:
    """Name and declared type of every block, in the order of `params.yaml`."""
    declared: dict[str, Any] = {}
    for stage in STAGES:
        declared |= get_type_hints(importlib.import_module(f"tasks.{stage}").Params, include_extras=True)
    declared |= get_type_hints(GateParams, include_extras=True)
    for name in (*SHARED_BLOCKS, *STAGES, *FLOW_BLOCKS):
        yield name, declared[name]


def add(sections: dict[type, Section], block: type, place: str) -> None:
    """Take in a block that stands at `place`, and the blocks inside it."""
    if block in sections:
        if place not in sections[block].places:
            sections[block].places.append(place)
    else:
        sections[block] = Section(block, title_of(block, place), [], [place])
    hints = get_type_hints(block, include_extras=True)
    for entry in fields(block):  # type: ignore[arg-type]
        for inner in blocks_in(hints[entry.name]):
            add(sections, inner, f"{place}.{entry.name}")


def title_of(block: type, place: str) -> str:
    """The key at which a block stands, without the stage where several have it; the `kind` or form of a variant."""
    name = place.rpartition(".")[2] if "." in place else place
    variant = get_args(get_type_hints(block).get("kind"))
    return f"`{name}`" + (f" of kind `{variant[0]}`" if variant else "")


def blocks_in(declared: Any) -> list[type]:
    """The blocks among the members of a type."""
    if isinstance(declared, type) and is_dataclass(declared):
        return [declared]
    if get_origin(declared) is Annotated:
        return blocks_in(get_args(declared)[0])
    if get_origin(declared) is Literal:
        return []
    return [block for member in get_args(declared) for block in blocks_in(member)]


def row_of(block: type, entry: Field, anchors: dict[type, str]) -> Row:
    declared = get_type_hints(block, include_extras=True)[entry.name]
    meaning = meanings(block).get(entry.name, "")
    kinds = ""
    for opening, kind in KINDS.items():
        if meaning.startswith(opening):
            meaning, kinds = meaning.removeprefix(opening), kind
    # The name of an option stays as it is written.
    if meaning.partition(" ")[0].isalpha():
        meaning = meaning[:1].upper() + meaning[1:]
    return Row(f"`{entry.name}`", type_words(declared, anchors), default_words(entry), kinds, meaning)


def meanings(block: type) -> dict[str, str]:
    """Field to the string that stands under it."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(block)))
    body = tree.body[0].body  # type: ignore[attr-defined]
    found = {}
    for statement, following in pairwise(body):
        described = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and described:
            found[statement.target.id] = " ".join(str(following.value.value).split())  # type: ignore[union-attr]
    return found


def described(block: type) -> list[str]:
    """What the block says of itself; a docstring that `dataclass` made says nothing."""
    words = inspect.getdoc(block) or ""
    return [] if words.startswith(f"{block.__name__}(") else [" ".join(words.split()), ""]


def type_words(declared: Any, anchors: dict[type, str]) -> str:
    """A type in the words of somebody who writes YAML."""
    if isinstance(declared, type) and is_dataclass(declared):
        return f"[block]({anchors[declared]})" if declared in anchors else "block"
    origin, members = get_origin(declared), get_args(declared)
    if origin is Annotated:
        return type_words(members[0], anchors)
    if origin is Literal:
        return ", ".join(f"`{member}`" for member in members)
    if origin in (Union, types.UnionType):
        words = [type_words(member, anchors) for member in members]
        return " or ".join(dict.fromkeys(words))
    if origin is list:
        return f"list of {type_words(members[0], anchors)}"
    if origin is dict:
        return "mapping"
    return NAMES.get(declared, getattr(declared, "__name__", str(declared)))


def default_words(entry: Field) -> str:
    """The default as YAML writes it; nothing for a key that has to be given."""
    if entry.default_factory is not MISSING:
        return f"`{entry.default_factory()}`"
    if entry.default is MISSING:
        return ""
    if is_dataclass(entry.default) and not isinstance(entry.default, type):
        return "its own defaults" if all_default(entry.default) else f"`{asdict(entry.default)}`"
    match entry.default:
        case None:
            return "null"
        case bool():
            return str(entry.default).lower()
        case str():
            return f"`{entry.default}`"
        case _:
            return f"{entry.default:g}"


def all_default(block: Any) -> bool:
    return all(getattr(block, entry.name) == entry.default for entry in fields(block))


def anchor(title: str) -> str:
    """The fragment that a heading gets where Markdown is shown."""
    kept = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -_")
    return "#" + kept.replace(" ", "-")


def table(rows: list[Row]) -> list[str]:
    lines = ["| Key | Type | Default | Kinds | Meaning |", "|---|---|---|---|---|"]
    for row in rows:
        cells = (row.key, row.type, row.default, row.kinds, row.meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


def main() -> None:
    parser = Options("tasks.parameters", "Describe every parameter of params.yaml.")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE} instead of printing it")
    if parser.parse_args().write:
        PAGE.write_text(page(), encoding="utf-8")
        print(f"{PAGE} is written")
    else:
        print(page(), end="")


if __name__ == "__main__":
    main()
