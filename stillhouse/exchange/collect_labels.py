"""Collects soft labels of all training rows from an OpenAI-compatible server, into a file that the pipeline imports.

A killed collection resumes behind its last row. Of a classifier, each class is filled into a prompt and judged by its
log-probability; of a language model, the likeliest ids at every token are kept.

    python -m stillhouse.exchange.collect_labels data/raw/labels.jsonl --url http://host:8000/v1 --model NAME
"""

import asyncio
import json
import os
from argparse import Namespace
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from stillhouse.core.artifacts import DATA, digest_file
from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.errors import DataError, ParamsError, StillhouseError
from stillhouse.core.options import Options, say
from stillhouse.core.params import PARAMS_FILE, read_yaml

if TYPE_CHECKING:
    from stillhouse.exchange.completions import Completions
    from stillhouse.exchange.label_journal import LabelJournal

RAW = DATA / "raw"


class Question(Protocol):
    """What is asked of a row."""

    def body(self, row: dict[str, Any]) -> dict[str, Any]: ...
    def estimate(self, row: dict[str, Any]) -> int: ...
    def labels(self, row: dict[str, Any], choices: list[dict[str, Any]]) -> dict[str, Any]: ...


async def collect(
    question: Question, rows: list[dict[str, Any]], server: "Completions", journal: "LabelJournal", concurrency: int
) -> None:
    """Ask about every row that the journal lacks, so many at a time. Raises the first StillhouseError."""
    from stillhouse.core.progress import Progress
    from stillhouse.exchange.completions import BudgetError
    from stillhouse.exchange.label_journal import key_of

    left = [row for row in rows if key_of(row) not in journal.done]
    waiting: Iterator[dict[str, Any]] = iter(left)
    used_up: list[BudgetError] = []
    with Progress(len(left), "soft labels", "rows") as bar:

        async def work() -> None:
            for row in waiting:
                try:
                    choices = await server.ask(question.body(row), question.estimate(row))
                except BudgetError as error:
                    # What is on its way has been paid for: others wait for it.
                    used_up.append(error)
                    return
                journal.add(question.labels(row, choices))
                bar.update(1)

        try:
            async with server, asyncio.TaskGroup() as group:
                for _ in range(min(concurrency, len(left))):
                    group.create_task(work())
        except BaseExceptionGroup as errors:
            # What ends one of them ends all, so the others say the same.
            raise errors.exceptions[0] from None
    if used_up:
        raise used_up[0]


def run(options: Namespace) -> None:
    """Raises StillhouseError for whatever ends the collection before its last row."""
    from stillhouse.exchange.asked_rows import asked_rows, own_kind, task_here
    from stillhouse.exchange.completions import Budget, Completions
    from stillhouse.exchange.label_journal import open_journal

    path: Path = options.file
    if path.suffix != ".jsonl":
        raise ParamsError(f"{path}: labels are collected line by line; expected a name that ends in .jsonl")
    budget = Budget(options.requests, options.tokens)
    key = os.environ.get(options.key_variable)
    limits = {"concurrency": options.concurrency, "tries": options.tries, "timeout": options.timeout}
    server = Completions(options.url, options.model, budget, key=key, first_wait=options.first_wait, **limits)
    of_classes, task = own_kind().target.of_classes, task_here()
    question = question_of(options, task, of_classes)
    prompt = digest_file(options.prompt) if options.prompt else None
    about = {
        "model": options.model, "prompt": prompt, "data": task.digest, "top": None if of_classes else options.top,
        "date": datetime.now(UTC).date().isoformat(),
    }  # fmt: skip
    rows = list(asked_rows(task, of_classes))
    with open_journal(path, about) as journal:
        try:
            asyncio.run(collect(question, rows, server, journal, options.concurrency))
        except StillhouseError as error:
            count = f"{len(journal.done):,} of {len(rows):,} rows are in {path}; the same command resumes"
            raise type(error)(f"{error}; {count}") from None
    say(f"{path}: {len(rows):,} rows, with {budget.used_requests:,} requests and {budget.used_tokens:,} tokens this time")
    say(block_of(options, about))


def question_of(options: Namespace, task: Any, of_classes: bool) -> Question:
    """Raises ParamsError for a prompt that does not go with the task, or labels that could not be imported."""
    from stillhouse.exchange.server_answers import ClassQuestion, TokenQuestion

    if not of_classes:
        if options.prompt:
            raise ParamsError("--prompt is for classifiers; a language model is asked about the training tokens as they are")
        return TokenQuestion(options.top)
    if getattr(task.train, "texts", None) is None:
        raise ParamsError(
            "pictures cannot be asked about here; label them with a tool of your own, by their ids, and import the file"
        )
    views = read_yaml(PARAMS_FILE)["views"]
    if views.get("min_share", 1) != 1:
        raise ParamsError(
            f"'views.min_share' is {views['min_share']}, so the student sees parts of texts, and whole ones would be labelled; "
            "set it to 1 first"
        )
    if options.prompt is None:
        raise ParamsError(
            "--prompt is missing: a file with {text} and, behind it, {label}, such as 'Text: {text}\\nTopic: {label}'"
        )
    try:
        return ClassQuestion(options.prompt.read_text(encoding="utf-8"), task.labels)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--prompt {options.prompt} cannot be read ({type(error).__name__})") from None


def block_of(options: Namespace, about: dict[str, Any]) -> str:
    """What params.yaml needs to import the file."""

    def below_raw(path: Path) -> str:
        return path.relative_to(RAW).as_posix() if path.is_relative_to(RAW) else path.name

    values = {"kind": "import", "files": below_raw(options.file), "model": about["model"], "date": about["date"]}
    values |= {"prompt": below_raw(options.prompt)} if options.prompt else {}
    # JSON is YAML too.
    return f"for params.yaml, with the files in {RAW}:\nexport_soft_labels:\n  source: {json.dumps(values, ensure_ascii=False)}"


def main() -> None:
    parser = Options("stillhouse.exchange.collect_labels", __doc__)
    parser.add_argument("file", type=Path, help="where to, below data/raw; ends in .jsonl; what is in it is not asked again")
    parser.add_argument("--url", required=True, help="of the server, with its /v1")
    parser.add_argument("--model", required=True, help="name of the model on the server")
    parser.add_argument("--prompt", type=Path, help="of classifiers: file with the prompt, in which {text} and {label} stand")
    parser.add_argument("--top", type=int, default=50, help="of language models: likeliest ids at each token; default: 50")
    parser.add_argument("--key-variable", default="OPENAI_API_KEY", help="environment variable with the key, if one is needed")
    parser.add_argument("--requests", type=int, help="most requests of this start, tries again included; default: any number")
    parser.add_argument("--tokens", type=int, help="most tokens of this start; default: any number")
    parser.add_argument("--concurrency", type=int, default=4, help="requests at a time; default: 4")
    parser.add_argument("--tries", type=int, default=6, help="for a request that fails; default: 6")
    parser.add_argument("--first-wait", type=float, default=1.0, help="seconds before the second try; doubles; default: 1")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for an answer; default: 120")
    options = parser.parse_args()
    with one_line_errors("collect_labels"):
        for name in ("top", "concurrency", "tries"):
            if getattr(options, name) < 1:
                raise ParamsError(f"--{name} must be at least 1, is {getattr(options, name)}")
        run(options)


if __name__ == "__main__":
    main()
