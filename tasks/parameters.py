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
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from stillhouse.core.options import Options
from stillhouse.core.params import FLOW_BLOCKS, ROOMS, SHARED_BLOCKS, STAGES, TAGS, KindName, of_kind
from stillhouse.gate.decision import GateParams
from stillhouse.kinds.protocol import Kind
from stillhouse.kinds.registry import KINDS

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Block: TypeAlias = "type[DataclassInstance]"

PAGE = Path("docs") / "parameters.md"
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
    """A block: its keys, and where it stands. Kinds may each have a variant of it, with more or other keys."""

    title: str
    variants: dict[Block, list[str]] = field(default_factory=dict)
    """Class to the kinds that have it."""
    places: list[str] = field(default_factory=list)
    """Dotted keys in `params.yaml`; a block may serve in several places."""

    @property
    def kinds(self) -> list[str]:
        return [kind for kind in KINDS if any(kind in kinds for kinds in self.variants.values())]


def page() -> str:
    """The whole page. Blocks that several stages share are told once, and linked to."""
    sections: dict[Block, Section] = {}
    values: dict[str, Row] = {}
    for kind in KINDS.values():
        for name, declared in top_level(kind):
            blocks = blocks_in(declared)
            for block in blocks:
                add(sections, block, name, kind.name, among_several=len(blocks) > 1)
            if not blocks:
                values[name] = Row(f"`{name}`", type_words(declared, {}), "", "", SHARED_MEANINGS[name])
            if name == "kind":
                # No stage reads it, so no stage declares it.
                values[ROOMS] = Row(f"`{ROOMS}`", "`modality` and `target`", "", "", SHARED_MEANINGS[ROOMS])
    lines = [HEAD, "## Shared by all stages", "", *table(list(values.values()))]
    order = [name for name, _ in top_level(next(iter(KINDS.values())))]
    inside = sorted(sections.values(), key=lambda section: order.index(section.places[0].partition(".")[0]))
    anchors = {block: anchor(section.title) for section in inside for block in section.variants}
    for section in inside:
        lines += ["", f"## {section.title}", "", *described(next(iter(section.variants)))]
        if len(section.kinds) < len(KINDS):
            lines += [f"Of kind {', '.join(f'`{kind}`' for kind in section.kinds)} alone.", ""]
        if section.places[1:]:
            lines += ["Stands in " + ", ".join(f"`{place}`" for place in section.places) + ".", ""]
        rows = rows_of(section, anchors)
        lines += table(rows) if rows else ["It has no keys: `{}`."]
    return "\n".join(lines) + "\n"


def rows_of(section: Section, anchors: dict[Block, str]) -> list[Row]:
    """The keys of all variants; one that kinds have otherwise stands once for each."""
    found: dict[Row, list[str]] = {}
    for block, kinds in section.variants.items():
        for entry in fields(block):
            found.setdefault(row_of(block, entry, anchors), []).extend(kinds)
    rows = []
    for row, kinds in found.items():
        ordered = [kind for kind in KINDS if kind in kinds]
        rows.append(replace(row, kinds="" if ordered == section.kinds else ", ".join(f"`{kind}`" for kind in ordered)))
    keys = list(dict.fromkeys(row.key for row in rows))
    return sorted(rows, key=lambda row: keys.index(row.key))


SHARED_MEANINGS = {
    "kind": "What the models are: classifiers of texts or images, multi-label classifiers of texts, or causal language models.",
    ROOMS: "Which of the library's folders `dvc.yaml` names: follows from the kind, and `python -m tasks.check` says how.",
    "seed": "Seed of weights, the order of the rows, dropout and draws; the same seed gives the same bytes.",
    "threads": "CPU threads of a host, shared by its ranks. Another number rounds differently, so it is part of the result.",
}
"""The parameters that are not blocks have no field of their own to be described under."""


def top_level(kind: Kind) -> Iterator[tuple[str, Any]]:
    """Name and declared type of every block of a kind, in the order of `params.yaml`."""
    declared: dict[str, Any] = {}
    for params in (*(importlib.import_module(f"tasks.{stage}").Params for stage in STAGES), GateParams):
        declared |= get_type_hints(of_kind(params, kind), include_extras=True)
    for name in (*SHARED_BLOCKS, *STAGES, *FLOW_BLOCKS):
        yield name, declared[name]


def family(block: Block) -> Block:
    """The block that a kind's variant was made from, or the block itself."""
    return [base for base in block.__mro__ if is_dataclass(base)][-1]


def add(sections: dict[Block, Section], block: Block, place: str, kind: str, among_several: bool) -> None:
    """Take in a block that stands at `place`, alone or as one of several forms, and the blocks inside it."""
    section = sections.setdefault(family(block), Section(title_of(block, place, among_several)))
    kinds = section.variants.setdefault(block, [])
    if kind not in kinds:
        kinds.append(kind)
    if place not in section.places:
        section.places.append(place)
    hints = get_type_hints(block, include_extras=True)
    for entry in fields(block):
        inside = blocks_in(hints[entry.name])
        for inner in inside:
            add(sections, inner, f"{place}.{entry.name}", kind, among_several=len(inside) > 1)


def title_of(block: type, place: str, among_several: bool) -> str:
    """The key at which a block stands, without the stage where several have it; the `kind` or name of one form of several."""
    name = place.rpartition(".")[2]
    for tag in TAGS if among_several else ():
        if variant := get_args(get_type_hints(block).get(tag)):
            return f"`{name}` of {tag} " + ", ".join(f"`{each}`" for each in variant)
    return f"`{name}`"


def blocks_in(declared: Any) -> list[Block]:
    """The blocks among the members of a type."""
    if isinstance(declared, type) and is_dataclass(declared):
        return [declared]
    if get_origin(declared) is Annotated:
        return blocks_in(get_args(declared)[0])
    if get_origin(declared) is Literal:
        return []
    return [block for member in get_args(declared) for block in blocks_in(member)]


def row_of(block: Block, entry: Field, anchors: dict[Block, str]) -> Row:
    declared = get_type_hints(block, include_extras=True)[entry.name]
    meaning = next((found[entry.name] for base in block.__mro__ if entry.name in (found := meanings(base))), "")
    # The name of an option stays as it is written.
    if meaning.partition(" ")[0].isalpha():
        meaning = meaning[:1].upper() + meaning[1:]
    return Row(f"`{entry.name}`", type_words(declared, anchors), default_words(entry), "", meaning)


def meanings(block: type) -> dict[str, str]:
    """Field to the string that stands under it."""
    if not is_dataclass(block):
        return {}
    tree = ast.parse(textwrap.dedent(inspect.getsource(block)))
    statements = tree.body[0]
    assert isinstance(statements, ast.ClassDef)
    found = {}
    for statement, following in pairwise(statements.body):
        if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
            continue
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            found[statement.target.id] = " ".join(str(following.value.value).split())
    return found


def described(block: type) -> list[str]:
    """What the block says of itself; a docstring that `dataclass` made says nothing."""
    words = inspect.getdoc(block) or ""
    return [] if words.startswith(f"{block.__name__}(") else [" ".join(words.split()), ""]


def type_words(declared: Any, anchors: dict[Block, str]) -> str:
    """A type in the words of somebody who writes YAML."""
    if isinstance(declared, type) and is_dataclass(declared):
        return f"[block]({anchors[declared]})" if declared in anchors else "block"
    origin, members = get_origin(declared), get_args(declared)
    if declared == KindName:
        return ", ".join(f"`{kind}`" for kind in KINDS)
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
        case int():
            return str(entry.default)
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
