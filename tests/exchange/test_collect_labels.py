"""Labels from a real server on this machine: what is asked, how politely, and that nothing is lost or asked twice."""

import asyncio
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import numpy as np
import pytest

from stillhouse.core.artifacts import read_json
from stillhouse.core.errors import DataError, HubError, ParamsError
from stillhouse.core.params import read_yaml
from stillhouse.exchange.collect_labels import collect
from stillhouse.exchange.completions import Budget, BudgetError, Completions, retry_after
from stillhouse.exchange.label_journal import open_journal
from stillhouse.exchange.server_answers import ClassQuestion, TokenQuestion
from tests.helpers.completions_server import Script, completions_server, log_probs_after, word_log_prob
from tests.helpers.tiny_run import ROOT

ROWS = [{"id": f"row {number}", "text": f"words of text {number} end"} for number in range(12)]
CLASSES = ["red", "dark green", "blue"]
QUESTION = ClassQuestion("Text: {text}\nColour: {label}.", CLASSES)
ABOUT = {"model": "tiny", "prompt": "p", "date": "2026-11-30"}
KEY = "sk-very-secret"


def run(script: Script, path: Path, rows=ROWS, question=QUESTION, concurrency=1, budget=None, tries=4, key=None):
    """What a start of the command does once the task is read."""
    with completions_server(script) as url, open_journal(path, dict(ABOUT)) as journal:
        limits = {"concurrency": concurrency, "tries": tries, "first_wait": 0.01, "timeout": 10.0}
        server = Completions(url, "tiny", budget or Budget(), key=key, **limits)
        asyncio.run(collect(question, rows, server, journal, concurrency))


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_class_is_as_likely_as_its_words_in_the_prompt(tmp_path):
    script = Script()
    run(script, tmp_path / "labels.jsonl")
    rows = read(tmp_path / "labels.jsonl")
    assert [row["id"] for row in rows] == [row["id"] for row in ROWS]
    scores = np.array([
        word_log_prob("Colour: ", "red."),
        word_log_prob("Colour: ", "dark") + word_log_prob("dark ", "green."),
        word_log_prob("Colour: ", "blue."),
    ])  # fmt: skip
    np.testing.assert_allclose(rows[3]["logprobs"], scores - np.log(np.exp(scores).sum()), rtol=1e-9)
    assert rows[3]["classes"] == CLASSES
    assert script.bodies[3]["prompt"][1] == "Text: words of text 3 end\nColour: dark green."
    assert {body["model"] for body in script.bodies} == {"tiny"}


@pytest.mark.parametrize("by_id", [True, False])
def test_the_likeliest_ids_of_every_token_are_kept(tmp_path, by_id):
    rows = [{"input_ids": [1, 2, 3, 17]}, {"input_ids": [4, 5]}]
    script = Script(by_id=by_id)
    run(script, tmp_path / "labels.jsonl", rows, TokenQuestion(3))
    found = read(tmp_path / "labels.jsonl")
    assert [row["input_ids"] for row in found] == [row["input_ids"] for row in rows]
    first, *others = found[0]["prompt_logprobs"]
    assert first is None
    said = log_probs_after(3, 40)
    assert {int(name) for name in others[2]} == {*np.argsort(-said)[:3].tolist(), 17}
    assert others[2]["17"]["logprob"] == pytest.approx(said[17])


def test_a_collection_resumes_behind_its_last_whole_line(tmp_path):
    path = tmp_path / "labels.jsonl"
    with pytest.raises(BudgetError, match=r"the budget of 5 requests is used up"):
        run(Script(), path, budget=Budget(requests=5))
    assert len(read(path)) == 5
    with path.open("a") as file:
        file.write('{"id": "row 5", "cla')
    script = Script()
    run(script, path)
    assert [row["id"] for row in read(path)] == [row["id"] for row in ROWS]
    assert len(script.bodies) == 7, "nothing is asked twice"


def test_what_was_on_its_way_when_a_budget_ended_is_kept(tmp_path):
    script = Script(seconds=0.05)
    with pytest.raises(BudgetError):
        run(script, tmp_path / "labels.jsonl", concurrency=4, budget=Budget(requests=7))
    assert len(script.bodies) == len(read(tmp_path / "labels.jsonl")) == 7


def test_a_budget_of_tokens_ends_a_collection_too(tmp_path):
    budget = Budget(tokens=100)
    with pytest.raises(BudgetError, match=r"the budget of 100 tokens is used up"):
        run(Script(), tmp_path / "labels.jsonl", budget=budget)
    assert 0 < budget.used_tokens <= 100
    assert 0 < len(read(tmp_path / "labels.jsonl")) < len(ROWS)


def test_a_busy_server_is_asked_again_and_left_alone_for_as_long_as_it_says(tmp_path):
    script = Script(refusals=[(429, {"Retry-After": "1"}), (503, {}), (500, {})])
    run(script, tmp_path / "labels.jsonl", ROWS[:2])
    assert len(read(tmp_path / "labels.jsonl")) == 2
    assert len(script.bodies) == 5
    assert script.times[1] - script.times[0] >= 1


def test_all_requests_wait_where_one_is_told_to(tmp_path):
    script = Script(refusals=[(429, {"Retry-After": "1"})], seconds=0.05)
    run(script, tmp_path / "labels.jsonl", ROWS, concurrency=3)
    # What was answered in the same moment as the refusal may have been followed by one more.
    assert [moment for moment in script.times if 0.3 < moment - script.times[0] < 0.9] == []


def test_no_more_requests_at_a_time_than_are_allowed(tmp_path):
    script = Script(seconds=0.05)
    run(script, tmp_path / "labels.jsonl", concurrency=3)
    assert script.most_at_once == 3
    assert {row["id"] for row in read(tmp_path / "labels.jsonl")} == {row["id"] for row in ROWS}


def test_a_server_that_stays_busy_ends_the_collection_after_so_many_tries(tmp_path):
    script = Script(refusals=[(503, {})] * 9)
    with pytest.raises(HubError, match=r"answered 503: .*busy.*, 3 times; when it is back, the same command resumes"):
        run(script, tmp_path / "labels.jsonl", tries=3)
    assert len(script.bodies) == 3
    with pytest.raises(HubError, match=r"asks for 4000 seconds of quiet"):
        run(Script(refusals=[(429, {"Retry-After": "4000"})]), tmp_path / "labels.jsonl")


def test_a_server_that_is_not_there_is_one_line(tmp_path):
    with open_journal(tmp_path / "labels.jsonl", dict(ABOUT)) as journal:
        server = Completions("http://127.0.0.1:9/v1", "tiny", Budget(), tries=2, first_wait=0.01)
        with pytest.raises(HubError, match=r"127\.0\.0\.1:9/v1/completions did not answer \(ConnectError\), 2 times"):
            asyncio.run(collect(QUESTION, ROWS, server, journal, 2))


def test_the_key_is_sent_and_never_said(tmp_path):
    run(Script(key=KEY), tmp_path / "labels.jsonl", ROWS[:1], key=KEY)
    assert KEY not in (tmp_path / "labels.jsonl").read_text()
    with pytest.raises(HubError, match=r"answered 401: .*wrong key: Bearer \*\*\*.*'--key-variable' names") as caught:
        run(Script(key="another"), tmp_path / "other.jsonl", key=KEY)
    assert KEY not in str(caught.value)


def test_a_file_of_another_model_is_not_gone_on_with(tmp_path):
    run(Script(), tmp_path / "labels.jsonl", ROWS[:1])
    with (
        pytest.raises(DataError, match=r"was begun with model 'tiny', and this is 'large'; name another file"),
        open_journal(tmp_path / "labels.jsonl", ABOUT | {"model": "large"}),
    ):
        pass


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("{text}: ", r"must have {text} once, .* and {label} once"),
        ("{label} is what {text} is", r"{label} before {text}"),
    ],
)
def test_a_prompt_without_its_places_is_refused(prompt, words):
    with pytest.raises(ParamsError, match=words):
        ClassQuestion(prompt, CLASSES)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "http://me:secret@host/v1", "ftp://host/v1"])
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(ParamsError, match=r"--url"):
        Completions(url, "tiny", Budget())


def test_retry_after_is_seconds_or_a_date():
    assert retry_after("2.5") == 2.5
    assert retry_after(None) is None
    assert retry_after("soon") is None
    assert retry_after(format_datetime(datetime.now(UTC) + timedelta(seconds=30))) == pytest.approx(30, abs=2)


def prepare(folder: Path, recipe: str, rows: int, **changes: dict) -> None:
    """Run the first two stages on few rows of a recipe's data, with other values in some blocks."""
    (folder / "data" / "raw").mkdir(parents=True)
    (folder / "env.lock").write_bytes((ROOT / "env.lock").read_bytes())
    params = read_yaml(ROOT / "recipes" / f"{recipe}.yaml")
    for name in ("source", "new"):
        params["ingest"][name] |= {"max_rows": rows}
    for block, values in changes.items():
        params[block] |= values
    (folder / "params.yaml").write_text(json.dumps(params))
    for stage in ("ingest", "preprocess"):
        done = command(folder, f"tasks.{stage}")
        assert done.returncode == 0, done.stderr


def import_what_was_collected(folder: Path, printed: str) -> dict:
    """Put the printed block into the parameters and run the stage; returns the manifest of the store."""
    params = read_yaml(folder / "params.yaml")
    params["export_soft_labels"]["source"] = json.loads(printed.split("source: ")[1])
    (folder / "params.yaml").write_text(json.dumps(params))
    done = command(folder, "tasks.launch", "export_soft_labels")
    assert done.returncode == 0, done.stderr
    return read_json(folder / "data/export_soft_labels/soft_labels/manifest.json")


def words(url: str, *more: str) -> list[str]:
    return [
        "stillhouse.exchange.collect_labels", "data/raw/labels.jsonl", "--url", url, "--model", "tiny",
        "--prompt", "data/raw/prompt.txt", "--concurrency", "2", *more,
    ]  # fmt: skip


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENAI_API_KEY": KEY, **variables}


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *words], cwd=folder, env=environment(), capture_output=True, text=True)


def test_a_killed_collection_goes_on_and_its_labels_are_imported(tmp_path):
    prepare(tmp_path, "tiny", 100, views={"min_share": 1.0})
    (tmp_path / "data/raw/prompt.txt").write_text("Text: {text}\nLanguage: {label}\n")
    path = tmp_path / "data/raw/labels.jsonl"
    script = Script(seconds=0.02, key=KEY)
    with completions_server(script) as url:
        process = subprocess.Popen([sys.executable, "-m", *words(url)], cwd=tmp_path, env=environment())
        deadline = time.monotonic() + 60
        while len(script.bodies) < 15 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
        process.wait()
        assert 0 < len(path.read_bytes().splitlines()) < 70
        done = command(tmp_path, *words(url))
    assert done.returncode == 0, done.stderr
    ids = [row["id"] for row in read(path)]
    assert len(ids) == len(set(ids))
    assert len(script.bodies) <= len(ids) + 2, "but for those that were on their way, nothing is asked twice"
    assert KEY not in done.stdout + done.stderr + path.read_text()
    manifest = import_what_was_collected(tmp_path, done.stdout)
    assert manifest["origin"]["model"] == "tiny"
    assert manifest["rows"] == len(ids)


@pytest.mark.slow
def test_the_likeliest_tokens_that_were_collected_are_imported(tmp_path):
    sampler = {"method": "topk_tail", "samples": 6, "sampling_temperature": 1.0}
    prepare(tmp_path, "tiny_lm", 12, export_soft_labels={"sampler": sampler})
    with completions_server(Script(vocab=400, spread=0.5)) as url:
        asked = ["stillhouse.exchange.collect_labels", "data/raw/labels.jsonl", "--url", url, "--model", "tiny", "--top", "5"]
        done = command(tmp_path, *asked)
    assert done.returncode == 0, done.stderr
    manifest = import_what_was_collected(tmp_path, done.stdout)
    assert manifest["form"] == "topk_tail"
    assert manifest["origin"]["model"] == "tiny"
