"""What the losses on soft labels refuse, and how their settings move."""

import numpy as np
import pytest
import torch

from stillhouse.core.errors import DataError, ParamsError
from stillhouse.core.params import block, build
from stillhouse.losses.schedule import Linear, Scheduled, at, extremes
from stillhouse.losses.teacher_targets import SparseTargets, TeacherHead
from stillhouse.targets.next_token.losses.fused import fused_loss
from tests.helpers.loss_cases import P, V, inputs, sparse, teacher


def loss(targets, **settings):
    hidden, head, bias, labels = inputs()
    return fused_loss(hidden, head, bias, labels, targets, **{"weight": 0.5, **settings})


@pytest.mark.parametrize("divergence", ["reverse_kl", "jsd"])
@pytest.mark.parametrize("form", ["sampled", "topk"])
def test_divergences_that_need_the_whole_support_are_refused_on_a_part_of_it(form, divergence):
    with pytest.raises(ParamsError, match=rf"{divergence}, which needs .* form '{form}' .* export form topk_tail"):
        loss(sparse(form), divergence=divergence)


def test_reverse_kl_is_refused_where_the_student_has_tokens_of_its_own():
    with pytest.raises(ParamsError, match="31 tokens of which the teacher knows 27"):
        loss(teacher("online, smaller"), divergence="reverse_kl")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": 1.2}, "weight must lie in"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"divergence": "tv"}, "'tv', expected forward_kl, reverse_kl or jsd"),
        ({"divergence": "jsd", "beta": 1.0}, "beta must lie between 0 and 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ParamsError, match=message):
        loss(teacher("dense"), **settings)


def test_labels_of_other_positions_are_refused():
    with pytest.raises(DataError, match="soft labels of 22 positions for a batch of 23"):
        loss(sparse("sampled", P - 1))


def test_token_outside_of_the_head_is_refused_and_not_read_as_the_next_positions():
    with pytest.raises(DataError, match="the student's head has 31 rows"):
        loss(sparse("sampled", vocabulary=V + 40))


def test_hidden_states_of_another_width_are_refused():
    hidden, head, bias, labels = inputs()
    with pytest.raises(DataError, match=r"shape \(23, 6\) do not fit 23 labels and a head of shape \(31, 7\)"):
        fused_loss(hidden[:, 1:], head, bias, labels, None, weight=0.0)


OFFSETS, IDS, VALUES, TAIL = np.array([0, 2, 3]), np.array([1, 4, 2]), np.array([0.5, 0.3, 0.9]), np.array([0.2, 0.1])


def test_targets_come_from_arrays_of_a_store():
    targets = SparseTargets.from_numpy(OFFSETS, IDS.astype(np.uint32), VALUES, TAIL, "topk_tail", vocabulary=5)
    assert len(targets) == 2
    assert (targets.ids.dtype, targets.values.dtype, targets.tail.dtype) == (torch.int64, torch.float32, torch.float32)
    assert targets.to(torch.device("cpu")) is targets
    other = targets.select(torch.tensor([1, 0, 1]))
    assert other.offsets.tolist() == [0, 1, 3, 4]
    assert other.ids.tolist() == [2, 1, 4, 2]
    assert other.tail.tolist() == pytest.approx([0.1, 0.2, 0.1])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ((OFFSETS[:-1], IDS, VALUES, None, "sampled"), "offsets do not fit 3 ids"),
        ((np.array([0, 4, 3]), IDS, VALUES, None, "sampled"), "offsets fall"),
        ((OFFSETS, IDS + 1, VALUES, None, "sampled"), "ids from 2 to 5 for a vocabulary of 5"),
        ((OFFSETS, IDS, VALUES, TAIL, "sampled"), "a tail per position goes with form 'topk_tail'"),
        ((OFFSETS, IDS, VALUES, None, "topk_tail"), "a tail per position"),
        ((OFFSETS, IDS, VALUES, TAIL[:1], "topk_tail"), "a tail per position"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(arrays, message):
    with pytest.raises(DataError, match=message):
        SparseTargets.from_numpy(*arrays, vocabulary=5)


# ---- schedules ----


@block
class Settings:
    weight: Scheduled


def test_settings_are_numbers_or_lines():
    assert build(Settings, {"weight": 0.5}, "test").weight == 0.5
    line = build(Settings, {"weight": {"start": 1.0, "end": 0.2, "begin": 0.25, "finish": 0.75}}, "test").weight
    assert [round(at(line, progress), 6) for progress in (0.0, 0.25, 0.5, 0.75, 1.0)] == [1.0, 1.0, 0.6, 0.2, 0.2]
    assert extremes(line) == (0.2, 1.0)
    assert at(2, 0.7) == 2.0
    assert extremes(2.0) == (2.0, 2.0)


def test_line_that_ends_before_it_begins_is_refused():
    with pytest.raises(ParamsError, match="0 <= begin < finish <= 1"):
        build(Settings, {"weight": {"start": 1.0, "end": 0.2, "begin": 0.6, "finish": 0.5}}, "test")


def test_ends_of_a_line_are_met_exactly():
    line = Linear(start=0.1, end=0.7)
    assert (at(line, 0.0), at(line, 1.0)) == (0.1, 0.7)


def test_online_teacher_knows_how_many_positions_it_has():
    assert len(TeacherHead(torch.zeros(4, 2), torch.zeros(9, 2))) == 4
