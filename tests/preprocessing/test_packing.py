"""Documents to blocks: nothing is lost, nothing is predicted twice, and what stands together does not see each other."""

import numpy as np
import pandas as pd
import pytest
import torch

from stillhouse.core.errors import ArtifactError, DataError
from stillhouse.data.block_batches import IGNORED, BlockCollator
from stillhouse.data.blocks import read_blocks, write_blocks
from stillhouse.modalities.blocks.preprocess.documents import drop_documents_of_other_task, split_documents
from stillhouse.modalities.blocks.rows.verification import verify
from stillhouse.modalities.blocks.table.packing import cut, pack
from stillhouse.models.build import build_language_model
from stillhouse.models.config import ModelParams
from stillhouse.models.reading import hidden_states
from stillhouse.preprocessing.splits import SplitParams
from stillhouse.runtime.distributed import Ranks

END, PAD = 1, 0
SPLIT = SplitParams(validation_share=0.2, test_share=0.2)


def documents(count: int, longest: int, seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.integers(2, 40, generator.integers(1, longest)) for _ in range(count)]


def packed(texts: list[np.ndarray], block_tokens: int):
    segments = [segment for text in texts for segment in cut(text, [END], END, block_tokens)]
    return segments, pack([len(segment) for segment in segments], block_tokens)


@pytest.fixture
def table(tmp_path):
    texts = documents(30, 40)
    segments, blocks = packed(texts, 16)
    write_blocks(tmp_path / "train.arrow", [[segments[i] for i in block] for block in blocks], 16, 40)
    return read_blocks(tmp_path / "train.arrow")


@pytest.mark.parametrize("length", [1, 14, 15, 16, 17, 31, 32, 33, 100])
def test_every_token_of_a_document_is_predicted_exactly_once(length):
    text = np.arange(2, 2 + length)
    segments = cut(text, [END], END, 16)
    assert np.concatenate([segment.tokens[1:] for segment in segments]).tolist() == [*text, END]
    # The context of each segment's first prediction is the token before it.
    assert [segment.tokens[0] for segment in segments] == [END, *(segment.tokens[-1] for segment in segments[:-1])]
    assert all(1 <= len(segment) <= 16 for segment in segments)


@pytest.mark.parametrize("seed", range(5))
def test_blocks_hold_every_segment_once_and_are_never_too_full(seed):
    segments, blocks = packed(documents(200, 50, seed), 16)
    assert sorted(index for block in blocks for index in block) == list(range(len(segments)))
    filled = [sum(len(segments[index]) for index in block) for block in blocks]
    assert max(filled) <= 16
    assert sum(filled) / (16 * len(blocks)) > 0.97


def test_packing_is_a_pure_function_of_the_lengths():
    lengths = [len(segment) for segment in packed(documents(50, 30), 16)[0]]
    assert pack(lengths, 16) == pack(list(lengths), 16)


def test_best_fit_takes_the_fullest_block_that_has_room():
    assert pack([10, 7, 5, 3, 6], 16) == [[0, 4], [1, 2, 3]]


def test_targets_follow_their_segment_and_not_its_neighbour(table):
    batch = BlockCollator(table, PAD)(np.arange(len(table)))
    for block in range(len(table)):
        start = 0
        for number in range(table.segment_offsets[block], table.segment_offsets[block + 1]):
            length = int(table.segment_lengths[number])
            inside = batch.input_ids[block, start : start + length]
            targets = batch.targets[block, start : start + length]
            assert targets[:-1].tolist() == inside[1:].tolist()
            assert int(targets[-1]) == int(table.last[number])
            assert batch.position_ids[block, start : start + length].tolist() == list(range(length))
            start += length
        assert (batch.targets[block, start:] == IGNORED).all()
    assert batch.num_used == int(table.lengths.sum()) == int((batch.targets != IGNORED).sum())


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("llama", {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}),
        ("gpt2", {"n_embd": 16, "n_layer": 2, "n_head": 2, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}),
    ],
)
def test_a_segment_in_a_block_says_what_it_says_alone(table, architecture, config):
    model = build_language_model(ModelParams(architecture=architecture, config=config), 40, PAD, END, 16, seed=1).eval()
    verify(model, table, PAD, Ranks(0, 1, 0, 1, torch.device("cpu")))
    crowded = next(i for i in range(len(table)) if np.diff(table.segment_offsets)[i] > 1)
    batch = BlockCollator(table, PAD)(np.array([crowded]))
    assert batch.mask is not None
    lengths = table.segment_lengths[table.segment_offsets[crowded] : table.segment_offsets[crowded + 1]]
    start = int(lengths[0])
    with torch.no_grad():
        together = hidden_states(model, batch)[start : start + int(lengths[1])]
        alone = model.base_model(input_ids=batch.input_ids[:, start : start + int(lengths[1])]).last_hidden_state[0]
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_blocks_of_one_segment_need_no_mask(table):
    whole = [i for i in range(len(table)) if np.diff(table.segment_offsets)[i] == 1]
    assert BlockCollator(table, PAD)(np.array(whole)).mask is None


def test_selected_blocks_keep_their_segments(table):
    chosen = np.array([3, 0])
    part = table.select(chosen)
    for new, old in enumerate(chosen):
        assert part.ids[new] == table.ids[int(old)]
        assert part.targets(new).tolist() == table.targets(int(old)).tolist()


def test_equal_blocks_have_different_ids(tmp_path):
    segment = cut(np.array([5, 6, 7]), [END], END, 16)[0]
    write_blocks(tmp_path / "twice.arrow", [[segment], [segment]], 16, 40)
    assert len(set(read_blocks(tmp_path / "twice.arrow").keys)) == 2


def test_a_file_without_blocks_is_refused_by_name(tmp_path):
    with pytest.raises(ArtifactError, match=r"train\.arrow is missing; run 'dvc repro preprocess'"):
        read_blocks(tmp_path / "train.arrow")
    (tmp_path / "train.arrow").write_bytes(b"nonsense")
    with pytest.raises(ArtifactError, match=r"train\.arrow is damaged or holds no packed blocks"):
        read_blocks(tmp_path / "train.arrow")


def corpus(texts: list[str], split: str = "") -> pd.DataFrame:
    return pd.DataFrame({"id": [f"{i:016x}" for i in range(len(texts))], "text": texts, "label": "", "split": split})


def test_new_documents_never_move_an_old_one_to_another_split():
    texts = [f"document {i}\n" for i in range(60)]
    before, _ = split_documents(corpus(texts[:40]), SPLIT, "source")
    after, _ = split_documents(corpus(texts[::-1]), SPLIT, "source")
    sides = dict(zip(after["text"], after["split"], strict=True))
    assert all(sides[text] == split for text, split in zip(before["text"], before["split"], strict=True))
    assert set(before["split"]) == {"train", "validation", "test"}


def test_documents_stay_as_they_are_and_stand_on_one_side_only():
    texts = ["def f():\n\treturn  1\n", "b\n", "c\n"]
    table = pd.concat([corpus(texts[:2], "train"), corpus([texts[2], texts[0]], "validation"), corpus(["d\n"], "test")])
    table, report = split_documents(table, SPLIT, "source")
    assert table.loc[table["split"] == "validation", "text"].tolist() == [texts[2], texts[0]]
    assert table.loc[table["split"] == "train", "text"].tolist() == ["b\n"]
    assert report.shared_between_published_splits == 1


def test_a_split_without_documents_is_refused():
    with pytest.raises(DataError, match=r"the target task has 1 document\(s\) and none of them for (train|validation)"):
        split_documents(corpus(["one long text"]), SPLIT, "new")


def test_source_documents_that_are_held_out_in_the_new_task_are_dropped():
    source, report = split_documents(corpus([f"text {i}" for i in range(50)]), SPLIT, "source")
    met = source.loc[source["split"] == "train", "text"].iloc[0]
    new = corpus([met], "test")
    assert met not in drop_documents_of_other_task(source, new, report)["text"].tolist()
    assert report.shared_with_other_task == 1
