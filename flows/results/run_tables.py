"""Tables of runs: for the terminal, for Prefect, for programs, and as a page, `reports/runs.html`."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from flows.results.history import DEFAULT, in_words, value
from flows.results.rows import RunRow
from stillhouse.comparison.figures import EMPTY, interval, known
from stillhouse.comparison.kinds import comparison_of
from stillhouse.kinds.protocol import Kind
from stillhouse.kinds.registry import KINDS

PAGE = Path("reports") / "runs.html"
LEAST_CHANGED = 26
CHANGED_SHARE = 0.38
"""Such a part of the terminal the column 'changed' must have; others are left out before it has less."""


# ---- what stands in a cell ----


def changed(row: RunRow) -> list[str]:
    """What was changed, in words, one for each parameter."""
    parts = [] if row.recipe == DEFAULT else [f"recipe {row.recipe}"]
    parts += map(in_words, row.changes)
    if row.files:
        more = f" and {len(row.files) - 2} more" if len(row.files) > 2 else ""
        parts.append(f"files: {', '.join(row.files[:2])}{more}")
    return parts or [EMPTY]


def score(row: RunRow) -> str:
    return known(row.scores.get(comparison_of(row.kind).SCORE), ".4f")


def gain(row: RunRow) -> str:
    return EMPTY if row.gain is None else comparison_of(row.kind).gain(row.gain)


def size(row: RunRow) -> str:
    amount = row.scores.get("bytes")
    return EMPTY if amount is None else f"{amount / 1e6:.{2 if amount < 1e7 else 0}f} MB"


def duration(row: RunRow) -> str:
    if row.seconds is None:
        return EMPTY
    if row.seconds < 60:
        return f"{row.seconds:.0f} s"
    minutes = round(row.seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"


def when(row: RunRow) -> str:
    """The day, or of today the time; in this machine's zone."""
    local = row.when.astimezone()
    return f"{local:%H:%M}" if local.date() == datetime.now(UTC).astimezone().date() else f"{local:%Y-%m-%d}"


def columns(kind: str) -> dict[str, Callable[[RunRow], str]]:
    """Heading to the cell's text, without what was changed; figures are of the shipped model."""
    comparison = comparison_of(kind)
    return {
        "run": lambda row: row.name,
        "when": when,
        "state": lambda row: row.state,
        comparison.SCORE_HEADING: score,
        "95 %": lambda row: interval(row.scores, comparison.SCORE),
        comparison.GAIN_HEADING: gain,
        "size": size,
        "ms": lambda row: known(row.latency_ms, ".2f"),
        "time": duration,
        "promoted": lambda row: ", ".join(row.versions) or EMPTY,
    }


LEFT = ("run", "when", "state", "promoted", "changed")
# What goes first where a terminal is narrow.
DISPENSABLE = ("ms", "time", "size", "when", "95 %", "state", "promoted")


# ---- the terminal ----


def table_lines(rows: list[RunRow], width: int) -> list[str]:
    """A table for each kind of model that there is, at most `width` characters wide."""
    lines = []
    for kind, mine in by_kind(rows):
        lines += ["", kind.target.title, *one_table(mine, width)]
    return lines[1:]


def one_table(rows: list[RunRow], width: int) -> list[str]:
    shown = {name: [cell(row) for row in rows] for name, cell in columns(rows[0].kind).items()}
    # A column in which nothing stands tells nothing.
    shown = {name: cells for name, cells in shown.items() if name == "run" or any(text != EMPTY for text in cells)}
    widths = {name: max(map(len, [name, *cells])) for name, cells in shown.items()}
    widths["run"] = min(widths["run"], max(12, width // 4))
    # Never wider than what is to be said.
    least = max(LEAST_CHANGED, min(round(width * CHANGED_SHARE), max(len(part) for row in rows for part in changed(row))))
    for name in (*DISPENSABLE, comparison_of(rows[0].kind).GAIN_HEADING):
        if width - sum(widths.values()) - 2 * len(widths) < least:
            widths.pop(name, None)
    room = max(LEAST_CHANGED, width - sum(widths.values()) - 2 * len(widths))
    lines = [
        "  ".join(
            [f"{'run':<{widths['run']}}", f"{'changed':<{room}}", *(aligned(name, name, widths) for name in rest(widths))]
        )
    ]
    for number, row in enumerate(rows):
        names, whole = wrapped(row.name, widths["run"]), "; ".join(changed(row))
        words = [whole] if len(whole) <= room else [line for part in changed(row) for line in wrapped(part, room)]
        for line in range(max(len(names), len(words))):
            left = f"{at(names, line):<{widths['run']}}  {at(words, line):<{room}}"
            cells = [aligned(name, shown[name][number] if line == 0 else "", widths) for name in rest(widths)]
            lines.append("  ".join([left, *cells]).rstrip())
    return [line.rstrip() for line in lines]


def wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width` characters, broken at blanks and in names behind dots, dashes and underscores."""
    lines = [""]
    for word in text.split():
        # A value and its arrow stay whole where there is room.
        pieces = re.findall(r"[^.\-_]*[.\-_]+|[^.\-_]+", word) if len(word) > 12 else [word]
        for number, piece in enumerate(pieces):
            start = number == 0 and lines[-1] != ""
            if lines[-1] and len(lines[-1]) + len(piece) + start > width:
                lines.append("")
                start = False
            piece = f" {piece}" if start else piece
            while len(piece) > width:
                lines[-1:], piece = [piece[:width], ""], piece[width:]
            lines[-1] += piece
    return lines


def rest(widths: dict[str, int]) -> list[str]:
    return [name for name in widths if name != "run"]


def aligned(name: str, text: str, widths: dict[str, int]) -> str:
    return f"{text:<{widths[name]}}" if name in LEFT else f"{text:>{widths[name]}}"


def at(lines: list[str], number: int) -> str:
    return lines[number] if number < len(lines) else ""


# ---- other forms ----


def as_json(row: RunRow) -> dict[str, Any]:
    """All of a row as plain values."""
    changes = [{"parameter": name, "before": old, "after": new} for name, old, new in row.changes]
    return {**vars(row), "when": row.when.isoformat(), "changes": changes, "gain": row.gain}


def markdown(rows: list[RunRow], link: Callable[[str], str | None]) -> str:
    """The table for Prefect; `link` gives the address of a report."""
    lines = []
    for kind, mine in by_kind(rows):
        shown = columns(kind.name)
        # Prefect breaks no line of a table: what may be long stands last.
        lines += [f"## {kind.target.title}", "", f"| {' | '.join([*shown, 'changed'])} |", "|---" * (len(shown) + 1) + "|"]
        for row in mine:
            address = link(row.report) if row.report else None
            name = f"[{row.name}]({address})" if address else row.name
            cells = [name, *(cell(row) for cell in list(shown.values())[1:]), "; ".join(changed(row))]
            lines.append(f"| {' | '.join(text.replace('|', chr(92) + '|') for text in cells)} |")
        lines.append("")
    return "\n".join(lines)


def write_page(rows: list[RunRow], root: Path) -> Path:
    """Write `reports/runs.html`, one self-contained page; returns its place."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    groups = [(kind.target.title, columns(kind.name), mine) for kind, mine in by_kind(rows)]
    page = environment.get_template("runs.html.jinja").render(groups=groups, left=LEFT, name=root.name, value=value)
    path = root / PAGE
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".partial")
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(path)
    return path


def by_kind(rows: list[RunRow]) -> list[tuple[Kind, list[RunRow]]]:
    """The kinds of which there are runs, and their rows."""
    return [(kind, mine) for kind in KINDS.values() if (mine := [row for row in rows if row.kind == kind.name])]
