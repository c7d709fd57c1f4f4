"""What the page of causal language models shows: figures by token and byte, and text to read, beside what every page has."""

from collections.abc import Callable
from typing import Any

from stillhouse.core.artifacts import DATA, MANIFEST, read_json
from stillhouse.core.shipped import TASK_WORDS, Shipped
from stillhouse.reporting import charts
from stillhouse.reporting.findings import NO_BREAK, Scores, direction, percent, size_of
from stillhouse.reporting.report_parts import (
    NAMES,
    labels_of,
    learning_curves,
    milliseconds,
    origin_of,
    read_rows,
    reliability,
    statistics_of,
    written,
)
from stillhouse.targets.next_token.report.language_findings import (
    LanguageFacts,
    draw_language_findings,
    figure,
    interval_of,
    lead,
    nats,
    read_language_facts,
)

TEMPLATE = "report_language.html.jinja"
STATISTICS = {
    "documents_in": "Documents read",
    "empty": "Dropped: empty",
    "duplicates": "Dropped: duplicates",
    "shared_between_published_splits": "Dropped: text stands in another split",
    "shared_with_other_task": "Dropped: text is held out in the target task",
    **{
        f"{split}_{unit}": f"{name} {unit}"
        for split, name in (("train", "Training"), ("validation", "Validation"), ("test", "Test"))
        for unit in ("documents", "bytes", "tokens", "blocks")
    },
    "bytes_per_token": "Bytes of a token",
    "empty_share": "Positions of training blocks left empty",
    "cut_share": "Pieces that go on with a document cut at the block’s length",
}
SOFT_LABELS = {
    "rows": "Blocks",
    "positions": "Tokens with a soft label",
    "vocabulary": "Tokens of the vocabulary",
    "ids_per_token": "Of which stored, mean of a token",
    "bytes_per_token": "Bytes stored for a token",
    "mass_on_next_token": "Mean belief in the token that really follows",
}
MOST_SAMPLES = 6
ABOUT_LOSSES = (
    "The student’s loss on training text is measured against the teacher’s beliefs, the others’ against the tokens that really "
    "follow: compare their shapes, not their heights."
)


def show(params: dict[str, Any]) -> dict[str, Any]:
    """What the template is filled with. Raises ArtifactError if an output of an earlier stage is missing or damaged."""
    facts, shipped = read_language_facts(), Shipped.read()
    return {
        "findings": draw_language_findings(facts),
        "tiles": tiles(facts),
        "tasks": [task_results(facts, task) for task in shipped.tasks],
        "domains": domains(facts) if "new" in shipped.tasks else [],
        "curves": curves(shipped),
        "details": [
            {
                "name": TASK_WORDS[task],
                "is_shipped": task == shipped.task,
                "reliability": reliability(facts.scores[task], DATA / "evaluate" / shipped.details(task), task),
            }
            for task in shipped.tasks
        ],
        "labels_of": labels_of(params),
        "soft_labels": soft_labels(),
        "sampling": sampling(),
        "online": params["train_student"]["distillation"].get("teacher") == "online",
        "samples": [(TASK_WORDS[task], samples(task)) for task in shipped.tasks],
        "data": [
            {
                "name": TASK_WORDS[task],
                "origin": origin_of(task),
                "statistics": statistics_of(facts.statistics[task], STATISTICS),
            }
            for task in shipped.tasks
        ],
    }


def tiles(facts: LanguageFacts) -> list[tuple[str, str, str]]:
    """Caption, figure and remark of the figures that stand alone at the top."""
    scores = facts.scores["source"]
    student, teacher = scores["student"], scores["teacher"]
    closed = student.get("gap_closed")
    if closed is None:
        remark = "there was no gap"
    else:
        remark = "of the baseline’s gap to the teacher" if direction(student, "baseline") else "not different from 0"
    speed = {model: facts.speed.get(f"source_{model}_tokens_per_second") for model in ("student", "teacher")}
    return [
        *shipped_tile(facts),
        (
            "Student",
            figure(student["bits_per_byte"]),
            f"bits per byte of unseen text; teacher: {figure(teacher['bits_per_byte'])}",
        ),
        (
            "Against the baseline",
            advantage(scores, "baseline"),
            f"nats per token, 95{NO_BREAK}% interval {ends(student, 'baseline')}",
        ),
        ("Against the teacher", advantage(scores, "teacher"), f"teacher: {nats(teacher['nats_per_token'])}"),
        ("Gap closed", "–" if closed is None else percent(closed, 0), remark),
        ("Size", size_of(student["bytes"]), f"teacher: {size_of(teacher['bytes'])}"),
        ("Reads a second", thousands(speed["student"]), f"tokens; teacher: {thousands(speed['teacher'])}"),
    ]


def shipped_tile(facts: LanguageFacts) -> list[tuple[str, str, str]]:
    """The model that is shipped, where that is not the source task's student itself."""
    if "new" not in facts.scores:
        return []
    scores = facts.scores["new"]
    remark = f"bits per byte of unseen text of the target task; from scratch: {figure(scores['scratch']['bits_per_byte'])}"
    return [("Shipped model", figure(scores["student"]["bits_per_byte"]), remark)]


def advantage(scores: dict[str, Scores], rival: str) -> str:
    """The student's lead with its sign."""
    value = lead(scores, rival)
    return ("+" if value > 0 else "") + figure(value)


def ends(student: Scores, rival: str) -> str:
    return interval_of(student, f"lead_over_{rival}") or "not measured"


def thousands(value: float | None) -> str:
    return written(value, lambda known: f"{known:,.0f}")


def task_results(facts: LanguageFacts, task: str) -> dict[str, Any]:
    """The table and the chart of one task; a figure that was not measured is None."""
    models = {name: facts.scores[task][name] for name in NAMES if name in facts.scores[task]}
    name = "nats_per_token"
    intervals = [
        charts.Interval(model, NAMES[model], row[name], row.get(f"{name}_low"), row.get(f"{name}_high"))
        for model, row in models.items()
    ]
    label = f"Nats per token on the {TASK_WORDS[task]} task (95 % intervals)"
    return {
        "name": TASK_WORDS[task],
        "test_tokens": facts.statistics[task]["test_tokens"],
        "rows": [(model, result_cells(row, facts.speed, f"{task}_{model}")) for model, row in models.items()],
        "chart": charts.interval_chart(intervals, label, charts.plain_tick, figure, float("inf")),
    }


def result_cells(row: Scores, speed: Scores, prefix: str) -> list[tuple[str, str]]:
    """Figure and interval of each column."""
    return [
        (written(row.get("nats_per_token"), figure), interval_of(row, "nats_per_token")),
        (written(row.get("bits_per_byte"), figure), ""),
        (written(row.get("perplexity"), lambda value: f"{value:,.1f}"), ""),
        (written(row.get("accuracy"), percent), ""),
        (written(row.get("ece"), figure), ""),
        (written(row.get("agreement"), percent), small(row.get("kl_from_teacher"), lambda value: f"KL {figure(value)}")),
        (thousands(row.get("parameters")), small(row.get("bytes"), size_of)),
        (milliseconds(speed.get(f"{prefix}_latency_ms")), ""),
        (thousands(speed.get(f"{prefix}_tokens_per_second")), ""),
    ]


def small(value: float | None, form: Callable[[Any], str]) -> str:
    """What stands below a figure; nothing where it was not measured."""
    return "" if value is None else form(value)


def domains(facts: LanguageFacts) -> list[tuple[str, list[tuple[str, str]]]]:
    """Of each fine-tuned model, what it gained and forgot, and its nats per token on both domains; with intervals."""
    rows = []
    for model in (name for name in NAMES if "old_nats_per_token" in facts.scores["new"].get(name, {})):
        after, before = facts.scores["new"][model], facts.scores["source"].get(model, {})
        rows.append(
            (
                model,
                [
                    *((written(after.get(name), figure), interval_of(after, name)) for name in ("gained", "forgotten")),
                    (written(before.get("nats_per_token"), figure), ""),
                    (figure(after["old_nats_per_token"]), ""),
                    (figure(after["nats_per_token"]), ""),
                ],
            )
        )
    return rows


def curves(shipped: Shipped) -> list[dict[str, Any]]:
    """The charts of each training, and what to know of them. On validation text losses of all models mean the same."""
    parts = learning_curves(shipped)
    held_out = [
        {
            "charts": [
                (f"{part['heading']}: nats per token of validation text", part["validation_loss"]),
                (f"{part['heading']}: next tokens guessed right there", part["accuracy"]),
            ],
            "note": part["steps"],
        }
        for part in parts
    ]
    trained = [(f"{part['heading']}: loss on training text", part["loss"]) for part in parts]
    return [*held_out, {"charts": trained, "note": ABOUT_LOSSES}]


def soft_labels() -> list[tuple[str, str]]:
    """Caption and figure of what the teacher's beliefs take up and say; a figure that this page does not know by name too."""
    counts = read_json(DATA / "export_soft_labels" / "metrics.json")
    size, believed = counts.pop("megabytes", None), counts.pop("mass_on_next_token", None)
    return [
        *statistics_of(counts, SOFT_LABELS),
        *([] if size is None else [("Size of all", size_of(round(1e6 * size)))]),
        *([] if believed is None else [(SOFT_LABELS["mass_on_next_token"], percent(believed))]),
    ]


def sampling() -> str:
    """In words, which part of the teacher's beliefs is stored."""
    manifest = read_json(DATA / "export_soft_labels" / "soft_labels" / MANIFEST)
    sampler = manifest.get("sampler")
    if sampler is None:
        return "All of these beliefs are stored."
    named = f"method “{sampler['method']}”"
    drawn = "drawn so that on average it is exactly the teacher’s distribution"
    match manifest["form"]:
        case "sampled":
            return f"Of these beliefs a part is stored, {drawn}: {named}, {sampler['samples']} draws for each token."
        case "residual":
            return (
                f"Of these beliefs it is stored which of {sampler['bases']} typical distributions they resemble, and a part of "
                f"the difference, {drawn}: {named}, {sampler['samples']} draws for each token."
            )
        case _:
            return f"Of these beliefs the {sampler['samples']} strongest are stored for each token: {named}."


def samples(task: str) -> list[dict[str, Any]]:
    """How each model goes on with prompts of one task: the prompt, what really follows, and every model's continuation."""
    rows = read_rows(DATA / "evaluate" / "tables" / f"continuations_{task}.csv")[:MOST_SAMPLES]
    return [
        {"prompt": row["prompt"], "actual": row["actual"], "models": [(name, row[name]) for name in NAMES if name in row]}
        for row in rows
    ]
