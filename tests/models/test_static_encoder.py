"""The weighted mean of token vectors, and vectors that begin as what a teacher makes of each token."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from stillhouse.core.errors import ParamsError
from stillhouse.core.params import build
from stillhouse.data.tokenizer import TokenizerParams, describe_tokenizer, load_tokenizer, save_trained, train_bpe
from stillhouse.gate.trial import ALONE
from stillhouse.modalities.text.rows.teacher_vectors import RARE, principal_components, start_from_teacher, texts_of_tokens
from stillhouse.modalities.text.rows.text_task import TextTask
from stillhouse.modalities.text.table.tokens import table_of_rows
from stillhouse.models.build import build_model
from stillhouse.models.config import ModelParams
from tests.helpers.sentence_folders import write_sentence_model
from tests.helpers.tiny_tokenizers import write_words

LABELS = ["a", "b", "c"]
TEXTS = ["word1 word2 word3", "word3 word4", "word3 word5 word3"] * 3


def static(size: int = 16, vocab_size: int = 40, **config) -> PreTrainedModel:
    params = ModelParams(architecture="static_encoder", config={"hidden_size": size, "num_hidden_layers": 0, **config})
    return build_model(params, vocab_size, 0, LABELS, seed=3)


def test_a_text_is_the_weighted_mean_of_its_tokens_whatever_their_order():
    model = static().eval()
    assert (model.embeddings.importance.weight == 0).all()
    ids, mask = torch.tensor([[5, 6, 7, 0], [7, 5, 6, 0]]), torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0]])
    vectors = model.get_input_embeddings().weight
    torch.testing.assert_close(model.embed(ids, mask)[0], vectors[5:8].mean(0))
    torch.testing.assert_close(model.embed(ids, mask)[0], model.embed(ids, mask)[1])
    with torch.no_grad():
        model.embeddings.importance.weight[6] = float(np.log(2))
    torch.testing.assert_close(model.embed(ids, mask)[0], (vectors[5] + 2 * vectors[6] + vectors[7]) / 4)


def pair(folder: Path) -> tuple[TextTask, TextTask, PreTrainedModel]:
    """The rows by the student's own tokenizer, the same by the teacher's, and the teacher."""
    write_sentence_model(folder / "st")
    tasks = []
    for name, first in (("student", "another"), ("teacher", "a")):
        place = folder / name / "processor"
        write_words(place, 40, first)
        facts = describe_tokenizer(place)
        rows = [encoding.ids for encoding in load_tokenizer(place).encode_batch(TEXTS, add_special_tokens=False)]
        tokens = table_of_rows(rows, np.arange(len(rows)) % 3, room=9)
        tasks.append(TextTask(tokens, tokens, LABELS, facts, "", folder=folder / name / "source"))
    params = build(ModelParams, {"pretrained": str(folder / "st")}, "model")
    return tasks[0], tasks[1], build_model(params, 40, 0, LABELS, seed=3)


def test_vectors_begin_as_components_of_what_the_teacher_makes_of_each_token(tmp_path):
    task, teacher_task, teacher = pair(tmp_path)
    student = static(vocab_size=task.facts.vocab_size)
    random = student.get_input_embeddings().weight.detach().clone()
    start_from_teacher(student, task, teacher, teacher_task, ALONE)
    vectors = student.get_input_embeddings().weight.detach()
    tokenizer = load_tokenizer(tmp_path / "student" / "processor")
    token = tokenizer.token_to_id("word3")
    assert vectors[task.facts.pad_id].tolist() == random[task.facts.pad_id].tolist()
    assert vectors.std() == pytest.approx(float(random.std()), rel=0.05)
    # As far from each other as the teacher's, up to what the left out components hold: all 32 would keep every distance.
    words = [tokenizer.token_to_id(f"word{number}") for number in (2, 3, 4, 5)]
    read = load_tokenizer(tmp_path / "teacher" / "processor").encode_batch([f"word{number}" for number in (2, 3, 4, 5)])
    with torch.no_grad():
        theirs = teacher.embed(torch.tensor([each.ids for each in read]))
    ours, theirs = (torch.cdist(each, each).flatten() for each in (vectors[torch.tensor(words)], theirs))
    assert np.corrcoef(ours.numpy(), theirs.numpy())[0, 1] > 0.9
    share = float((task.train.tokens == token).mean())
    weight = float(student.embeddings.importance.weight.detach()[token, 0])
    assert weight == pytest.approx(np.log(RARE / (RARE + share)), rel=1e-4)
    again = static(vocab_size=task.facts.vocab_size)
    start_from_teacher(again, task, teacher, teacher_task, ALONE)
    assert torch.equal(again.get_input_embeddings().weight, student.get_input_embeddings().weight)


def test_vectors_longer_than_the_teachers_states_are_refused(tmp_path):
    task, teacher_task, teacher = pair(tmp_path)
    with pytest.raises(ParamsError, match=r"vectors have 64 numbers and the teacher's states 32; lower student\.model\.config"):
        start_from_teacher(static(64, task.facts.vocab_size), task, teacher, teacher_task, ALONE)


def test_tokens_are_read_as_the_texts_that_they_stand_for(tmp_path):
    save_trained(train_bpe(TEXTS, TokenizerParams(vocab_size=300)), tmp_path)
    task = replace(pair(tmp_path / "pair")[0], facts=describe_tokenizer(tmp_path))
    texts = texts_of_tokens(load_tokenizer(tmp_path), task)
    assert {"word", "w", "3"} <= set(texts)
    assert texts[task.facts.pad_id] == ""
    assert not any("\ufffd" in text or text != text.strip() for text in texts)


def test_components_are_those_of_the_weighted_states():
    generator = np.random.default_rng(1)
    states, weights = generator.normal(size=(50, 6)), generator.integers(1, 9, 50).astype(float)
    found = principal_components(states, weights, 6)
    repeated = np.repeat(found, weights.astype(int), axis=0)
    np.testing.assert_allclose(repeated.mean(0), 0, atol=1e-12)
    covariance = repeated.T @ repeated
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-9)
    assert (np.diff(np.diag(covariance)) < 0).all()
    np.testing.assert_allclose(np.linalg.norm(found[0] - found[1]), np.linalg.norm(states[0] - states[1]))
