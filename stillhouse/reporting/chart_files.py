"""The report's charts as pictures that stand alone: with title and legend, on a ground of their own whatever is around them.

They lie in `charts` beside the page, each an SVG file, with `charts.json`, which lists them in the order of the page.
"""

import html
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from stillhouse.core.artifacts import CHART_LIST, write_json

MARGIN = 20.0
TITLE_SIZE, LINE = 15, 20.0
# Of a bold letter, on the average, as a share of the size.
LETTER = 0.56
LEGEND_SIZE = 13
# Charts are drawn for half a page.
SCALE = 1.5


@dataclass(frozen=True)
class ChartFile:
    """One chart."""

    key: str
    """Of lower-case letters, digits and dashes: the same chart of another run has the same key."""
    title: str
    drawing: str
    """The picture, an SVG."""


def write_charts(page: str, folder: Path) -> None:
    """Write the charts of a page into `folder`, which is made."""
    folder.mkdir(exist_ok=True)
    found = charts_of(page)
    for chart in found:
        (folder / f"{chart.key}.svg").write_text(chart.drawing, encoding="utf-8")
    listed = [{"key": chart.key, "title": chart.title, "file": f"{chart.key}.svg"} for chart in found]
    write_json(folder / CHART_LIST, listed)


def charts_of(page: str) -> list[ChartFile]:
    """The charts of a report, in its order."""
    style = "".join(re.findall(r"<style>(.*?)</style>", page, flags=re.S))
    signs = legend_signs(page)
    found: list[ChartFile] = []
    for opening, body in re.findall(r"<svg([^>]*)>(.*?)</svg>", page, flags=re.S):
        title = re.search(r'aria-label="([^"]*)"', opening)
        box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', opening)
        if title and box:
            words = html.unescape(title[1])
            key = free(slug(words), [chart.key for chart in found])
            found.append(ChartFile(key, words, picture(words, body, float(box[1]), float(box[2]), style, signs)))
    return found


def legend_signs(page: str) -> dict[str, tuple[str, str]]:
    """Model to its sign, as in the page's tables, and its name."""
    form = r'<svg class="key"[^>]*>\s*(<g class="(\w+)">.*?</g>)\s*</svg>\s*([^<]+)<'
    return {model: (sign, name.strip()) for sign, model, name in re.findall(form, page, flags=re.S)}


def slug(title: str) -> str:
    """The title as a key, without what stands in brackets."""
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\(.*?\)", "", title).lower()).strip("-") or "plot"


def free(key: str, taken: list[str]) -> str:
    """`key`, or with a number behind it where that is taken."""
    numbers = [key, *(f"{key}-{number}" for number in range(2, len(taken) + 2))]
    return next(each for each in numbers if each not in taken)


def picture(title: str, body: str, width: float, height: float, style: str, signs: dict[str, tuple[str, str]]) -> str:
    """A chart with title and legend on a white ground."""
    lines = textwrap.wrap(title, max(10, int(width / (TITLE_SIZE * LETTER))))
    parts, y = [], MARGIN
    for line in lines:
        y += LINE
        parts.append(f'<text class="heading" x="{MARGIN}" y="{y - 5:.1f}">{html.escape(line)}</text>')
    models = [model for model in signs if re.search(rf'<g class="{model}">', body)]
    x, row = MARGIN, y + LINE
    for model in models:
        sign, name = signs[model]
        room = 20 + len(html.unescape(name)) * LEGEND_SIZE * LETTER + 18
        if x > MARGIN and x + room > width + MARGIN:
            x, row = MARGIN, row + LINE
        parts.append(
            f'<g transform="translate({x:.1f} {row - 11:.1f})">{sign}</g>'
            f'<g class="{model}"><text class="entry" x="{x + 20:.1f}" y="{row:.1f}">{name}</text></g>'
        )
        x += room
    y = (row if models else y) + 14
    place = f'x="{MARGIN}" y="{y:.1f}" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    parts.append(f'<svg class="chart" {place}>{body}</svg>')
    w, h = width + 2 * MARGIN, y + height + MARGIN
    own = (
        "svg { font-family: system-ui, 'Segoe UI', Roboto, 'Noto Sans', sans-serif; }"
        f" svg .heading {{ font-size: {TITLE_SIZE}px; font-weight: 650; }}"
        f" svg .entry {{ font-size: {LEGEND_SIZE}px; font-weight: 600; fill: var(--ink); }}"
    )
    size = f'width="{SCALE * w:.0f}" height="{SCALE * h:.0f}" viewBox="0 0 {w:.1f} {h:.1f}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>'
        f"<style>{style}{own}</style>"
        f'<rect x="0" y="0" width="{w:.1f}" height="{h:.1f}" rx="8" fill="#fff"/>{"".join(parts)}</svg>'
    )
