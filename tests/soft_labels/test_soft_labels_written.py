"""How the sparse store is written: the same bytes in any order, whole shards kept after a kill, nothing left of failures."""

from dataclasses import replace

import numpy as np
import pytest

from stillhouse.core.artifacts import digest_folder
from stillhouse.core.errors import ArtifactError
from stillhouse.soft_labels.format.store import SoftLabels
from tests.helpers.label_stores import SAMPLERS, drawn, next_tokens, open_writer, write_part, write_store


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
