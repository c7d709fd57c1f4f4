"""The sparse store: what is read is what was written, alone, in any order, by any trainer."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from scipy.stats import norm

from stillhouse.core.errors import ArtifactError
from stillhouse.core.hashing import text_keys
from stillhouse.soft_labels.format.bits import WIDEST, pack, unpack
from stillhouse.soft_labels.format.dataset import SoftLabelsDataset, collate, to_datasets
from stillhouse.soft_labels.format.records import HEADER, Coding, Entries, decode, encode
from stillhouse.soft_labels.format.store import SoftLabels
from stillhouse.soft_labels.format.values import Grid
from tests.helpers.label_stores import POSITIONS, SAMPLERS, VOCAB, draw_rows, drawn, row_ids

# What is read


@pytest.mark.parametrize("method", SAMPLERS)
def test_what_is_read_is_what_was_drawn(stores, method):
    labels = SoftLabels.open(stores[method])
    rows = [22, 3, 3, 0, 17, 9]
    found, wanted = labels.entries(np.array(rows)), drawn(method, rows)
    np.testing.assert_array_equal(found.offsets, wanted.offsets)
    np.testing.assert_array_equal(found.ids, wanted.ids)
    if method in ("systematic", "multinomial"):
        np.testing.assert_array_equal(found.values, wanted.values)
    elif method in ("topk", "topk_tail"):
        np.testing.assert_allclose(found.values, wanted.values, rtol=0.008, atol=2.0**-20)
    else:
        step = 20 ** (1 / 64)
        assert (np.abs(found.values) <= np.abs(wanted.values) * step * (1 + 1e-6)).all()
        assert (np.abs(found.values) >= np.abs(wanted.values) / step * (1 - 1e-6)).all()
        assert (np.sign(found.values) == np.sign(wanted.values)).all()
    if method == "topk_tail":
        np.testing.assert_allclose(found.tail, wanted.tail, atol=1 / 65535)
    else:
        assert found.tail is None
    if method == "residual":
        np.testing.assert_array_equal(found.codes, wanted.codes)
        assert labels.bases.shape == (5, VOCAB)
        assert (found.values < 0).any()


@pytest.mark.parametrize("method", SAMPLERS)
def test_one_row_by_number_and_by_id(stores, method):
    labels = SoftLabels.open(stores[method])
    row = labels["block-0007"]
    assert len(row) == POSITIONS
    np.testing.assert_array_equal(row.ids, labels[7].ids)
    ids, values = row[2]
    found = labels.entries(np.array([7]))
    np.testing.assert_array_equal(ids, found.ids[found.offsets[2] : found.offsets[3]])
    np.testing.assert_array_equal(values, found.values[found.offsets[2] : found.offsets[3]])
    assert len(row[-1][0]) == 0, "the last position has no target"
    assert list(labels) == row_ids(23)
    assert len(labels) == 23
    with pytest.raises(KeyError, match="block-9999"):
        labels["block-9999"]
    with pytest.raises(IndexError, match="out of range"):
        labels[23]


def test_rows_in_any_order_and_number_decode_as_alone(stores):
    labels = SoftLabels.open(stores["threshold"])
    random = np.random.default_rng(1)
    for size in (1, 2, 5, 40):
        rows = random.integers(0, 23, size)
        offsets, ids, values, tail = labels.sparse(rows)
        np.testing.assert_array_equal(ids, np.concatenate([labels[int(row)].ids for row in rows]))
        np.testing.assert_array_equal(values, np.concatenate([labels[int(row)].values for row in rows]))
        assert offsets[-1] == len(ids)
        assert tail is None
    offsets, ids, values, tail = labels.sparse(np.array([], dtype=np.int64))
    assert (len(offsets), len(ids), len(values)) == (1, 0, 0)


def test_records_with_other_widths_of_low_bits_stand_in_the_order_of_their_rows():
    """Rows from nearly empty to nearly full, so that hardly two share a width; round trip against a dense table."""
    random = np.random.default_rng(0)
    for trial in range(60):
        positions, vocab, rows = (int(n) for n in random.integers(1, (20, 5000, 9)))
        grid = Grid.of(SAMPLERS[list(SAMPLERS)[trial % len(SAMPLERS)]])
        coding = Coding(positions, vocab, grid, 3 if grid.method == "residual" else 0)
        density = random.choice([0, 1e-4, 0.003, 0.05, 0.5, 1], rows)
        taken = random.random((rows, positions, vocab)) < density[:, None, None]
        ids = np.nonzero(taken)[2].astype(np.int32)
        signs = random.choice([-1, 1], len(ids)) if coding.signed else 1
        if grid.flagged:
            steps = np.concatenate([[grid.unit], grid.table])
            values = random.choice(steps[: max(1, grid.samples)], len(ids)).astype(np.float32)
        else:
            values = random.choice(grid.table, len(ids))
        tail = (random.integers(0, 65536, rows * positions) / np.float32(65535)).astype(np.float32)
        entries = Entries(
            offsets=np.concatenate([[0], taken.sum(2).reshape(-1).cumsum()]),
            ids=ids,
            values=(values * signs).astype(np.float32),
            tail=tail if coding.has_tail else None,
            codes=random.integers(0, 8, rows * positions) if coding.signed else None,
        )
        keys = random.integers(0, 2**63, rows).astype(np.uint64)
        records, _ = encode(coding, keys, 1, entries, np.full((rows, positions), -1))
        found = decode(coding, records)
        for name in ("offsets", "ids", "values", "tail", "codes"):
            wanted = getattr(entries, name)
            if wanted is None:
                assert getattr(found, name) is None
            else:
                np.testing.assert_array_equal(getattr(found, name), wanted, err_msg=f"trial {trial}: {name}")


def test_a_record_that_contradicts_its_header_is_refused():
    """What a checksum cannot see: a writer that was wrong."""
    draws, coding = drawn("threshold", [0]), Coding(POSITIONS, VOCAB, Grid.of(SAMPLERS["threshold"]))
    entries = Entries(draws.offsets, draws.ids, draws.values, None)
    record = encode(coding, text_keys(["x"]), 0, entries, np.full((1, POSITIONS), -1))[0][0]
    with pytest.raises(ArtifactError, match="record's length is not what its header says"):
        decode(coding, [record[:-1]])
    other = record.copy()
    low, high = coding.sections(record[: HEADER.itemsize].view(HEADER))[0, :2]
    other[12 + low : 12 + low + high] = 0
    with pytest.raises(ArtifactError, match="holds another number of entries than its header says"):
        decode(coding, [record, other])


@pytest.mark.parametrize("width", range(WIDEST + 1))
def test_fields_of_every_width_come_back(width):
    random = np.random.default_rng(width)
    for count in (0, 1, 7, 8, 9, 100):
        values = random.integers(0, 2**width, count)
        packed = pack(values, width)
        assert len(packed) == -(-count // 8) * width
        np.testing.assert_array_equal(unpack(packed, width)[:count], values if width else values[:0])


def test_the_safetensors_library_opens_a_shard(stores):
    tensors = load_file(stores["threshold"] / "view-000-part-00001.safetensors")
    assert {name: str(tensor.dtype) for name, tensor in tensors.items()} == {
        "offsets": "uint64",
        "hits": "float32",
        "checksums": "uint32",
        "records": "uint8",
    }
    assert tensors["offsets"][-1] == len(tensors["records"])


def test_reading_maps_and_does_not_copy(stores):
    labels = SoftLabels.open(stores["threshold"])
    records = labels._shard(0, 1)["records"]
    assert not records.flags.owndata
    assert not records.flags.writeable


def test_shards_beyond_the_most_maps_are_mapped_again(stores, monkeypatch):
    monkeypatch.setattr("stillhouse.soft_labels.format.store.MOST_MAPS", 2)
    labels = SoftLabels.open(stores["threshold"])
    wanted = SoftLabels.open(stores["threshold"]).sparse(np.arange(23))
    np.testing.assert_array_equal(np.concatenate([labels[row].ids for row in range(23)]), wanted[1])
    assert len(labels._maps) <= 2


@pytest.mark.parametrize("method", ["threshold", "residual"])
def test_stored_values_are_unbiased_over_rows(method):
    """Rounding to the grid included: the mean over many rows with one teacher distribution (false alarms: 1e-6)."""
    sampler = replace(SAMPLERS[method], samples=15)
    logits = torch.randn(40, generator=torch.Generator().manual_seed(4)) * 2
    wanted = torch.softmax(logits.double(), -1).numpy()
    times = 400
    ids = row_ids(times)
    from stillhouse.soft_labels.produce.bases import fit_bases

    bases = fit_bases(torch.softmax(torch.randn(30, 40), -1), sampler) if sampler.bases else None
    draws = draw_rows(logits.expand(times, 25, -1).contiguous(), ids, sampler, bases)
    coding = Coding(25, 40, Grid.of(sampler), 3 if bases else 0)
    entries = Entries(draws.offsets, draws.ids, draws.values, draws.tail, draws.codes)
    found = decode(coding, encode(coding, text_keys(ids), sampler.seed, entries, np.zeros((times, 25), dtype=np.int64))[0])
    targets = np.zeros((times * 25, 40))
    np.add.at(targets, (np.repeat(np.arange(times * 25), np.diff(found.offsets)), found.ids), found.values)
    if bases is not None:
        targets += bases.values_KV.astype(np.float64)[found.codes]
    assert not np.array_equal(found.values, draws.values), "rounding must have had something to do"
    often = wanted * 15 > 0.02
    z = (targets.mean(0) - wanted)[often] / (targets.std(0, ddof=1)[often] / np.sqrt(len(targets)))
    assert np.abs(z).max() < norm.isf(1e-6 / 2 / 40 / 2)


# For other trainers


@pytest.mark.parametrize("method", SAMPLERS)
def test_a_torch_loader_reads_what_the_store_says(stores, method):
    labels = SoftLabels.open(stores[method])
    loader = torch.utils.data.DataLoader(SoftLabelsDataset(labels), batch_size=4, collate_fn=collate)
    batches = list(loader)
    wanted = labels.entries(np.arange(4, 8))
    for name in ("offsets", "ids", "values", "tail", "codes"):
        if getattr(wanted, name) is not None:
            np.testing.assert_array_equal(batches[1][name].numpy(), getattr(wanted, name))
    assert batches[1]["id"] == row_ids(23)[4:8]
    assert sum(len(batch["id"]) for batch in batches) == 23


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("method", ["threshold", "topk_tail", "residual"])
def test_hugging_face_datasets_read_what_the_store_says(stores, method, streaming):
    labels = SoftLabels.open(stores[method])
    rows = list(to_datasets(labels, streaming=streaming))
    assert [row["id"] for row in rows] == row_ids(23)
    wanted = labels[11]
    for position in range(POSITIONS):
        ids, values = wanted[position]
        assert rows[11]["ids"][position] == ids.tolist()
        assert rows[11]["values"][position] == values.tolist()
    if method == "topk_tail":
        assert rows[11]["tail"] == wanted.tail.tolist()
    if method == "residual":
        assert rows[11]["codes"] == wanted.codes.tolist()


def test_a_store_travels_to_a_worker_as_its_path(stores):
    labels = pickle.loads(pickle.dumps(SoftLabels.open(stores["threshold"])))
    assert labels[3].ids.tolist() == SoftLabels.open(stores["threshold"])[3].ids.tolist()


def test_the_manifest_carries_no_clock_host_or_path(stores):
    text = (stores["threshold"] / "manifest.json").read_text()
    assert str(stores["threshold"]) not in text
    assert set(json.loads(text)) == {
        *("format", "form", "rows", "views", "vocab", "part_rows", "positions", "sampler", "value_bits", "bases"),
        *("binding", "store", "ids", "shards"),
    }
