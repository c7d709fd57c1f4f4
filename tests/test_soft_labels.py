"""The sparse store: what is read is what was written, and whatever is not the student's is refused by name."""

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.numpy import load_file
from scipy.stats import norm

from stillhouse.core.artifacts import digest_folder, read_json, write_json
from stillhouse.core.errors import ArtifactError, DataError
from stillhouse.core.hashing import text_keys
from stillhouse.soft_labels.alignment import check_alignment
from stillhouse.soft_labels.bits import WIDEST, pack, unpack
from stillhouse.soft_labels.dataset import SoftLabelsDataset, collate, to_datasets
from stillhouse.soft_labels.manifest import Layout, classes_digest, mixture, suggest_part_rows
from stillhouse.soft_labels.records import HEADER, Coding, Entries, decode, encode
from stillhouse.soft_labels.sampler import Sampler
from stillhouse.soft_labels.store import SoftLabels
from stillhouse.soft_labels.values import Grid
from stillhouse.soft_labels.writer import SoftLabelsWriter
from tests.label_stores import (
    BINDING,
    POSITIONS,
    SAMPLERS,
    VOCAB,
    bases_for,
    draw_rows,
    next_tokens,
    open_writer,
    row_ids,
    teacher_logits,
    write_part,
    write_store,
)

SHARD = "view-000-part-00001.safetensors"


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> dict[str, Path]:
    """A store of each method. Shared: look, do not touch."""
    folders = {}
    for method, sampler in SAMPLERS.items():
        folders[method] = tmp_path_factory.mktemp(method) / "soft_labels"
        write_store(folders[method], sampler)
    return folders


@pytest.fixture
def copy(stores, tmp_path) -> Path:
    """A threshold store to break things in."""
    return Path(shutil.copytree(stores["threshold"], tmp_path / "copy"))


def drawn(method: str, rows: list[int]):
    """What the sampler said of rows, before the container rounded it."""
    chosen, ids = teacher_logits(23)[rows], [row_ids(23)[row] for row in rows]
    return draw_rows(chosen, ids, SAMPLERS[method], bases_for(SAMPLERS[method]), next_tokens(23)[rows] >= 0)


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
    tensors = load_file(stores["threshold"] / SHARD)
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
    monkeypatch.setattr("stillhouse.soft_labels.store.MOST_MAPS", 2)
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
    from stillhouse.soft_labels.bases import fit_bases

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


# How it is written


@pytest.mark.parametrize("method", ["threshold", "residual"])
def test_bytes_do_not_depend_on_the_batches_or_their_order(tmp_path, method):
    digests = set()
    for number, (batch, backwards) in enumerate(((1, False), (5, False), (3, True))):
        writer = open_writer(tmp_path / str(number), SAMPLERS[method])
        for part in sorted(range(5), reverse=backwards):
            write_part(writer, part, batch, backwards=backwards)
        writer.finish()
        digests.add(digest_folder(tmp_path / str(number)))
    assert len(digests) == 1


def test_whole_shards_of_a_killed_export_are_kept_and_others_are_not(tmp_path):
    writer = open_writer(tmp_path, SAMPLERS["threshold"])
    for part in (0, 1, 3):
        write_part(writer, part)
    shard = writer.path(1)
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    writer.path(3).write_bytes(writer.path(3).read_bytes()[:-1])
    (tmp_path / f".{writer.path(4).name}.partial").write_bytes(b"half")
    again = open_writer(tmp_path, SAMPLERS["threshold"])
    assert [again.done(part) for part in range(5)] == [True, False, False, False, False]
    other = open_writer(tmp_path, replace(SAMPLERS["threshold"], seed=4))
    assert not other.done(0), "another seed is another store"
    with pytest.raises(ArtifactError, match=r"shard view-000-part-00001.safetensors was not written"):
        again.finish()
    for part in range(1, 5):
        write_part(again, part)
    again.finish()
    assert SoftLabels.open(tmp_path).sparse(np.arange(23))
    assert not list(tmp_path.glob(".*"))


def test_what_an_earlier_run_with_more_rows_left_is_swept(tmp_path):
    writer = open_writer(tmp_path, SAMPLERS["threshold"], rows=33)
    write_part(writer, 6)
    (tmp_path / ".view-000-part-00005.safetensors.partial").write_bytes(b"half")
    write_store(tmp_path, SAMPLERS["threshold"])
    assert not (tmp_path / "view-000-part-00006.safetensors").exists()
    assert not list(tmp_path.glob(".*"))
    SoftLabels.open(tmp_path)


def test_a_failed_part_leaves_no_shard(tmp_path):
    writer = open_writer(tmp_path, SAMPLERS["threshold"])
    with pytest.raises(RuntimeError, match="teacher fell over"), writer.part(0):
        raise RuntimeError("the teacher fell over")
    with pytest.raises(ValueError, match="5 of 5 rows of the shard were not added"), writer.part(0):
        pass
    assert not list(tmp_path.glob("*part*"))


def test_rows_of_another_part_or_twice_are_refused(tmp_path):
    writer = open_writer(tmp_path, SAMPLERS["threshold"])
    draws = drawn("threshold", [5])
    with pytest.raises(ValueError, match=r"rows \[4\] are not rows of range\(5, 10\)"), writer.part(1) as shard:
        shard.add(np.array([4]), draws, next_tokens(23)[[5]])
    twice = np.array([5, 5])
    with pytest.raises(ValueError, match="that were not there yet"), writer.part(1) as shard:
        shard.add(twice, drawn("threshold", [5, 5]), next_tokens(23)[twice])


def test_suggested_shards_are_of_64_to_256_megabytes(tmp_path):
    for samples, vocab in ((12, 8192), (50, 2048), (50, 50257), (127, 128256)):
        sampler = Sampler(samples=samples)
        logits = torch.randn(64, 1, vocab, generator=torch.Generator().manual_seed(1)) * 2.2
        draws = draw_rows(logits, row_ids(64), sampler, None)
        coding = Coding(64, vocab, Grid.of(sampler))
        tokens = np.full((1, 64), -1)
        record = encode(coding, text_keys(["x"]), 0, Entries(draws.offsets, draws.ids, draws.values, None), tokens)[0][0]
        assert 32 < suggest_part_rows(samples, 64, vocab) * len(record) / 1e6 < 256 * 2


# What is refused, each by name


def damage(folder: Path, offset: int = -20) -> None:
    data = bytearray((folder / SHARD).read_bytes())
    data[offset] ^= 0x10
    (folder / SHARD).write_bytes(data)


def test_a_flipped_bit_is_refused(copy):
    damage(copy)
    with pytest.raises(ArtifactError, match=rf"{SHARD} does not match its checksum; 'dvc checkout --force'"):
        SoftLabels.open(copy)


def test_a_flipped_bit_in_a_shard_that_was_not_verified_is_refused_when_its_row_is_read(copy):
    damage(copy)
    labels = SoftLabels.open(copy, verify=False)
    assert labels[8]
    with pytest.raises(ArtifactError, match=r"record of row block-0009 \(number 9\) .* is damaged or belongs to another row"):
        labels.sparse(np.array([2, 9]))


def test_a_truncated_shard_is_refused_even_unverified(copy):
    (copy / SHARD).write_bytes((copy / SHARD).read_bytes()[:-7])
    with pytest.raises(ArtifactError, match=rf"{SHARD} is damaged or missing \(cut off: \d+ bytes, \d+ expected\)"):
        SoftLabels.open(copy, verify=False)


def test_a_missing_shard_is_refused_even_unverified(copy):
    (copy / SHARD).unlink()
    with pytest.raises(ArtifactError, match=rf"{SHARD} is damaged or missing \(no such file\)"):
        SoftLabels.open(copy, verify=False)


def test_a_stale_shard_of_an_earlier_run_is_refused_even_unverified(copy, tmp_path):
    write_store(tmp_path / "earlier", SAMPLERS["threshold"], binding=replace(BINDING, teacher="e" * 64))
    shutil.copyfile(tmp_path / "earlier" / SHARD, copy / SHARD)
    with pytest.raises(ArtifactError, match=rf"{SHARD} is a shard of an earlier run \(store [0-9a-f]{{12}}, this one is"):
        SoftLabels.open(copy, verify=False)


def test_a_shard_too_many_is_refused(copy):
    shutil.copyfile(copy / SHARD, copy / "view-000-part-00077.safetensors")
    with pytest.raises(ArtifactError, match="should not have, or lacks in its manifest, view-000-part-00077"):
        SoftLabels.open(copy)


def test_shards_in_each_others_place_are_refused(copy):
    (copy / SHARD).rename(copy / "x")
    (copy / "view-000-part-00002.safetensors").rename(copy / SHARD)
    (copy / "x").rename(copy / "view-000-part-00002.safetensors")
    with pytest.raises(ArtifactError, match="does not match its checksum"):
        SoftLabels.open(copy)
    with pytest.raises(ArtifactError, match=r"record of row block-0005 .* belongs to another row"):
        SoftLabels.open(copy, verify=False).sparse(np.array([5]))


def test_duplicate_rows_are_refused_before_they_are_written(tmp_path):
    layout = Layout("sampled", 3, 1, VOCAB, 5, POSITIONS, SAMPLERS["threshold"])
    with pytest.raises(DataError, match=r"rows to be exported hold row b twice \(1 duplicates in all\)"):
        SoftLabelsWriter(tmp_path, pa.array(["b", "a", "b"]), layout, BINDING)


def write_ids(folder: Path, ids: list[str], amend: bool) -> None:
    """Replace the ids of a store, and with `amend` also their digest in its manifest."""
    with pa.OSFile(str(folder / "ids.arrow"), "wb") as sink:
        batch = pa.record_batch([pa.array(ids)], names=["id"])
        with pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
    if amend:
        from stillhouse.core.artifacts import digest_file

        write_json(folder / "manifest.json", read_json(folder / "manifest.json") | {"ids": digest_file(folder / "ids.arrow")})


def test_duplicate_rows_in_a_store_are_refused(copy):
    write_ids(copy, ["block-0001", *row_ids(23)[1:]], amend=True)
    with pytest.raises(ArtifactError, match=r"hold row block-0001 twice .*; run 'dvc repro export_soft_labels'"):
        SoftLabels.open(copy, verify=False)


def test_shuffled_rows_are_refused(copy):
    write_ids(copy, row_ids(23)[::-1], amend=False)
    with pytest.raises(ArtifactError, match=r"ids.arrow does not match its checksum: rows were shuffled or replaced"):
        SoftLabels.open(copy, verify=False)
    write_ids(copy, row_ids(23)[::-1], amend=True)
    with pytest.raises(ArtifactError, match=r"manifest of .* was changed after the store was written"):
        SoftLabels.open(copy, verify=False)


@pytest.mark.parametrize(
    ("field", "other", "message"),
    [
        ("teacher", "f" * 64, "made with teacher tttttttttttt, but .* from teacher ffffffffffff; run 'dvc repro"),
        ("tokenizer", "f" * 64, "made with tokenizer kkkkkkkkkkkk, .*ffffffffffff; ids of another tokenizer mean other words"),
        ("data", "f" * 64, "made with data dddddddddddd"),
        ("packing", "blocks of 24 tokens", r"made with packing \(blocks of 12 .* \(blocks of 24 tokens\); set the block"),
        ("classes", classes_digest(["b", "a"]), r"made with classes \(\), but .*; label names count in their order"),
        ("preprocessing", "f" * 64, "made with preprocessing .* give the rows the same template"),
        ("views", "2 views", r"made with views \(1 view\), but"),
        ("vocab", 204, r"made with vocab \(203\), but .* vocab \(204\)"),
        ("sampler", "full", r"made with sampler \(threshold of 20, seed 3\), but .* \(full\)"),
        (
            "sampling_temperature",
            2.0,
            r"made with sampling_temperature \(1.0\), but .* \(2.0\); a sampled store is drawn at one",
        ),
        ("code", "x", "made with code .stillhouse-soft-labels/2, draws 1., but"),
    ],
)
def test_labels_of_something_else_are_refused_by_name(stores, field, other, message):
    labels = SoftLabels.open(stores["threshold"])
    labels.binding.require(labels.binding, labels.folder)
    labels.binding.require(replace(labels.binding, **{field: None}), labels.folder)
    with pytest.raises(ArtifactError, match=message):
        labels.binding.require(replace(labels.binding, **{field: other}), labels.folder)


def test_another_order_of_classes_is_another_digest():
    assert classes_digest(["a", "b"]) != classes_digest(["b", "a"])


def test_a_mixture_names_every_teacher_and_its_share():
    assert mixture([("a" * 64, 1.0)]) == "a" * 64
    assert mixture([("b" * 64, 0.25), ("a" * 64, 0.75)]) == mixture([("a" * 64, 0.75), ("b" * 64, 0.25)])
    assert mixture([("b" * 64, 0.25), ("a" * 64, 0.75)]) != mixture([("b" * 64, 0.75), ("a" * 64, 0.25)])


# Whether the student's tokens are the teacher's


@pytest.mark.parametrize("method", SAMPLERS)
def test_the_tokens_of_the_teacher_pass(stores, method):
    rows = np.array([4, 0, 22, 13])
    check_alignment(SoftLabels.open(stores[method]), rows, next_tokens(23)[rows])


@pytest.mark.parametrize(("shift", "words"), [(1, "1 position earlier"), (-1, "1 position later"), (2, "2 positions earlier")])
def test_labels_shifted_by_one_are_refused_and_the_shift_is_named(stores, shift, words):
    labels, rows = SoftLabels.open(stores["threshold"]), np.arange(8)
    tokens = np.roll(next_tokens(23)[rows], shift, axis=1)
    with pytest.raises(ArtifactError, match=rf"8 of 8 rows differ .*if the student's next tokens stood {words}"):
        check_alignment(labels, rows, tokens)


def test_tokens_of_other_rows_are_refused_and_named(stores):
    labels, rows = SoftLabels.open(stores["threshold"]), np.arange(6)
    with pytest.raises(ArtifactError, match=r"labels of row block-000. fit the tokens of row block-000.: rows were shuffled"):
        check_alignment(labels, rows, next_tokens(23)[np.roll(rows, 2)])


def test_tokens_of_another_tokenizer_are_refused(stores):
    labels, rows = SoftLabels.open(stores["threshold"]), np.arange(6)
    with pytest.raises(ArtifactError, match="no shift and no other row fits"):
        check_alignment(labels, rows, np.where(next_tokens(23)[rows] >= 0, (next_tokens(23)[rows] * 7 + 1) % VOCAB, -1))


def test_one_changed_token_in_one_row_is_refused(stores):
    labels, rows = SoftLabels.open(stores["threshold"]), np.arange(6)
    tokens = next_tokens(23)[rows]
    tokens[3, 5] = (tokens[3, 5] + 1) % VOCAB
    with pytest.raises(ArtifactError, match=r"1 of 6 rows differ .row block-0003"):
        check_alignment(labels, rows, tokens)


def test_blocks_of_another_length_are_refused(stores):
    with pytest.raises(ArtifactError, match="are of blocks of 12 positions, the student's rows have 24; set the block length"):
        check_alignment(SoftLabels.open(stores["threshold"]), np.arange(2), np.zeros((2, 24), dtype=np.int64))


# Forms and versions


def test_a_store_of_the_first_format_is_refused(copy):
    write_json(copy / "manifest.json", read_json(copy / "manifest.json") | {"format": "stillhouse-soft-labels/1"})
    with pytest.raises(ArtifactError, match=r"has format 'stillhouse-soft-labels/1', .* reads 'stillhouse-soft-labels/2'"):
        SoftLabels.open(copy)


@pytest.mark.parametrize("change", [{"vocab": 204}, {"rows": 22}, {"positions": 24}, {"value_bits": 5}, {"sampler": {}}])
def test_a_changed_manifest_is_refused(copy, change):
    write_json(copy / "manifest.json", read_json(copy / "manifest.json") | change)
    with pytest.raises(ArtifactError, match=r"manifest of .* (was changed|is damaged)|does not match|should not have"):
        SoftLabels.open(copy)


def test_residuals_are_refused_where_their_base_would_be_lost(stores):
    with pytest.raises(ArtifactError, match="are residuals of base distributions, which this loss does not add back"):
        SoftLabels.open(stores["residual"]).sparse(np.arange(3))


def test_a_changed_base_is_refused(stores, tmp_path):
    folder = shutil.copytree(stores["residual"], tmp_path / "copy")
    data = bytearray((folder / "bases.safetensors").read_bytes())
    data[-2] ^= 1
    (folder / "bases.safetensors").write_bytes(data)
    with pytest.raises(ArtifactError, match=r"bases.safetensors does not match its checksum"):
        SoftLabels.open(folder)


def test_dense_and_sparse_readers_refuse_each_others_stores(stores, tmp_path):
    with pytest.raises(ArtifactError, match="have form 'sampled', but the full form is asked for"):
        SoftLabels.open(stores["threshold"])(np.arange(2), np.zeros(2, dtype=np.int64))
    writer = SoftLabelsWriter(tmp_path, pa.array(row_ids(7)), Layout("full", 7, 2, 4, 3), BINDING)
    for part in range(3):
        for view in range(2):
            writer.write(part, view, np.full((len(writer.layout.rows_of_part(part)), 4), -part - view / 2))
    writer.finish()
    labels = SoftLabels.open(tmp_path)
    np.testing.assert_array_equal(labels[6], [[-2] * 4, [-2.5] * 4])
    with pytest.raises(ArtifactError, match="have form 'full', but a sampled or top-k form is asked for"):
        labels.sparse(np.arange(2))
    assert to_datasets(labels)[6]["log_probs"] == labels["block-0006"].tolist()
    assert collate(SoftLabelsDataset(labels).__getitems__([1, 6]))["log_probs"].shape == (2, 2, 4)


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
