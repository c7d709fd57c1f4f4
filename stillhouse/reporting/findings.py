"""What the figures say in plain words: the first lines of the report.

The words follow the figures in every case. A difference between two models counts only if its paired 95 % interval leaves
out 0: their own intervals may well overlap, because both fail on the same hard texts. Speeds within 5 % are the same speed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from stillhouse.comparison.intervals import newcombe
from stillhouse.core.artifacts import DATA, read_json
from stillhouse.core.errors import ArtifactError
from stillhouse.core.shipped import TASK_WORDS, Shipped
from stillhouse.kinds.registry import KINDS, kind_of

Scores = dict[str, Any]
"""The figures of one model on one task, as in `evaluate/metrics.json`."""

NO_BREAK = "\u00a0"
SAME_SIZE_OR_SPEED = 1.05


@dataclass(frozen=True)
class Finding:
    """One thing to know, and whether it is good news."""

    tone: Literal["good", "even", "bad"]
    heading: str
    text: str


@dataclass(frozen=True)
class Facts:
    """What the findings are drawn from."""

    scores: dict[str, dict[str, Scores]]
    """Task to model to figures."""
    speed: Scores
    """`timing.json` of `evaluate`."""
    right: dict[str, dict[str, np.ndarray]]
    """Task to model to bool (test rows,): whether its answer is right."""
    statistics: dict[str, Scores]
    """Task to row counts."""
    steps: dict[str, int]
    """Training steps of `student` and `baseline`."""
    examples_per_class: int | None
    """Rows of each class in fine-tuning; None is all."""
    row: str = "text"
    """What a row is called."""


def read_facts(params: dict[str, Any]) -> Facts:
    """Raises ArtifactError if an output of an earlier stage is missing."""
    return Facts(
        scores=read_json(DATA / "evaluate" / "metrics.json"),
        speed=read_json(DATA / "evaluate" / "timing.json"),
        right={task: read_right(DATA / "evaluate" / "tables" / f"predictions_{task}.parquet") for task in Shipped.read().tasks},
        statistics=read_json(DATA / "preprocess" / "statistics.json"),
        steps={name: read_json(DATA / f"train_{name}" / "metrics.json")["steps"] for name in ("student", "baseline")},
        examples_per_class=params.get("finetune", {}).get("examples_per_class"),
        row=KINDS[kind_of(params)].modality.row,
    )


def read_right(path: Path) -> dict[str, np.ndarray]:
    """Model to bool (test rows,): whether its answer is right. Raises ArtifactError if the file is missing or damaged."""
    try:
        table = pd.read_parquet(path)
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing; 'dvc repro' or 'dvc checkout' brings it back") from None
    except ValueError as error:
        raise ArtifactError(f"{path} is damaged ({error}); delete it and run 'dvc checkout'") from None
    return {name: (table[name] == table["actual"]).to_numpy() for name in table.columns if name not in ("id", "actual")}


def draw_findings(facts: Facts) -> list[Finding]:
    """What the teacher bought, what was lost, size and speed, the target task and the linear model where there are any."""
    found = [bought(facts), lost(facts), size_and_speed(facts)] + ([new_task(facts)] if "new" in facts.scores else [])
    return found + ([linear_model(facts)] if "linear" in facts.scores["source"] else [])


def bought(facts: Facts) -> Finding:
    """The student against the baseline."""
    scores, rows = facts.scores["source"], facts.statistics["source"]
    student, baseline = facts.steps["student"], facts.steps["baseline"]
    steps = f"the same {student:,} steps" if student == baseline else f"{baseline:,} steps (the student: {student:,})"
    known = rows["train_rows"] - rows["withheld_labels"]
    bare, taught = "the true labels alone", ""
    if rows["withheld_labels"]:
        bare = f"the {known:,} of {rows['train_rows']:,} {facts.row}s whose true label is known"
        taught = f" on all {rows['train_rows']:,}"
    text = (
        f"Without a teacher, trained for {steps} on {bare}, the small model answers "
        f"{percent(scores['baseline']['accuracy'])} of {rows['test_rows']:,} unseen {facts.row}s correctly; with the "
        f"teacher{taught}, {percent(scores['student']['accuracy'])}. {lead_in_words(scores, 'baseline')}"
    )
    better = f"The teacher made the student {distance(scores, 'baseline')} better"
    worse = f"The teacher made the student {distance(scores, 'baseline')} worse"
    return by_direction(scores, "baseline", better, "The teacher bought nothing that can be shown", worse, text)


def new_task(facts: Facts) -> Finding:
    """The student as a start for fine-tuning, against random weights."""
    scores = facts.scores["new"]
    each = f"{facts.examples_per_class} examples of each class" if facts.examples_per_class else "every training row"
    text = (
        f"Fine-tuned on {each}, the small model answers {percent(scores['scratch']['accuracy'])} of "
        f"{facts.statistics['new']['test_rows']:,} unseen {facts.row}s correctly when it starts from random weights, and "
        f"{percent(scores['student']['accuracy'])} when it starts from the student. {lead_in_words(scores, 'scratch')}"
    )
    better = f"On the target task, starting from the student is worth {distance(scores, 'scratch')}"
    worse = f"On the target task, starting from the student costs {distance(scores, 'scratch')}"
    same = "On the target task, starting from the student is worth nothing that can be shown"
    return by_direction(scores, "scratch", better, same, worse, text)


def by_direction(scores: dict[str, Scores], rival: str, better: str, same: str, worse: str, text: str) -> Finding:
    match direction(scores["student"], rival):
        case 1:
            return Finding("good", better, text)
        case -1:
            return Finding("bad", worse, text)
        case _:
            return Finding("even", same, text)


def direction(student: Scores, rival: str) -> int:
    """1 if the student is surely better than `rival`, -1 if surely worse, 0 if the paired interval includes 0."""
    low, high = student.get(f"lead_over_{rival}_low"), student.get(f"lead_over_{rival}_high")
    if low is None or high is None:
        return 0
    return (low > 0) - (high < 0)


def lead(scores: dict[str, Scores], rival: str) -> float:
    return scores["student"]["accuracy"] - scores[rival]["accuracy"]


def distance(scores: dict[str, Scores], rival: str) -> str:
    return points(abs(lead(scores, rival)), signed=False)


def lead_in_words(scores: dict[str, Scores], rival: str) -> str:
    """The student's lead with its interval, and how much of the way to the teacher it is."""
    student, teacher = scores["student"], scores["teacher"]["accuracy"]
    low, high = student.get(f"lead_over_{rival}_low"), student.get(f"lead_over_{rival}_high")
    difference = points(lead(scores, rival))
    if low is None or high is None:
        words = f"The difference of {difference} has no interval, so it may be chance."
    elif direction(student, rival):
        words = f"That is {with_interval(lead(scores, rival), low, high)}."
    else:
        words = (
            f"The difference of {difference} may be chance: its paired 95{NO_BREAK}% interval, "
            f"{points(low, unit=False)} to {points(high, unit=False)}, includes 0."
        )
    if teacher <= scores[rival]["accuracy"]:
        return f"{words} The teacher itself, at {percent(teacher)}, is no better than that: there was no gap to close."
    if student["accuracy"] > teacher:
        return f"{words} The teacher itself reaches less, {percent(teacher)}."
    if direction(student, rival) == 1 and "gap_closed" in student:
        closed = percent(student["gap_closed"], 0)
        return f"{words} It closes {closed} of the gap to the teacher, which reaches {percent(teacher)}."
    return f"{words} The teacher reaches {percent(teacher)}."


def lost(facts: Facts) -> Finding:
    """The student against the teacher."""
    student, teacher = facts.scores["source"]["student"], facts.scores["source"]["teacher"]
    difference, low, high = paired(facts.right["source"], "student", "teacher")
    text = (
        f"Teacher {percent(teacher['accuracy'])}, student {percent(student['accuracy'])}: "
        f"{with_interval(difference, low, high)}. "
        f"The student gives the teacher’s answer, right or wrong, to {percent(student['agreement'])} of the {facts.row}s."
    )
    by = points(abs(difference), signed=False)
    if low > 0:
        return Finding("good", f"Against the teacher, the student gained {by}", text)
    if high < 0:
        return Finding("bad", f"Against the teacher, the student lost {by}", text)
    return Finding("even", "No difference between student and teacher can be shown", text)


def size_and_speed(facts: Facts) -> Finding:
    """Parameters, bytes and CPU speed of the student against the teacher."""
    student, teacher = facts.scores["source"]["student"], facts.scores["source"]["teacher"]
    ratio = teacher["parameters"] / student["parameters"]
    size = compared(ratio, "smaller", "larger", "no smaller")
    text = (
        f"{student['parameters']:,} parameters against {teacher['parameters']:,}, "
        f"{size_of(student['bytes'])} against {size_of(teacher['bytes'])}."
    )
    keys = [f"source_{model}_{key}" for key in ("latency_ms", "rows_per_second") for model in ("student", "teacher")]
    if not all(key in facts.speed for key in keys):
        return Finding("good" if ratio > SAME_SIZE_OR_SPEED else "bad", f"The student is {size} than the teacher", text)
    latency, teacher_latency, rows, teacher_rows = (facts.speed[key] for key in keys)
    alone, batched = teacher_latency / latency, rows / teacher_rows
    speed = compared(alone, "faster", "slower", "no faster")
    gains = [ratio > SAME_SIZE_OR_SPEED, alone > SAME_SIZE_OR_SPEED]
    text += (
        f" One {facts.row} alone takes {latency:.2f}{NO_BREAK}ms against {teacher_latency:.2f}{NO_BREAK}ms; in batches the "
        f"student answers {rows:,.0f} {facts.row}s per second, the teacher {teacher_rows:,.0f}: "
        f"{compared(batched, 'faster', 'slower', 'no faster')}."
    )
    heading = f"The student is {size} than the teacher {'and' if gains[0] == gains[1] else 'but'} {speed}"
    return Finding("good" if all(gains) else "even" if any(gains) else "bad", heading, text)


def compared(ratio: float, more: str, less: str, same: str) -> str:
    """'3.2 times faster', or `same` for a ratio near 1."""
    if 1 / SAME_SIZE_OR_SPEED <= ratio <= SAME_SIZE_OR_SPEED:
        return same
    times = max(ratio, 1 / ratio)
    return f"{times:,.{0 if times >= 10 else 1}f} times {more if ratio > 1 else less}"


def linear_model(facts: Facts) -> Finding:
    """The yardstick without a network: is a network needed at all?"""
    ranks, sentences = {}, []
    for task, right in facts.right.items():
        scores = facts.scores[task]
        networks = {name: row["accuracy"] for name, row in scores.items() if name != "linear"}
        best = max(networks, key=networks.__getitem__)
        over_best, over_student = paired(right, "linear", best), paired(right, "linear", "student")
        # Ahead of all, ahead of the student, level with it, behind it.
        ranks[task] = 3 if over_best[1] > 0 else 2 if over_student[1] > 0 else 1 if over_student[2] >= 0 else 0
        sentence = (
            f"On the {TASK_WORDS[task]} task it answers {percent(scores['linear']['accuracy'])} correctly; "
            f"against the student that is {with_interval(*over_student)}"
        )
        sentences.append(sentence + ("." if best == "student" else f", against the {best} {with_interval(*over_best)}."))
    source = facts.scores["source"]
    sentences.append(f"It has {source['linear']['parameters']:,} weights, the student {source['student']['parameters']:,}.")
    top = max(ranks.values())
    there = [task for task, rank in ranks.items() if rank == top]
    where = where_in_words(there, len(ranks))
    if top > 1 and min(ranks.values()) == 0:
        where += f", but behind the student on the {TASK_WORDS[min(ranks, key=ranks.__getitem__)]} task"
    tone, heading = (
        ("good", f"The student is ahead of a linear model {where}"),
        ("even", f"No lead of the student over a linear model can be shown {where}"),
        ("bad", f"A linear model is ahead of the student {where}"),
        ("bad", f"A linear model is ahead of every network {where}"),
    )[top]
    return Finding(tone, heading, " ".join(sentences))


def where_in_words(there: list[str], tasks: int) -> str:
    """'on both tasks', of two; with a single task there is nothing to tell apart."""
    if tasks == 1:
        return "here"
    return "on both tasks" if len(there) == 2 else f"on the {TASK_WORDS[there[0]]} task"


def paired(right: dict[str, np.ndarray], one: str, other: str) -> tuple[float, float, float]:
    """Lead of `one` over `other` in accuracy on the same texts, and the ends of its 95 % interval.

    The normal interval of a mean of differences; with two answers per text this is McNemar 1947, doi:10.1007/BF02295996.
    Newcombe's where every text has the same difference, none above all.
    """
    differences = right[one].astype(np.float64) - right[other]
    margin = 1.96 * differences.std() / np.sqrt(len(differences))
    ends = (float(differences.mean() - margin), float(differences.mean() + margin))
    return float(differences.mean()), *(ends if margin else newcombe(right[one], right[other]))


def with_interval(difference: float, low: float, high: float) -> str:
    return f"{points(difference)} (paired 95{NO_BREAK}% interval {points(low, unit=False)} to {points(high, unit=False)})"


def percent(share: float, decimals: int = 1) -> str:
    return f"{100 * share:.{decimals}f}{NO_BREAK}%".replace("-", "−")


def points(difference: float, signed: bool = True, unit: bool = True) -> str:
    """Percentage points; with a second decimal where one would round a difference away."""
    value = 100 * difference
    decimals = 2 if value and abs(value) < 0.05 else 1
    sign = ("+" if value > 0 else "−" if value < 0 else "") if signed else ""
    return f"{sign}{abs(value):.{decimals}f}" + (f"{NO_BREAK}points" if unit else "")


def size_of(num_bytes: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= factor / 10:
            return f"{num_bytes / factor:.3g}{NO_BREAK}{unit}"
    return f"{num_bytes / 1e3:.3g}{NO_BREAK}kB"
