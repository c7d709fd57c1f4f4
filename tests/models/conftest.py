"""A small task of a language model, of which several test files ask something."""

import pytest

from tests.helpers.small_decoders import lm_task


@pytest.fixture
def task(tmp_path):
    """Blocks of 16 positions, most of them with several documents."""
    return lm_task(tmp_path)
