"""Charts of the report as inline SVG.

Written by hand rather than with a plotting library: the page's style sheet then colours a model the same way in tables
and in charts, text stays text in any script, and a chart costs two kilobytes instead of fifty. Coordinates are those of
a page 460 wide, about a phone's width, so that text stays legible when a browser scales the chart down.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from markupsafe import Markup

WIDTH = 460
LABEL_LENGTH = 22


@dataclass(frozen=True)
class Interval:
    """A model's score with its interval, where one was measured."""

    model: str
    name: str
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Curve:
    """One model's line in a chart of learning curves."""

    model: str
    name: str
    points: list[tuple[float, float]]
    """Step and value."""
    kept_step: float | None = None
    """The step whose weights were kept; marked by a dot."""


@dataclass(frozen=True)
class ClassScores:
    """F1 of one class by each model that has one."""

    label: str
    test_rows: int
    f1: dict[str, float]


def percent_tick(value: float) -> str:
    return f"{round(100 * value, 6):g} %"


def plain_tick(value: float) -> str:
    return f"{round(value, 6):g}"


def interval_chart(
    rows: list[Interval],
    label: str,
    tick: Callable[[float], str] = percent_tick,
    value: Callable[[float], str] = lambda share: f"{100 * share:.1f} %",
    most: float = 1.0,
) -> Markup:
    """A dot with a whisker for each model. The axis starts where the figures do: dots, unlike bars, may be cut.

    label: what a screen reader says. tick, value: how marks of the axis and figures are written. most: the axis' largest end.
    """
    lows = [row.value if row.low is None else row.low for row in rows]
    highs = [row.value if row.high is None else row.high for row in rows]
    marks = ticks(max(0.0, min(lows) - 0.01), min(most, max(highs) + 0.01))
    left, right, row_height = 118, WIDTH - 62, 34
    bottom = 8 + row_height * len(rows)
    x = scale(marks[0], marks[-1], left, right)
    parts = [line(x(mark), 4, x(mark), bottom, "grid") for mark in marks]
    parts += [text(x(mark), bottom + 16, tick(mark), "tick", "middle") for mark in marks]
    for number, row in enumerate(rows):
        y = 8 + row_height * (number + 0.5)
        shapes = [text(left - 12, y + 4, row.name, "name", "end")]
        if row.low is not None and row.high is not None:
            shapes.append(line(x(row.low), y, x(row.high), y, "whisker"))
            shapes += [line(x(end), y - 5, x(end), y + 5, "whisker") for end in (row.low, row.high)]
        shapes.append(marker(row.model, x(row.value), y, 5))
        shapes.append(text(right + 12, y + 4, value(row.value), "value"))
        parts.append(group(row.model, shapes))
    return drawing(bottom + 24, label, parts)


def line_chart(curves: list[Curve], tick: Callable[[float], str], label: str) -> Markup | None:
    """Lines over the share of each training that is done, named at their ends; None where no curve has a point.

    Trainings differ in length, and on one axis of steps the short ones would be a smear at the left.
    """
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return None
    values = [value for curve in curves for _, value in curve.points]
    marks = ticks(min(values), max(values))
    left, right, top, bottom = 48, WIDTH - 92, 10, 196
    x, y = scale(0, 1, left, right), scale(marks[0], marks[-1], bottom, top)
    parts = [line(left, y(mark), right, y(mark), "grid") for mark in marks]
    parts += [text(left - 8, y(mark) + 4, tick(mark), "tick", "end") for mark in marks]
    parts += [text(x(share), bottom + 18, percent_tick(share), "tick", "middle") for share in (0, 0.25, 0.5, 0.75, 1)]
    ends = spread([y(curve.points[-1][1]) for curve in curves], 15, top + 4, bottom)
    for curve, end in zip(curves, ends, strict=True):
        last = curve.points[-1][0]
        places = [(x(step / last), y(value)) for step, value in curve.points]
        shapes = [tag("polyline", {"class": "line", "points": " ".join(f"{px:.1f},{py:.1f}" for px, py in places)})]
        # A single point is not a line, and would not be seen.
        if len(places) == 1:
            shapes.append(marker(curve.model, *places[0], 3.5))
        kept = [(x(step / last), y(value)) for step, value in curve.points if step == curve.kept_step]
        shapes += [marker(curve.model, px, py, 4.5) for px, py in kept]
        shapes.append(text(right + 10, end + 4, curve.name, "name"))
        parts.append(group(curve.model, shapes))
    return drawing(bottom + 26, label, parts)


def reliability_chart(model: str, points: list[tuple[float, float, float]], task: str) -> Markup:
    """Accuracy over confidence, one dot for each bin; `points` are confidence, accuracy, share of rows."""
    size, left, top = 270, 44, 12
    right, bottom = size - 18, size - 46
    x, y = scale(0, 1, left, right), scale(0, 1, bottom, top)
    parts = []
    for mark in (0, 0.5, 1):
        parts += [line(left, y(mark), right, y(mark), "grid"), text(left - 6, y(mark) + 4, percent_tick(mark), "tick", "end")]
        parts += [line(x(mark), top, x(mark), bottom, "grid"), text(x(mark), bottom + 16, percent_tick(mark), "tick", "middle")]
    parts.append(line(x(0), y(0), x(1), y(1), "diagonal"))
    places = [(x(confidence), y(accuracy)) for confidence, accuracy, _ in points]
    shapes = [tag("polyline", {"class": "thin line", "points": " ".join(f"{px:.1f},{py:.1f}" for px, py in places)})]
    # The area of a dot is its share of the rows; the smallest are still to be seen.
    shapes += [
        tag("circle", {"class": "dot", "cx": px, "cy": py, "r": max(2.0, 15 * math.sqrt(share))})
        for (px, py), (_, _, share) in zip(places, points, strict=True)
    ]
    parts += [group(model, shapes), text((left + right) / 2, size - 6, "confidence of the model", "tick", "middle")]
    return drawing(size, f"Calibration: {model}, {task} task (accuracy over confidence)", parts, width=size)


def f1_chart(rows: list[ClassScores], task: str, row: str = "text") -> Markup:
    """One line for each class, one mark for each model's F1."""
    # Names of classes are codes of two letters in one data set and short sentences in another.
    letters = min(LABEL_LENGTH, max(len(row.label) for row in rows))
    left, right, row_height = 56 + 7 * letters, WIDTH - 14, 21
    bottom = 6 + row_height * len(rows)
    x = scale(0, 1, left, right)
    parts = [line(x(mark), 4, x(mark), bottom, "grid") for mark in (0, 0.25, 0.5, 0.75, 1)]
    parts += [text(x(mark), bottom + 16, plain_tick(mark), "tick", "middle") for mark in (0, 0.25, 0.5, 0.75, 1)]
    for number, each in enumerate(rows):
        y = 6 + row_height * (number + 0.5)
        parts.append(text(left - 44, y + 4, shorten(each.label), "label", "end", title=each.label))
        parts.append(text(left - 12, y + 4, f"{each.test_rows}", "tick", "end"))
        parts.append(line(x(min(each.f1.values())), y, x(max(each.f1.values())), y, "link"))
        # The student is drawn last, so that no other mark hides it.
        models = sorted(each.f1, key=lambda model: model == "student")
        parts += [group(model, [marker(model, x(each.f1[model]), y, 4.5)]) for model in models]
    return drawing(bottom + 24, f"F1 of the hardest classes, {task} task (beside the number of test {row}s)", parts)


def balance_chart(counts: list[tuple[str, int]], label: str) -> Markup:
    """Rows of each class as bars, largest first: every bar is named where there is room, else the first and the last."""
    counts = sorted(counts, key=lambda entry: (-entry[1], entry[0]))
    marks = ticks(0, max(1, *(rows for _, rows in counts)))
    left, right, top, bottom = 48, WIDTH - 4, 20, 150
    y = scale(0, marks[-1], bottom, top)
    parts = [line(left, y(mark), right, y(mark), "grid") for mark in marks]
    parts += [text(left - 8, y(mark) + 4, f"{mark:,.0f}", "tick", "end") for mark in marks if mark == round(mark)]
    room = (right - left) / len(counts)
    thick = min(40, room * 0.8)
    for number, (name, rows) in enumerate(counts):
        bar = {"class": "bar", "x": left + room * (number + 0.5) - thick / 2, "y": y(rows), "width": thick}
        hint = tag("title", {}, f"{name}: {rows:,}")
        parts.append(tag("rect", bar | {"height": bottom - y(rows)}, hint))
        if room >= 54:
            parts.append(text(left + room * (number + 0.5), bottom + 16, shorten(name, int(room / 7)), "tick", "middle"))
            parts.append(text(left + room * (number + 0.5), y(rows) - 5, f"{rows:,}", "value", "middle"))
    if room < 54:
        (largest, most), (smallest, least) = counts[0], counts[-1]
        parts.append(text(left, bottom + 16, f"{shorten(largest)} {most:,}", "value"))
        parts.append(text(right, bottom + 16, f"{shorten(smallest)} {least:,}", "value", "end"))
    return drawing(bottom + 24, label, parts)


def key(model: str) -> Markup:
    """The sign of a model, for legends and tables."""
    shape = group(model, [marker(model, 7, 7, 5)])
    return tag("svg", {"class": "key", "viewBox": "0 0 14 14", "aria-hidden": "true"}, shape)


def ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """At least two round numbers at equal distances, the first at or below `low`, the last at or above `high`."""
    span = high - low or max(abs(high), 1.0)
    power = 10.0 ** math.floor(math.log10(span / wanted))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= span / wanted * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """The straight line that takes `low` to `start` and `high` to `end`."""
    return lambda value: start + (value - low) / (high - low) * (end - start)


def spread(wanted: list[float], gap: float, top: float, bottom: float) -> list[float]:
    """Heights near those `wanted`, in the same order and `gap` apart, so that names do not cover each other."""
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    placed = [0.0] * len(wanted)
    limit = top
    for place in order:
        placed[place] = max(wanted[place], limit)
        limit = placed[place] + gap
    limit = bottom
    for place in reversed(order):
        placed[place] = min(placed[place], limit)
        limit = placed[place] - gap
    return placed


def shorten(label: str, length: int = LABEL_LENGTH) -> str:
    return label if len(label) <= length else label[: length - 1] + "…"


def breakable(label: str) -> Markup:
    """A label that may go on in the next line after each underscore; a browser would keep it in one piece."""
    return Markup("_<wbr>").join(label.split("_"))


# What a page must not hold raw: control characters get their own pictures (U+2400 and following), and what turns the
# direction of the text around it a name.
PICTURES = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n"} | {127: "\u2421"}
PICTURES |= {code: f"⟨U+{code:04X}⟩" for code in (*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))}


def visible(words: str) -> str:
    """A text of the data with every control character to be seen; tabs and line ends stay what they are."""
    return words.translate(PICTURES)


def marker(model: str, x: float, y: float, radius: float) -> Markup:
    """Colour alone does not tell models apart for everyone, nor in a grey print: shapes differ too."""
    match model:
        case "baseline" | "scratch":
            side = radius * 1.7
            return tag("rect", {"class": "dot", "x": x - side / 2, "y": y - side / 2, "width": side, "height": side})
        case "linear" | "ngram":
            r = radius * 1.25
            outline = f"M{x:.1f} {y - r:.1f}l{r:.1f} {r:.1f}l{-r:.1f} {r:.1f}l{-r:.1f} {-r:.1f}z"
            return tag("path", {"class": "dot", "d": outline})
        case "teacher":
            r = radius * 1.2
            return tag("path", {"class": "dot", "d": f"M{x:.1f} {y - r:.1f}l{r:.1f} {2 * r:.1f}h{-2 * r:.1f}z"})
        case _:
            return tag("circle", {"class": "dot", "cx": x, "cy": y, "r": radius})


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    return tag("line", {"class": style, "x1": x1, "y1": y1, "x2": x2, "y2": y2})


def text(x: float, y: float, content: str, style: str, anchor: str = "start", title: str | None = None) -> Markup:
    hint = [] if title is None else [tag("title", {}, title)]
    return tag("text", {"class": style, "x": x, "y": y, "text-anchor": anchor}, *hint, content)


def group(model: str, shapes: list[Markup]) -> Markup:
    """Shapes in the colour of `model`, which the style sheet knows."""
    return tag("g", {"class": model}, *shapes)


def drawing(height: float, label: str, parts: Iterable[Markup], width: float = WIDTH) -> Markup:
    return tag("svg", {"class": "chart", "viewBox": f"0 0 {width} {height}", "role": "img", "aria-label": label}, *parts)


def tag(name: str, attributes: dict[str, str | float], *children: str) -> Markup:
    """One element; text and attributes are escaped, coordinates get one decimal."""
    written = {name: value if isinstance(value, str) else f"{value:.1f}" for name, value in attributes.items()}
    opening = Markup("").join(Markup(' {}="{}"').format(name, value) for name, value in written.items())
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), opening, Markup("").join(children))
