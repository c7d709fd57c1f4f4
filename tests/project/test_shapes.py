"""Shapes in annotations are checked in tests: what does not fit is an error, and not an answer of another shape."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from stillhouse.losses.dense import forward_kl
from stillhouse.targets.classes.losses.class_losses import cross_entropy_sum
from tests.losses.test_losses import batch_of


def test_a_batch_has_one_number_of_rows():
    batch = batch_of([0, 1, 2])
    with pytest.raises(TypeCheckError, match="rows"):
        replace(batch, rows=np.arange(2))
    with pytest.raises(TypeCheckError, match="keys"):
        replace(batch, keys=np.arange(3))


def test_losses_take_labels_for_their_rows():
    with pytest.raises(TypeCheckError, match="labels_B"):
        cross_entropy_sum(torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(TypeCheckError, match="teacher_log_probs_BC"):
        forward_kl(torch.zeros(3, 2), torch.zeros(3, 4), 1.0)
