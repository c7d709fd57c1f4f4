"""What the figures say in plain words: the first lines of the report.

The words follow the figures in every case. A lead counts only if its paired interval leaves out 0, a difference without
a paired interval only if the two models' own intervals do not overlap, and speeds within 5 % are the same speed.
"""

from dataclasses import dataclass
from typing import Any, Literal

from stillhouse.core.artifacts import DATA, read_json

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
    test_rows: dict[str, int]
    """Task to number of test rows."""
    steps: dict[str, int]
    """Training steps of `student` and `baseline`."""
    examples_per_class: int | None
    """Rows of each class in fine-tuning; None is all."""


def read_facts(params: dict[str, Any]) -> Facts:
    """Raises ArtifactError if an output of an earlier stage is missing."""
    statistics = read_json(DATA / "preprocess" / "statistics.json")
    return Facts(
        scores=read_json(DATA / "evaluate" / "metrics.json"),
        speed=read_json(DATA / "evaluate" / "timing.json"),
        test_rows={task: statistics[task]["test_rows"] for task in ("source", "new")},
        steps={name: read_json(DATA / f"train_{name}" / "metrics.json")["steps"] for name in ("student", "baseline")},
        examples_per_class=params.get("finetune", {}).get("examples_per_class"),
    )


def draw_findings(facts: Facts) -> list[Finding]:
    """What the teacher bought, what was lost, size and speed, the new task, and the linear model where there is one."""
    found = [bought(facts), lost(facts.scores["source"]), size_and_speed(facts), new_task(facts)]
    return found + ([linear_model(facts.scores)] if "linear" in facts.scores["source"] else [])


def bought(facts: Facts) -> Finding:
    """The student against the baseline."""
    scores = facts.scores["source"]
    student, baseline = facts.steps["student"], facts.steps["baseline"]
    steps = f"the same {student:,} steps" if student == baseline else f"{baseline:,} steps (the student: {student:,})"
    text = (
        f"Without a teacher, trained for {steps} on the true labels alone, the small model answers "
        f"{percent(scores['baseline']['accuracy'])} of {facts.test_rows['source']:,} unseen texts correctly; with the teacher, "
        f"{percent(scores['student']['accuracy'])}. {lead_in_words(scores, 'baseline')}"
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
        f"{facts.test_rows['new']:,} unseen texts correctly when it starts from random weights, and "
        f"{percent(scores['student']['accuracy'])} when it starts from the student. {lead_in_words(scores, 'scratch')}"
    )
    better = f"On the new task, starting from the student is worth {distance(scores, 'scratch')}"
    worse = f"On the new task, starting from the student costs {distance(scores, 'scratch')}"
    return by_direction(scores, "scratch", better, "On the new task the student is no better start that can be shown", worse, text)


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
        words = f"That is {difference} (paired 95{NO_BREAK}% interval {points(low, unit=False)} to {points(high, unit=False)})."
    else:
        words = (
            f"The difference of {difference} may be chance: its paired 95{NO_BREAK}% interval, "
            f"{points(low, unit=False)} to {points(high, unit=False)}, includes 0."
        )
    if teacher <= scores[rival]["accuracy"]:
        return f"{words} The teacher itself, at {percent(teacher)}, is no better than that: there was no gap to close."
    if direction(student, rival) == 1 and "gap_closed" in student:
        return f"{words} It closes {percent(student['gap_closed'], 0)} of the gap to the teacher, which reaches {percent(teacher)}."
    return f"{words} The teacher reaches {percent(teacher)}."


def lost(scores: dict[str, Scores]) -> Finding:
    """The student against the teacher."""
    student, teacher = scores["student"], scores["teacher"]
    behind = teacher["accuracy"] - student["accuracy"]
    chance = overlap(student, teacher)
    text = (
        f"Teacher {percent(teacher['accuracy'])}, student {percent(student['accuracy'])}; the student gives the teacher's "
        f"answer, right or wrong, to {percent(student['agreement'])} of the texts."
    )
    text += f" Their 95{NO_BREAK}% intervals overlap, so the difference may be chance." if chance and behind else ""
    by = points(abs(behind), signed=False)
    if behind > 0:
        return Finding("even" if chance else "bad", f"The student is {by} less accurate than the teacher", text)
    heading = f"The student is {by} more accurate than the teacher" if behind else "The student is as accurate as the teacher"
    return Finding("good", heading, text)


def size_and_speed(facts: Facts) -> Finding:
    """Parameters, bytes and CPU speed of the student against the teacher."""
    student, teacher = facts.scores["source"]["student"], facts.scores["source"]["teacher"]
    ratio = teacher["parameters"] / student["parameters"]
    size = compared(ratio, "smaller", "larger", "no smaller")
    text = (
        f"{student['parameters']:,} parameters against {teacher['parameters']:,}, "
        f"{size_of(student['bytes'])} against {size_of(teacher['bytes'])}."
    )
    latency = [facts.speed.get(f"source_{model}_latency_ms") for model in ("student", "teacher")]
    rows = [facts.speed.get(f"source_{model}_rows_per_second") for model in ("student", "teacher")]
    if None in latency or None in rows:
        return Finding("good" if ratio > SAME_SIZE_OR_SPEED else "bad", f"The student is {size} than the teacher", text)
    alone, batched = latency[1] / latency[0], rows[0] / rows[1]
    speed = compared(alone, "faster", "slower", "no faster")
    gains = [ratio > SAME_SIZE_OR_SPEED, alone > SAME_SIZE_OR_SPEED]
    text += (
        f" One text alone takes {latency[0]:.2f} ms against {latency[1]:.2f} ms; in batches the student answers "
        f"{rows[0]:,.0f} texts per second, the teacher {rows[1]:,.0f}: {compared(batched, 'faster', 'slower', 'no faster')}."
    )
    heading = f"The student is {size} than the teacher {'and' if gains[0] == gains[1] else 'but'} {speed}"
    return Finding("good" if all(gains) else "even" if any(gains) else "bad", heading, text)


def compared(ratio: float, more: str, less: str, same: str) -> str:
    """'3.2 times faster', or `same` for a ratio near 1."""
    if 1 / SAME_SIZE_OR_SPEED <= ratio <= SAME_SIZE_OR_SPEED:
        return same
    times = max(ratio, 1 / ratio)
    return f"{times:,.0f} times {more if ratio > 1 else less}" if times >= 10 else f"{times:.1f} times {more if ratio > 1 else less}"


def linear_model(tasks: dict[str, dict[str, Scores]]) -> Finding:
    """The yardstick without a network."""
    first, ahead, sentences = [], [], []
    for task in ("source", "new"):
        scores = tasks[task]
        if "linear" not in scores:
            continue
        linear = scores["linear"]
        networks = {name: row["accuracy"] for name, row in scores.items() if name != "linear"}
        best = max(networks, key=networks.__getitem__)
        if linear["accuracy"] > networks[best]:
            first.append(task)
        elif linear["accuracy"] >= networks["student"]:
            ahead.append(task)
        close = ", with overlapping intervals" if overlap(linear, scores[best]) else ""
        sentences.append(
            f"On the {task} task it answers {percent(linear['accuracy'])} correctly; the best network, the {best}, "
            f"{percent(networks[best])}{close}, and the student {percent(networks['student'])}."
        )
    weights = tasks["source"]["linear"].get("parameters")
    if weights:
        sentences.append(f"It has {weights:,} weights; the student has {tasks['source']['student']['parameters']:,}.")
    text = " ".join(sentences)
    if first:
        where = "both tasks" if len(first) == 2 else f"the {first[0]} task"
        return Finding("bad", f"A linear n-gram model is ahead of every network on {where}", text)
    if ahead:
        where = "both tasks" if len(ahead) == 2 else f"the {ahead[0]} task"
        return Finding("bad", f"A linear n-gram model does no worse than the student on {where}", text)
    return Finding("good", "The student is ahead of a linear n-gram model", text)


def overlap(one: Scores, other: Scores) -> bool:
    """Whether the accuracies' intervals have a point in common; without intervals nothing is sure."""
    edges = [row.get(f"accuracy_{end}") for row in (one, other) for end in ("low", "high")]
    if None in edges:
        return True
    return edges[0] <= edges[3] and edges[2] <= edges[1]


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
