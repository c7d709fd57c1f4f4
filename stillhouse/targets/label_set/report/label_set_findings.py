"""What the figures of multi-label classifiers say in plain words: the first lines of the report.

As `reporting.findings`, with micro-F1 in the place of accuracy: a difference counts only if its paired interval leaves out 0.
"""

from stillhouse.core.shipped import TASK_WORDS
from stillhouse.reporting.findings import Facts, Finding, Scores, percent, points, size_and_speed, with_interval


def findings_of_sets(facts: Facts, examples_per_label: int | None) -> list[Finding]:
    """What the teacher bought, what was lost, size and speed, the target task and linear models where there are any."""
    found = [bought(facts), lost(facts), size_and_speed(facts)]
    if "new" in facts.scores:
        found.append(new_task(facts, examples_per_label))
    return found + ([linear_models(facts)] if "linear" in facts.scores["source"] else [])


def f1(scores: Scores) -> str:
    return f"{percent(scores['micro_f1'])} micro-F1 and {percent(scores['macro_f1'])} macro-F1"


def against(student: Scores, rival: str, value: float) -> tuple[int, str]:
    """1 if the student is surely better in micro-F1, -1 if surely worse, 0 if the interval includes 0; and the difference in
    words. value: the difference."""
    low, high = student[f"lead_over_{rival}_low"], student[f"lead_over_{rival}_high"]
    return (low > 0) - (high < 0), with_interval(value, low, high)


def judged(place: int, better: str, same: str, worse: str, text: str) -> Finding:
    if place == 0:
        return Finding("even", same, text)
    return Finding("good", better, text) if place > 0 else Finding("bad", worse, text)


def bought(facts: Facts) -> Finding:
    """The student against the baseline."""
    scores, rows = facts.scores["source"], facts.statistics["source"]
    lead = scores["student"]["lead_over_baseline"]
    place, words = against(scores["student"], "baseline", lead)
    known = rows["train_rows"] - rows["withheld_labels"]
    bare = f"the true labels of {known:,} {facts.row}s" if rows["withheld_labels"] else "the true labels"
    closed = scores["student"].get("gap_closed")
    gap = f" It closes {percent(closed, 0)} of the gap to the teacher." if closed is not None and place > 0 else ""
    text = (
        f"On {rows['test_rows']:,} unseen {facts.row}s the small model reaches {f1(scores['baseline'])} when it learns from "
        f"{bare} alone, and {f1(scores['student'])} with the teacher, on {rows['train_rows']:,} {facts.row}s. In micro-F1 that "
        f"is {words}.{gap}"
    )
    size = points(abs(lead), signed=False)
    same = "The teacher bought nothing that can be shown"
    return judged(
        place, f"The teacher made the student {size} better", same, f"The teacher made the student {size} worse", text
    )


def lost(facts: Facts) -> Finding:
    """The student against the teacher."""
    student, teacher = facts.scores["source"]["student"], facts.scores["source"]["teacher"]
    difference = student["micro_f1"] - teacher["micro_f1"]
    place, words = against(student, "teacher", difference)
    kept = f" In macro-F1 it keeps {percent(student['macro_f1'] / teacher['macro_f1'])} of it." if teacher["macro_f1"] else ""
    text = (
        f"Teacher {f1(teacher)}, student {f1(student)}: in micro-F1 {words}.{kept} The student gives the teacher’s whole set "
        f"of labels to {percent(student['agreement'])} of the {facts.row}s."
    )
    size = points(abs(difference), signed=False)
    same = "No difference between student and teacher can be shown"
    return judged(
        place, f"Against the teacher, the student gained {size}", same, f"Against the teacher, the student lost {size}", text
    )


def new_task(facts: Facts, examples_per_label: int | None) -> Finding:
    """The student as a start for fine-tuning, against random weights."""
    scores = facts.scores["new"]
    lead = scores["student"]["lead_over_scratch"]
    place, words = against(scores["student"], "scratch", lead)
    each = f"{examples_per_label} examples of each label" if examples_per_label else "every training row"
    text = (
        f"Fine-tuned on {each}, the small model reaches {f1(scores['scratch'])} from random weights, and "
        f"{f1(scores['student'])} from the student. In micro-F1 that is {words}."
    )
    size, on = points(abs(lead), signed=False), "On the target task, starting from the student"
    return judged(place, f"{on} is worth {size}", f"{on} is worth nothing that can be shown", f"{on} costs {size}", text)


def linear_models(facts: Facts) -> Finding:
    """The yardstick without a network: is a network needed at all?"""
    places, sentences = [], []
    for task, scores in facts.scores.items():
        place, words = against(scores["student"], "linear", scores["student"]["lead_over_linear"])
        places.append(place)
        sentences.append(
            f"On the {TASK_WORDS[task]} task linear models, one a label, reach {f1(scores['linear'])}; against them the "
            f"student’s micro-F1 is {words}."
        )
    if all(place > 0 for place in places):
        return Finding("good", "The student is ahead of linear models", " ".join(sentences))
    if any(place < 0 for place in places):
        return Finding("bad", "Linear models are ahead of the student", " ".join(sentences))
    return Finding("even", "No lead of the student over linear models can be shown on every task", " ".join(sentences))
