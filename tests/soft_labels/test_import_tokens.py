"""Likeliest next tokens from elsewhere: what other tools write is read alike, and what is wrong with it is one line."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from stillhouse.core.artifacts import digest_bytes
from stillhouse.core.errors import DataError
from stillhouse.core.params import build
from stillhouse.data.views import NoViews
from stillhouse.distillation.config import DistillationParams
from stillhouse.exchange.asked_rows import asked_rows
from stillhouse.exchange.collect_labels import collect
from stillhouse.exchange.completions import Budget, Completions
from stillhouse.exchange.label_journal import open_journal
from stillhouse.exchange.row_files import write_rows
from stillhouse.exchange.server_answers import TokenQuestion
from stillhouse.exchange.write_labels import token_rows
from stillhouse.soft_labels.format.sampler import Sampler
from stillhouse.soft_labels.format.store import SoftLabels
from stillhouse.soft_labels.produce.config import ImportedTokens, SampledExport, SamplerParams
from stillhouse.soft_labels.produce.export import Teachers
from stillhouse.targets.next_token.export_soft_labels.export_language import export_language
from stillhouse.targets.next_token.export_soft_labels.import_tokens import import_labels
from stillhouse.targets.next_token.soft_labels.token_binding import language_binding
from stillhouse.targets.next_token.train import language_model
from stillhouse.targets.next_token.train_student.language_objective import student_objective
from tests.helpers.completions_server import Script, completions_server, log_probs_after
from tests.training.test_language_model import ALONE, VOCAB, make_task, one_thread, small_model, training  # noqa: F401

TOP = 8
OWN = Path("teacher")


@pytest.fixture
def task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data/raw").mkdir(parents=True)
    return make_task(tmp_path, documents=30)


def imported(task, folder=Path("imported"), method="topk_tail", samples=TOP, name="labels.jsonl", **more) -> SoftLabels:
    source = ImportedTokens(kind="import", files=name, model="a large model", date="2026-11-30", **more)
    sampler = SamplerParams(method=method, samples=samples)
    import_labels(source, task, SampledExport(batch_size=1, part_rows=8, sampler=sampler), NoViews(), 1, folder)
    return SoftLabels.open(folder)


def sequences(task) -> list[tuple[list[int], np.ndarray]]:
    """Every sequence of the task with log-probabilities (n, V) of its tokens but the first; the teacher is mostly right."""
    random = np.random.default_rng(5)
    found = []
    for row in asked_rows(task, of_classes=False):
        tokens = row["input_ids"]
        logits = random.normal(size=(len(tokens) - 1, VOCAB)) * 2
        logits[np.arange(len(logits)), tokens[1:]] += 4
        found.append((tokens, logits - np.log(np.exp(logits).sum(1, keepdims=True))))
    return found


def top(log_probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ids = np.argsort(-log_probs, axis=1)[:, :TOP]
    return ids, np.take_along_axis(log_probs, ids, 1)


def of_vllm(task) -> list[dict]:
    """vLLM names the token itself too, where it is not among the likeliest."""
    rows = []
    for tokens, log_probs in sequences(task):
        ids, values = top(log_probs)
        said = [
            {str(i): {"logprob": v, "rank": 1} for i, v in zip(*pair, strict=True)}
            for pair in zip(ids.tolist(), values.tolist(), strict=True)
        ]
        rows.append({"prompt_token_ids": tokens, "prompt_logprobs": [None, *said]})
    return rows


def of_axolotl(task) -> list[dict]:
    rows = []
    for tokens, log_probs in sequences(task):
        ids, values = top(log_probs)
        rows.append({
            "input_ids": tokens, "target_token_ids": [*ids.tolist(), [0] * TOP],
            "target_logprobs": [*values.tolist(), [-1e9] * TOP], "target_mask": [[1] * TOP] * len(ids) + [[0] * TOP],
        })  # fmt: skip
    return rows


def of_distillkit(task) -> list[dict]:
    """With one padding token behind the text, as its capture adds."""
    rows = []
    for tokens, log_probs in sequences(task):
        ids, values = top(np.concatenate([log_probs, log_probs[-1:]]))
        rows.append({"input_ids": [*tokens, 0], "token_ids": ids.tolist(), "top_values": values.tolist()})
    return rows


def write(rows, name: str = "labels.jsonl") -> None:
    Path("data/raw", name).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("form", [of_vllm, of_axolotl, of_distillkit])
def test_every_form_is_the_same_store(task, form):
    write(form(task))
    labels = imported(task)
    said = {tuple(tokens): log_probs for tokens, log_probs in sequences(task)}
    for row, name in enumerate(task.train.ids.to_pylist()):
        begin, at = int(task.train.offsets[row]), 0
        for number in range(int(task.train.segment_offsets[row]), int(task.train.segment_offsets[row + 1])):
            length = int(task.train.segment_lengths[number])
            tokens = (*task.train.tokens[begin : begin + length].tolist(), int(task.train.last[number]))
            for position in range(length):
                ids, values = labels[name][at + position]
                wanted = np.exp(said[tokens][position])
                np.testing.assert_allclose(values, wanted[ids], rtol=0.01)
                assert set(ids) == set(np.argsort(-wanted)[:TOP])
                assert labels[name].tail[at + position] == pytest.approx(1 - wanted[ids].sum(), abs=1e-4)
            begin, at = begin + length, at + length
    assert labels.binding.teacher.startswith("imported from a large model")


def test_ids_beyond_the_samplers_number_go_to_the_tail(task):
    write(of_axolotl(task))
    labels = imported(task, samples=3)
    row = labels[0]
    assert {len(row[t][0]) for t in range(int(task.train.lengths[0]))} == {3}
    np.testing.assert_allclose(row[0][1].sum() + row.tail[0], 1, atol=0.01)


@pytest.mark.parametrize("name", ["labels.jsonl", "labels.parquet"])
def test_a_student_learns_the_same_weights_from_labels_that_were_out_and_back(task, name):
    sampler = Sampler("topk_tail", TOP, 1)
    teacher = small_model(task, seed=9).eval()
    teacher.get_output_embeddings().weight.data.mul_(30)
    export_language(Teachers([teacher], [1.0]), task, sampler, language_binding(task, "t" * 64, sampler), OWN, 8, 8, ALONE)
    own = SoftLabels.open(OWN)
    write_rows(Path("data/raw", name), token_rows(own, task, distillkit=False))
    # An untrained teacher knows less than nothing of these texts, which is what imported labels are refused for.
    back = imported_untrained(task, name)
    assert {p.name: (back.folder / p.name).stat().st_size for p in OWN.glob("view-*")} == {
        p.name: p.stat().st_size for p in OWN.glob("view-*")
    }
    rows = np.arange(len(task.train))
    for mine, theirs in zip(vars(own.entries(rows)).values(), vars(back.entries(rows)).values(), strict=True):
        assert mine is theirs is None or mine.tobytes() == theirs.tobytes()
    assert weights_after_training(task, own) == weights_after_training(task, back)


def imported_untrained(task, name: str) -> SoftLabels:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stillhouse.targets.next_token.export_soft_labels.foreign_evidence.WORSE_THAN_CHANCE", 99.0)
        return imported(task, name=name)


def weights_after_training(task, store: SoftLabels) -> str:
    settings = build(DistillationParams, {"temperature": 1.0, "weight": 0.8}, "test")
    model = small_model(task, seed=4)
    objective = student_objective(
        settings, task, model, views=NoViews(), seed=1, training=training(), labels=store.folder, teacher=Path("none"),
        teacher_weights="t" * 64, teacher_task=task, ranks=ALONE,
    )  # fmt: skip
    language_model.fit(model, task, training(), NoViews(), 0, 1, ALONE, "student", loss=objective)
    return digest_bytes(b"".join(tensor.detach().numpy().tobytes() for tensor in model.state_dict().values()))


def changed(rows: list[dict], change) -> list[dict]:
    """axolotl's rows with other log-probabilities."""
    return [{**row, "target_logprobs": [change(np.array(each)).tolist() for each in row["target_logprobs"]]} for row in rows]


def renormalised(values: np.ndarray) -> np.ndarray:
    return values if values.max() < -1e6 else values - np.log(np.exp(values).sum())


def shifted(rows: list[dict], by: int) -> list[dict]:
    """Every row of ids one position later (1) or earlier (-1)."""
    names = ("target_token_ids", "target_logprobs")
    result = []
    for row in rows:
        # The last row is padding, and comes from the row beside it.
        moved = {name: [*row[name][:-1][-by:], *row[name][:-1][:-by], row[name][-1]] for name in names}
        result.append(row | moved)
    return result


def with_ids(rows: list[dict], column: str, change) -> list[dict]:
    """Rows with other ids in a column of lists, or of lists of lists."""

    def one(value):
        return [one(each) for each in value] if isinstance(value, list) else change(value)

    return [{**row, column: one(row[column])} for row in rows]


def where_known(change):
    """A change of log-probabilities, but for those of padding."""
    return lambda values: np.where(values < -1e6, values, change(values))


FAULTS = {
    "top k without mass": (lambda rows: changed(rows, renormalised), r"renormalised over the top k .* mass .* is lost"),
    "shifted later": (lambda rows: shifted(rows, 1), r"are shifted by one token: .* stood one position earlier"),
    "shifted earlier": (lambda rows: shifted(rows, -1), r"are shifted by one token: .* stood one position later"),
    "base 10": (
        lambda rows: changed(rows, where_known(lambda v: v / np.log(10))),
        r"logarithms to base 10; multiply them by 2\.302585",
    ),
    "logits": (lambda rows: changed(rows, where_known(lambda v: v + 9)), r"above 0; these are logits"),
    "probabilities": (lambda rows: changed(rows, where_known(np.exp)), r"these are probabilities"),
    "NaN": (lambda rows: changed(rows, lambda v: np.where(v > -0.5, np.nan, v)), r"of id \d+ at position \d+ is NaN"),
    "rows missing": (lambda rows: rows[2:], r"lack 2 of \d+ training rows \(first: in block [0-9a-f]{16}\)"),
    "rows doubled": (lambda rows: [*rows, rows[0]], r"the same tokens stood in .*, row 1 already"),
    "unknown rows": (
        lambda rows: [*rows, {**rows[0], "input_ids": rows[0]["input_ids"][::-1]}],
        r"have 1 rows that are not training rows",
    ),
    "ids of a larger vocabulary": (
        lambda rows: with_ids(rows, "target_token_ids", lambda i: i + 9000),
        r"id 90\d\d is outside of the vocabulary, 0 to 39: the labels are of another tokenizer",
    ),
    "tokens of another tokenizer": (
        lambda rows: with_ids(rows, "input_ids", lambda i: 39 - i),
        r"none of the \d+ rows .* has the tokens of a training row .* another tokenizer",
    ),
    "ids of another tokenizer": (
        lambda rows: with_ids(rows, "target_token_ids", lambda i: 39 - i),
        r"\d\.\d\d nats, and knowing nothing would give 3\.69: they are not of these tokens",
    ),
    "a prompt that is masked": (
        lambda rows: [{**row, "target_mask": [[0] * TOP, *row["target_mask"][1:]]} for row in rows],
        r"position 0 of \d+ has no labels \(masked, or empty\)",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_and_no_store(task, fault):
    change, words = FAULTS[fault]
    write(change(of_axolotl(task)))
    with pytest.raises(DataError, match=words) as caught:
        imported(task)
    assert "\n" not in str(caught.value)
    assert not Path("imported/manifest.json").exists()


def test_a_top_k_without_mass_may_be_taken_as_what_it_is(task):
    write(changed(of_axolotl(task), renormalised))
    assert imported(task, method="topk").form == "topk"


def test_what_a_server_said_of_every_token_is_imported(task):
    """Collected and read back: ids are those of the server's model, the token itself among them."""
    script, path = Script(vocab=VOCAB), Path("data/raw/labels.jsonl")
    rows = list(asked_rows(task, of_classes=False))
    with completions_server(script) as url, open_journal(path, {"model": "counts", "date": "2026-11-30"}) as journal:
        asyncio.run(collect(TokenQuestion(TOP), rows, Completions(url, "counts", Budget()), journal, 2))
    labels = imported(task, samples=TOP + 1)
    name, tokens = task.train.ids[0].as_py(), task.train.tokens[: task.train.offsets[1]].tolist()
    for position, before in enumerate(tokens):
        ids, values = labels[name][position]
        wanted = np.exp(log_probs_after(before, VOCAB))
        np.testing.assert_allclose(values, wanted[ids], rtol=0.01)
        assert {*np.argsort(-wanted)[:TOP].tolist(), int(task.train.targets(0)[position])} == {*ids.tolist()}


def test_columns_of_distillkit_hold_what_those_of_axolotl_hold(task):
    write(of_axolotl(task))
    labels = imported(task)
    mine, theirs = (list(token_rows(labels, task, distillkit=each)) for each in (False, True))
    assert [row["target_token_ids"][:-1] for row in mine] == [row["token_ids"] for row in theirs]
    assert [row["target_logprobs"][:-1] for row in mine] == [row["top_values"] for row in theirs]
    assert [len(row["target_mask"]) for row in mine] == [len(row["input_ids"]) for row in mine]


def test_draws_are_not_given_out_as_the_likeliest_ids(task):
    sampler = Sampler("threshold", 12, 1)
    teachers = Teachers([small_model(task).eval()], [1.0])
    export_language(teachers, task, sampler, language_binding(task, "t" * 64, sampler), OWN, 8, 8, ALONE)
    with pytest.raises(DataError, match=r"holds draws .* set 'export_soft_labels.sampler.method: topk_tail'"):
        next(token_rows(SoftLabels.open(OWN), task, distillkit=False))
