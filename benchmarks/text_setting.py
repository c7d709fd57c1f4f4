"""What the benchmarks of text classifiers on real data share: a folder with tokenised tasks, scores, intervals, a table.

Shapes: S seeds, N test rows, C classes.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from flows.repository.workspace import CommandError, environment, repository_root
from stillhouse.core.artifacts import DATA, TIMING
from stillhouse.core.errors import ArtifactError

RESULTS = Path("docs/results.md")


def test_data() -> Path:
    """The folder with the real texts. Raises ArtifactError."""
    folder = Path(os.environ.get("STILLHOUSE_TEST_DATA", repository_root().parent / "shared" / "data")) / "text"
    if not folder.is_dir():
        raise ArtifactError(f"{folder} does not exist; STILLHOUSE_TEST_DATA names the folder with the real data sets")
    return folder


def recipe(name: str, threads: int) -> dict[str, Any]:
    params = YAML(typ="safe").load((repository_root() / "recipes" / f"{name}.yaml").read_text(encoding="utf-8"))
    return params | {"threads": threads}


@contextmanager
def place(folder: Path | None) -> Iterator[Path]:
    """A folder to work in: the given one, which is kept, or one that goes."""
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)


def run_stages(folder: Path, params: dict[str, Any], raw: list[Path], stages: list[str]) -> None:
    """Run stages on copies of `raw` in `folder`, those that have not been run there. Raises CommandError."""
    root = repository_root()
    (folder / "data" / "raw").mkdir(parents=True, exist_ok=True)
    for path in raw:
        shutil.copyfile(path, folder / "data" / "raw" / f"{path.parent.name}_{path.name}")
    (folder / "params.yaml").write_text(json.dumps(params))
    (folder / "env.lock").write_bytes((root / "env.lock").read_bytes())
    for stage in stages:
        if not (folder / DATA / stage.split()[-1] / TIMING).exists():
            words = [sys.executable, "-m", *f"tasks.{stage}".split()]
            env = {**environment(root), "OMP_NUM_THREADS": str(params["threads"])}
            if subprocess.run(words, cwd=folder, env=env, stdout=sys.stderr).returncode:
                raise CommandError(f"'{' '.join(words[1:])}' failed in {folder}; the reason stands above")


def predictions(path: Path, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """Predicted classes (N,) as an earlier start left them, or computed now."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, compute())
    return np.load(path)


def paired_interval(
    ours_SN: np.ndarray, theirs_SN: np.ndarray, score: Callable[[np.ndarray, np.ndarray], float], samples: int
) -> tuple[float, float]:
    """95 % interval of the mean difference in `score(predicted (N,), rows (N,))`, by bootstrap over rows and seeds together."""
    generator = np.random.default_rng(0)
    seeds, size = ours_SN.shape
    differences = []
    for _ in range(samples):
        rows = generator.integers(0, size, size)
        chosen = generator.integers(0, seeds, seeds)
        differences.append(np.mean([score(ours_SN[s], rows) - score(theirs_SN[s], rows) for s in chosen]))
    low, high = np.quantile(differences, [0.025, 0.975])
    return float(low), float(high)


def write_section(title: str, lines: list[str]) -> None:
    """Put `lines` under `## title` of the page of results, in place of what stood there."""
    page = repository_root() / RESULTS
    parts = page.read_text(encoding="utf-8").split("\n## ")
    kept = [part for part in parts if not part.startswith(f"{title}\n")]
    section = "\n".join([title, "", *lines, ""])
    page.write_text("\n## ".join([*(part.rstrip("\n") + "\n" for part in kept), section]), encoding="utf-8")
