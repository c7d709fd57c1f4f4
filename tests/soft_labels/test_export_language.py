"""Export of sampled labels by a language model: what the bytes depend on, mixtures, the audit."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stillhouse.core.artifacts import digest_folder
from stillhouse.core.errors import ArtifactError, ParamsError
from stillhouse.data.block_batches import IGNORED, BlockCollator
from stillhouse.modalities.blocks.rows import block_task
from stillhouse.modalities.text.rows import text_task
from stillhouse.models.reading import Reading
from stillhouse.models.saved import save_model
from stillhouse.soft_labels.format.sampler import Sampler
from stillhouse.soft_labels.format.store import SoftLabels
from stillhouse.soft_labels.produce.export import Teachers
from stillhouse.soft_labels.produce.more_teachers import load_another
from stillhouse.targets.next_token.export_soft_labels import export_language as module
from stillhouse.targets.next_token.export_soft_labels.export_language import export_language, scores
from stillhouse.targets.next_token.soft_labels.token_binding import language_binding
from tests.helpers.tiny_tokenizers import write_words
from tests.training.test_language_model import ALONE, VOCAB, make_task, small_model, task  # noqa: F401

SAMPLER = Sampler("threshold", 12, 1)


def store(task, teachers, folder, batch_size=8, sampler=SAMPLER) -> SoftLabels:  # noqa: F811
    binding = language_binding(task, "weights", sampler)
    export_language(teachers, task, sampler, binding, folder, batch_size, 16, ALONE)
    return SoftLabels.open(folder)


def drawn(labels: SoftLabels) -> tuple[np.ndarray, np.ndarray]:
    """Position and id of every entry as one number, and its value."""
    entries = labels.entries(np.arange(len(labels.ids)))
    positions = np.repeat(np.arange(len(entries.offsets) - 1), np.diff(entries.offsets))
    return positions * VOCAB + entries.ids, entries.values


def probabilities(model, task) -> np.ndarray:  # noqa: F811
    """(P, V) over every position of every block, and which of them are valid."""
    batch = BlockCollator(task.train, task.facts.pad_id)(np.arange(len(task.train)))
    block_task.verify_model(model, task, ALONE)
    with torch.no_grad():
        logits = module.hidden_states(model.eval(), batch) @ model.get_output_embeddings().weight.T
    return logits.softmax(-1).numpy(), (batch.targets.flatten() != IGNORED).numpy()


def test_another_batch_size_draws_the_same_ids(task, tmp_path):  # noqa: F811
    teacher = Teachers([small_model(task).eval()], [1.0])
    one, other = (drawn(store(task, teacher, tmp_path / str(size), size))[0] for size in (8, 5))
    assert len(np.setxor1d(one, other)) <= 0.001 * len(one)
    # The measure can tell: another seed's draws are far from these.
    seeded = drawn(store(task, teacher, tmp_path / "seed", sampler=Sampler("threshold", 12, 2)))[0]
    assert len(np.setxor1d(one, seeded)) > 0.1 * len(one)


def test_the_same_export_again_gives_the_same_bytes(task, tmp_path):  # noqa: F811
    teacher = Teachers([small_model(task).eval()], [1.0])
    for name in ("one", "two"):
        store(task, teacher, tmp_path / name)
    assert digest_folder(tmp_path / "one") == digest_folder(tmp_path / "two")


@pytest.mark.parametrize("method", ["threshold", "residual"])
def test_a_mixture_is_drawn_from_the_weighted_mean_of_its_teachers(tmp_path, method):
    """Of as many draws as there are ids the expected values are those of the mixture, and of neither teacher alone."""
    short = make_task(tmp_path, 12)
    models = [small_model(short, seed=3).eval(), small_model(short, seed=4).eval()]
    for model in models:
        # Untrained teachers agree that everything is equally likely.
        model.get_output_embeddings().weight.data.mul_(60)
    (first_PV, valid_P), (second_PV, _) = (probabilities(model, short) for model in models)
    mixed_PV = 0.75 * first_PV + 0.25 * second_PV
    total = np.zeros_like(mixed_PV)
    seeds = 12
    for seed in range(seeds):
        sampler = Sampler(method, 12, seed, bases=2 if method == "residual" else 0)
        labels = store(short, Teachers(models, [0.75, 0.25]), tmp_path / str(seed), sampler=sampler)
        where, values = drawn(labels)
        decoded = np.zeros(total.size, dtype=np.float64)
        np.add.at(decoded, where, values)
        decoded = decoded.reshape(total.shape)
        if method == "residual":
            decoded[valid_P] += base_of(labels, valid_P)
        total += decoded
    mean_PV = total / seeds
    distance = [np.abs(mean_PV - wanted)[valid_P].sum(-1).mean() for wanted in (mixed_PV, first_PV, second_PV)]
    assert distance[0] < 0.5 * min(distance[1:])


def base_of(labels: SoftLabels, valid_P: np.ndarray) -> np.ndarray:
    entries = labels.entries(np.arange(len(labels.ids)))
    return labels.bases[entries.codes][valid_P]


def test_the_audit_refuses_a_store_that_its_teacher_does_not_confirm(task, tmp_path, monkeypatch):  # noqa: F811
    """A teacher that answers otherwise the second time: dropout that was left on."""
    monkeypatch.setattr(module, "FEW_IDS", 0)
    teacher = small_model(task, "gpt2").train()
    teacher.lm_head.weight.data.mul_(60)
    with pytest.raises(ArtifactError, match=r"the audit asked the teacher again and found \d+ of \d+ ids that differ"):
        store(task, Teachers([teacher], [1.0]), tmp_path / "store")
    # Its shards are whole: kept, they would fail every further try.
    assert not list((tmp_path / "store").glob("view-*"))
    store(task, Teachers([teacher.eval()], [1.0]), tmp_path / "store")


@pytest.fixture
def another(task, tmp_path):  # noqa: F811
    """A second teacher with its tokenizer beside it, and the task of that tokenizer."""
    folder = tmp_path / "another"
    save_model(small_model(task, seed=9), folder)
    return folder, replace(task, facts=replace(task.facts, identity=write_words(folder)))


def test_another_teacher_of_a_mixture_must_fit(another, tmp_path):
    folder, fitting = another
    assert not load_another(folder, block_task, fitting, 1).training
    with pytest.raises(
        ArtifactError, match=r"^the teacher .*/none of export_soft_labels\.mixture: .*/none has no config\.json; expected"
    ):
        load_another(tmp_path / "none", block_task, fitting, 1)
    with pytest.raises(
        ArtifactError, match=r"was trained with tokenizer \w{12}, data/preprocess/processor is 0{12}: its token"
    ):
        load_another(folder, block_task, replace(fitting, facts=replace(fitting.facts, identity="0" * 64)), 1)
    with pytest.raises(ParamsError, match=rf"its vocabulary has {VOCAB} entries, the tokenizer's {VOCAB + 1}"):
        load_another(folder, block_task, replace(fitting, facts=replace(fitting.facts, vocab_size=VOCAB + 1)), 1)
    with pytest.raises(ArtifactError, match=r"does not fit the config\.json beside it: 1 of the model's \d+ tensors"):
        load_another(folder, text_task, SimpleNamespace(facts=fitting.facts, folder=folder, labels=["a", "b"]), 1)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ArtifactError, match=r"of export_soft_labels\.mixture says nothing of its tokenizer"):
        load_another(folder, block_task, fitting, 1)


@pytest.mark.parametrize("bias", [False, True])
def test_logits_in_the_kept_buffer_are_those_of_the_head(bias):
    head = torch.nn.Linear(8, 40, bias=bias)
    model = SimpleNamespace(get_output_embeddings=lambda: head, reading=Reading(16))
    buffer = torch.empty(16, 40)
    with torch.no_grad():
        for size in (16, 5):
            hidden = torch.randn(size, 8)
            found = scores(hidden, model, buffer)  # pyright: ignore[reportArgumentType]
            assert found.data_ptr() == buffer.data_ptr()
            torch.testing.assert_close(found, head(hidden))
