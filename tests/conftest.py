"""Fixtures that several test files share: the real data sets, and a project folder to run light stages in."""

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stillhouse.core.params import read_yaml
from tests.helpers.shapes import check_shapes

check_shapes()

ROOT = Path(__file__).parent.parent
LONGEST = (
    "pipeline_graph", "docs", "fp16", "fp16_ranks", "distill", "promote", "new_task", "gang", "package", "prune", "inflight",
    "checkouts", "elastic", "remote", "export_soft_labels", "fp16_left_out", "pipeline", "notify", "prune_cache",
    "train_student", "runs", "data", "local", "data_given", "package_refused", "checkout_disks",
)  # fmt: skip
"""Files whose tests take longest; the third needs no finished run, which the first two make."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that at the end no process waits for another's."""
    order = {f"test_{name}": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder with the real data sets, whose README says how many rows and classes each has."""
    folder = Path(os.environ.get("STILLHOUSE_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist; STILLHOUSE_TEST_DATA names the folder with the real data sets")
    return folder


class Project:
    """A working folder with the tiny recipe as its `params.yaml`; the code is this checkout's."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.raw = folder / "data" / "raw"
        self.raw.mkdir(parents=True)
        shutil.copyfile(ROOT / "env.lock", folder / "env.lock")
        self.params = copy.deepcopy(read_yaml(ROOT / "recipes" / "tiny.yaml"))
        self.write_params()

    def write_params(self, **blocks: Any) -> None:
        """Write `params.yaml` with the named blocks in place of the recipe's."""
        # JSON is YAML too.
        (self.folder / "params.yaml").write_text(json.dumps({**self.params, **blocks}, indent=1), encoding="utf-8")

    def command(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """`python -m` with `words` in the folder, its output as text."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
        words = (sys.executable, "-m", *words)
        return subprocess.run(words, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A fresh project folder; the test's working directory."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return Project(folder)


@pytest.fixture
def datasets(project, tmp_path, monkeypatch):
    """The library, offline and with an empty cache."""
    import datasets
    import huggingface_hub

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return datasets


@pytest.fixture
def check_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[Path], tuple[int, str]]:
    """`tasks.check` of a file in this process, which has transformers already: exit code, and what stderr said."""
    from tasks.check import main

    def run(path: Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["check", str(path)])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0), capsys.readouterr().err
        return 0, capsys.readouterr().err

    return run


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A store of soft labels of each sampler. Shared: look, do not touch."""
    from tests.helpers.label_stores import SAMPLERS, write_store  # torch, which most tests do not need

    folders = {}
    for method, sampler in SAMPLERS.items():
        folders[method] = tmp_path_factory.mktemp(method) / "soft_labels"
        write_store(folders[method], sampler)
    return folders
