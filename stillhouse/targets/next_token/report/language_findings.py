"""What the figures of causal language models say in plain words: the first lines of their report.

A lead is what the student needs less than another model, in nats per token, so more is better as with classifiers. All
intervals are those of `evaluate`: paired, over resamples of the test blocks.
"""

from dataclasses import dataclass

from stillhouse.core.artifacts import DATA, read_json
from stillhouse.core.shipped import TASK_WORDS
from stillhouse.reporting.findings import (
    NO_BREAK,
    SAME_SIZE_OR_SPEED,
    Finding,
    Scores,
    by_direction,
    compared,
    direction,
    percent,
    size_of,
    where_in_words,
)


@dataclass(frozen=True)
class LanguageFacts:
    """What the findings are drawn from."""

    scores: dict[str, dict[str, Scores]]
    """Task to model to figures, as in `evaluate/metrics.json`."""
    speed: Scores
    """`timing.json` of `evaluate`."""
    statistics: dict[str, Scores]
    """Task to counts of documents, blocks, tokens and bytes."""
    steps: dict[str, int]
    """Training steps of `student` and `baseline`."""


def read_language_facts() -> LanguageFacts:
    """Raises ArtifactError if an output of an earlier stage is missing."""
    return LanguageFacts(
        scores=read_json(DATA / "evaluate" / "metrics.json"),
        speed=read_json(DATA / "evaluate" / "timing.json"),
        statistics=read_json(DATA / "preprocess" / "statistics.json"),
        steps={name: read_json(DATA / f"train_{name}" / "metrics.json")["steps"] for name in ("student", "baseline")},
    )


def draw_language_findings(facts: LanguageFacts) -> list[Finding]:
    """What the teacher bought, what was lost, size and speed; the target domain, what was forgotten, and n-grams, if any."""
    found = [bought(facts), lost(facts), size_and_speed(facts)]
    found += [new_domain(facts), forgotten(facts)] if "new" in facts.scores else []
    return found + ([ngrams(facts)] if "ngram" in facts.scores["source"] else [])


def bought(facts: LanguageFacts) -> Finding:
    """The student against the baseline."""
    scores = facts.scores["source"]
    student, baseline = facts.steps["student"], facts.steps["baseline"]
    steps = f"the same {student:,} steps" if student == baseline else f"{baseline:,} steps (the student: {student:,})"
    text = (
        f"Without a teacher, trained for {steps} on the same text, the small model needs {cost(scores['baseline'])}, measured "
        f"on {facts.statistics['source']['test_tokens']:,} unseen tokens; with the teacher, {cost(scores['student'])}. "
        f"{lead_in_words(scores, 'baseline')}"
    )
    by = distance(scores, "baseline")
    better, worse = f"The teacher made the student {by} better", f"The teacher made the student {by} worse"
    return by_direction(scores, "baseline", better, "The teacher bought nothing that can be shown", worse, text)


def lost(facts: LanguageFacts) -> Finding:
    """The student against the teacher."""
    scores = facts.scores["source"]
    student, teacher = scores["student"], scores["teacher"]
    text = (
        f"Teacher {cost(teacher)}, student {cost(student)}: {led(student, 'teacher')}. The student’s first guess is the "
        f"teacher’s, right or wrong, at {percent(student['agreement'])} of the tokens."
    )
    by = distance(scores, "teacher")
    better, worse = f"Against the teacher, the student gained {by}", f"Against the teacher, the student lost {by}"
    return by_direction(scores, "teacher", better, "No difference between student and teacher can be shown", worse, text)


def size_and_speed(facts: LanguageFacts) -> Finding:
    """Parameters, bytes and speed of the student against the teacher."""
    student, teacher = facts.scores["source"]["student"], facts.scores["source"]["teacher"]
    ratio = teacher["parameters"] / student["parameters"]
    size = compared(ratio, "smaller", "larger", "no smaller")
    text = (
        f"{student['parameters']:,} parameters against {teacher['parameters']:,}, "
        f"{size_of(student['bytes'])} against {size_of(teacher['bytes'])}."
    )
    keys = [f"source_{model}_tokens_per_second" for model in ("student", "teacher")]
    if not all(key in facts.speed for key in keys):
        return Finding("good" if ratio > SAME_SIZE_OR_SPEED else "bad", f"The student is {size} than the teacher", text)
    tokens, teacher_tokens = (facts.speed[key] for key in keys)
    speed = compared(tokens / teacher_tokens, "faster", "slower", "no faster")
    gains = [ratio > SAME_SIZE_OR_SPEED, tokens / teacher_tokens > SAME_SIZE_OR_SPEED]
    text += f" It reads {tokens:,} tokens per second, the teacher {teacher_tokens:,}."
    heading = f"The student is {size} than the teacher {'and' if gains[0] == gains[1] else 'but'} {speed}"
    return Finding("good" if all(gains) else "even" if any(gains) else "bad", heading, text)


def new_domain(facts: LanguageFacts) -> Finding:
    """The student as a start for fine-tuning, against random weights."""
    scores = facts.scores["new"]
    text = (
        f"Fine-tuned on {facts.statistics['new']['train_documents']:,} documents of the target domain, the small model needs "
        f"{cost(scores['scratch'])} when it starts from random weights, and {cost(scores['student'])} when it starts from the "
        f"student. {lead_in_words(scores, 'scratch')}"
    )
    by = distance(scores, "scratch")
    better = f"On the target domain, starting from the student is worth {by}"
    worse = f"On the target domain, starting from the student costs {by}"
    same = "On the target domain, starting from the student is worth nothing that can be shown"
    return by_direction(scores, "scratch", better, same, worse, text)


def forgotten(facts: LanguageFacts) -> Finding:
    """What fine-tuning did to the student: gained on the target domain, lost on the old one."""
    student, before = facts.scores["new"]["student"], facts.scores["source"]["student"]
    kept, gained = changed(student, "forgotten"), changed(student, "gained")
    text = (
        f"On text of the old domain the student needed {nats(before['nats_per_token'])} before and "
        f"{nats(student['old_nats_per_token'])} after fine-tuning: {in_words(student, 'forgotten', 'more', 'less')}. On the "
        f"target domain it needs {in_words(student, 'gained', 'less', 'more')} than before."
    )
    teacher = facts.scores["new"]["teacher"]
    text += f" The teacher, fine-tuned alike: {in_words(teacher, 'forgotten', 'more', 'less')} on the old domain."
    amount = nats(abs(student["forgotten"]))
    learned = {1: f"gained {nats(abs(student['gained']))} on the target domain", 0: "gained nothing that can be shown"}
    heading = f"Fine-tuning {learned.get(gained, 'made the student worse on the target domain')}"
    match kept:
        case 1:
            return Finding("even" if gained == 1 else "bad", f"{heading} and forgot {amount} of the old", text)
        case -1:
            return Finding("good" if gained == 1 else "even", f"{heading}, and {amount} on the old one as well", text)
        case _:
            return Finding("good" if gained == 1 else "even", f"{heading} and forgot nothing that can be shown", text)


def ngrams(facts: LanguageFacts) -> Finding:
    """The yardstick without a network: is a network needed at all?"""
    ranks, sentences = {}, []
    for task, scores in facts.scores.items():
        ranks[task] = -direction(scores["student"], "ngram")
        sentences.append(
            f"On the {TASK_WORDS[task]} task, n-grams of tokens counted in the training text need "
            f"{cost(scores['ngram'])}; against them the student is {led(scores['student'], 'ngram')}."
        )
    source = facts.scores["source"]
    sentences.append(
        f"They are {source['ngram']['parameters']:,} counts; the student has {source['student']['parameters']:,} parameters."
    )
    top = max(ranks.values())
    there = [task for task, rank in ranks.items() if rank == top]
    where = where_in_words(there, len(ranks))
    match top:
        case 1:
            return Finding("bad", f"Counting n-grams beats the student {where}", " ".join(sentences))
        case 0:
            return Finding("even", f"No lead of the student over n-grams can be shown {where}", " ".join(sentences))
        case _:
            return Finding("good", f"The student is ahead of n-grams {where}", " ".join(sentences))


def changed(scores: Scores, name: str) -> int:
    """1 if the figure is surely above 0, -1 if surely below, 0 if its interval includes 0 or there is none."""
    return (scores.get(f"{name}_low", 0) > 0) - (scores.get(f"{name}_high", 0) < 0)


def in_words(scores: Scores, name: str, above: str, below: str) -> str:
    """'0.052 nats per token less (paired 95 % interval 0.001 to 0.109)'."""
    value, low, high = scores[name], scores.get(f"{name}_low"), scores.get(f"{name}_high")
    said = f"{nats(abs(value))} {above if value >= 0 else below}"
    if low is None or high is None:
        return f"{said} (no interval: there is one test block)"
    low, high = (low, high) if value >= 0 else (-high, -low)
    return f"{said} (paired 95{NO_BREAK}% interval {figure(low)} to {figure(high)})"


def lead(scores: dict[str, Scores], rival: str) -> float:
    """Nats per token that the student needs less than `rival`."""
    return scores[rival]["nats_per_token"] - scores["student"]["nats_per_token"]


def distance(scores: dict[str, Scores], rival: str) -> str:
    return nats(abs(lead(scores, rival)))


def led(student: Scores, rival: str) -> str:
    """'0.030 nats per token ahead (paired 95 % interval 0.025 to 0.034)'."""
    return in_words(student, f"lead_over_{rival}", "better", "worse")


def lead_in_words(scores: dict[str, Scores], rival: str) -> str:
    """The student's lead with its interval, and how much of the way to the teacher it is."""
    student, teacher = scores["student"], scores["teacher"]
    chance = ", which includes 0: it may be chance." if f"lead_over_{rival}_low" in student else ": it may be chance."
    words = f"That is {led(student, rival)}" + ("." if direction(student, rival) else chance)
    reaches = nats(teacher["nats_per_token"])
    if teacher["nats_per_token"] >= scores[rival]["nats_per_token"]:
        return f"{words} The teacher itself, at {reaches}, is no better than that: there was no gap to close."
    if lead(scores, "teacher") > 0:
        return f"{words} The teacher itself needs more, {reaches}."
    if direction(student, rival) == 1 and "gap_closed" in student:
        return f"{words} It closes {percent(student['gap_closed'], 0)} of the gap to the teacher, which needs {reaches}."
    return f"{words} The teacher needs {reaches}."


def cost(scores: Scores) -> str:
    """'3.482 nats per token (1.23 bits per byte)'."""
    return f"{nats(scores['nats_per_token'])} ({figure(scores['bits_per_byte'])} bits per byte)"


def nats(value: float) -> str:
    return f"{figure(value)} nats per token"


def figure(value: float) -> str:
    """Three decimals, and a fourth where three would round a difference away."""
    decimals = 4 if value and abs(value) < 0.0005 else 3
    return f"{value:.{decimals}f}".replace("-", "−")


def interval_of(row: Scores, name: str) -> str:
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return "" if low is None or high is None else f"{figure(low)} to {figure(high)}"
