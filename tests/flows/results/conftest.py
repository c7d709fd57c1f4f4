"""A clone in which tests make runs."""

from pathlib import Path

import pytest

from tests.helpers.clone_of_runs import Clone


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path / "clone")
