"""What is not the student's store of soft labels is refused by name, before the first step."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from stillhouse.core.artifacts import digest_file, read_json, write_json
from stillhouse.core.errors import ArtifactError, DataError
from stillhouse.soft_labels.format.dataset import SoftLabelsDataset, collate, to_datasets
from stillhouse.soft_labels.format.manifest import Layout, classes_digest, mixture
from stillhouse.soft_labels.format.store import SoftLabels
from stillhouse.soft_labels.format.writer import SoftLabelsWriter
from stillhouse.targets.next_token.train_student.alignment import check_alignment
from tests.helpers.label_stores import BINDING, POSITIONS, SAMPLERS, VOCAB, next_tokens, row_ids, write_store

SHARD = "view-000-part-00001.safetensors"


@pytest.fixture
def copy(stores, tmp_path) -> Path:
    """A threshold store to break things in."""
    return Path(shutil.copytree(stores["threshold"], tmp_path / "copy"))


# Damage, and rows or shards of something else


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
        ("code", "x", "made with code .stillhouse-soft-labels/2, draws 2., but"),
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


@pytest.mark.parametrize("lacking", ["ids", "bases", "shards", "binding", "sampler"])
@pytest.mark.parametrize("value", [None, [], "x"])
def test_a_manifest_with_holes_is_refused_in_one_line(copy, lacking, value):
    write_json(copy / "manifest.json", read_json(copy / "manifest.json") | {lacking: value})
    with pytest.raises(ArtifactError):
        SoftLabels.open(copy)
    manifest = read_json(copy / "manifest.json")
    del manifest[lacking]
    write_json(copy / "manifest.json", manifest)
    with pytest.raises(ArtifactError):
        SoftLabels.open(copy)


def test_what_is_no_store_at_all_is_refused_in_one_line(copy, tmp_path):
    write_json(copy / "manifest.json", [])
    with pytest.raises(ArtifactError, match="holds no soft labels, or its manifest is damaged"):
        SoftLabels.open(copy)
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="holds no soft labels, or its manifest is damaged"):
        SoftLabels.open(tmp_path / "file")


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
