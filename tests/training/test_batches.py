"""Batches are a function of the step: each row once an epoch, none short, little padding."""

import numpy as np
import torch

from stillhouse.data.batches import BatchPlan
from stillhouse.modalities.text.rows.text_batches import Collator
from tests.helpers.small_trainings import FACTS, VIEWS, one_thread, small_model, table  # noqa: F401


def test_every_row_is_seen_once_an_epoch_and_the_order_is_a_function_of_the_step():
    rows = table(96)
    plan = BatchPlan(rows, 16, seed=1, bucket_batches=3, num_views=None)
    epoch = np.concatenate([plan(step)[0] for step in range(6)])
    assert sorted(epoch) == list(range(96))
    fresh = BatchPlan(rows, 16, seed=1, bucket_batches=3, num_views=None)
    for step in (11, 2, 7):  # backwards and forwards
        for ours, theirs in zip(fresh(step), plan(step), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_no_batch_is_short_where_an_epoch_ends():
    plan = BatchPlan(table(50), 16, seed=1, bucket_batches=2, num_views=2)
    seen = np.zeros((50, 2), dtype=int)
    for step in range(100):  # 1600 rows are 32 epochs, 16 of each view
        rows, views = plan(step)
        assert len(rows) == 16
        np.add.at(seen, (rows, views), 1)
    assert (seen == 16).all()


def test_bucketing_lowers_padding():
    rows = table(96)

    def padding(buckets: int) -> float:
        plan, collate = BatchPlan(rows, 16, 1, buckets), Collator(rows, FACTS, VIEWS, 1)
        batches = [collate(*plan(step)) for step in range(6)]
        return 1 - sum(b.num_used for b in batches) / sum(b.inputs["input_ids"].numel() for b in batches)

    assert padding(6) < 0.7 * padding(1)


def test_padding_does_not_change_what_a_row_says():
    rows, model = table(), small_model().eval()
    collate = Collator(rows, FACTS, VIEWS, 1)
    longest, shortest = int(rows.lengths.argmax()), int(rows.lengths.argmin())
    together = collate(np.array([longest, shortest]), np.array([-1, -1]))
    alone = collate(np.array([shortest]), np.array([-1]))
    logits = [model(**b.inputs).logits for b in (together, alone)]
    torch.testing.assert_close(logits[0][1], logits[1][0], rtol=1e-5, atol=1e-6)
