"""Publishing a stage's outputs: one writer at a time, nothing half-written, and a disk that refuses is one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stillhouse.core.artifacts import published
from stillhouse.core.errors import ArtifactError, StorageError

WRITER = """
import sys, time
from pathlib import Path
from stillhouse.core.artifacts import published
with published(Path("data/stage")) as out:
    (out / "theirs").write_text("x")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_refused_and_a_killed_one_leaves_the_place_free(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("stillhouse.core.artifacts.DYING_SECONDS", 0.3)
    folder = Path("data/stage")
    root = str(Path(__file__).parents[2])
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": root}, text=True
    )
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        refused = r"^another process is writing data/stage; wait until it has ended, and repeat$"
        with pytest.raises(ArtifactError, match=refused), published(folder):
            pass
        assert Path("data/.stage.partial/theirs").is_file()
    finally:
        writer.kill()
        writer.communicate()
    with published(folder) as out:
        assert list(out.iterdir()) == []
        (out / "mine").touch()
    assert [path.name for path in Path("data").rglob("*")] == ["stage", "mine"]


def test_what_is_published_can_be_published_again_at_once(tmp_path):
    for number in range(3):
        with published(tmp_path / "stage") as out:
            (out / str(number)).touch()
        assert [path.name for path in (tmp_path / "stage").iterdir()] == [str(number)]


def test_a_failed_block_leaves_what_was_there(tmp_path):
    def fail(out: Path) -> None:
        (out / "bad").touch()
        raise ValueError("no")

    with published(tmp_path / "stage") as out:
        (out / "good").touch()
    with pytest.raises(ValueError, match="no"), published(tmp_path / "stage") as out:
        fail(out)
    assert [path.name for path in tmp_path.rglob("*")] == ["stage", "good"]


def test_a_file_in_place_of_a_folder_is_one_line(tmp_path):
    (tmp_path / "data").write_text("a file")
    message = "a file stands where a folder should be while writing"
    with pytest.raises(StorageError, match=message), published(tmp_path / "data" / "stage"):
        pass


NOBODY = """
import os
from pathlib import Path
from stillhouse.core.artifacts import published
os.geteuid() == 0 and os.seteuid(65534)
with published(Path("/stillhouse-test/stage")):
    pass
"""


def test_a_folder_of_somebody_else_is_one_line():
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", NOBODY], cwd=root, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("stillhouse.core.errors.StorageError: permission was denied while writing /stillhouse-test/"), last
    assert "give this user the right to it" in last
