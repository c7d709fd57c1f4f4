"""What rank 0 alone cannot do is said once, and not by the other rank's traceback. Two real processes under torchrun, gloo."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.distillation.test_train_student import launch, one_error_line


def test_what_rank_0_cannot_begin_is_one_line(tiny_copy):
    Path("dvc.yaml").write_text("stages: [")
    line = one_error_line(launch("train_baseline", PET_NPROC_PER_NODE="2"))
    assert "dvc.yaml is not valid YAML" in line
    assert not Path("data/.train_baseline.partial").exists()


@pytest.mark.parametrize(
    ("work", "wanted"),
    [
        pytest.param("lambda: 7", ["rank 0 has 7", "rank 1 has 7"], marks=pytest.mark.slow),
        ("refuse", ["rank 0 refused (ArtifactError: no place)", "rank 1 refused (ArtifactError: no place)"]),
        pytest.param("lambda: 1 // 0", ["[rank0]: ZeroDivisionError"], marks=pytest.mark.slow),
    ],
)
def test_every_rank_knows_what_became_of_rank_0s_work(work, wanted, tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(
        "from stillhouse.core.errors import ArtifactError, StillhouseError\n"
        "from stillhouse.runtime.distributed import join\n"
        "def refuse(): raise ArtifactError('no place')\n"
        "with join(2) as ranks:\n"
        "    try:\n"
        f"        said = f'has {{ranks.on_main({work})}}'\n"
        "    except StillhouseError as error:\n"
        "        said = f'refused ({type(error).__name__}: {error})'\n"
        "    print(f'rank {ranks.rank} {said}\\n', end='', flush=True)\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    for words in wanted:
        assert words in done.stdout + done.stderr, done.stderr
    assert "[rank1]" not in done.stderr, done.stderr
