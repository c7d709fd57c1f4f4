"""A real full disk: `data/` on a file system of a few kilobytes."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stillhouse.core.artifacts import digest_folder
from tests.distillation.test_train_student import launch, one_error_line
from tests.helpers.tiny_run import shell


@pytest.fixture
def small_disk(tiny_copy: Path) -> Iterator[Path]:
    """`data/` of the copy moved to a tmpfs with 40 kB to spare."""
    data = tiny_copy / "data"
    kept = tiny_copy / "kept"
    data.rename(kept)
    data.mkdir()
    used = int(subprocess.run(["du", "-sk", str(kept)], capture_output=True, text=True, check=True).stdout.split()[0])
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={used + 40}k", "tmpfs", str(data)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a tmpfs cannot be mounted here: that takes root")
    try:
        subprocess.run(["cp", "-a", f"{kept}/.", str(data)], check=True)
        yield data
    finally:
        subprocess.run(["umount", "-l", str(data)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_the_last_good_outputs(small_disk, tiny_copy):
    before = {stage: digest_folder(small_disk / stage) for stage in ("ingest", "train_teacher")}
    disk = os.statvfs(small_disk)
    (small_disk / "filler").write_bytes(b"x" * ((disk.f_bavail - 1) * disk.f_bsize))
    line = one_error_line(shell("python", "-m", "tasks.ingest", folder=tiny_copy, check=False))
    assert "error: ingest: the disk is full while writing data/ingest" in line
    assert "nothing was published" in line
    line = one_error_line(launch("train_teacher"))
    assert "error: train_teacher: the disk is full while writing data/train_teacher" in line
    assert {stage: digest_folder(small_disk / stage) for stage in before} == before
    assert not list(small_disk.glob(".*.partial"))
