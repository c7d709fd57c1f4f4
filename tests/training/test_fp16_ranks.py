"""float16 on two ranks: they learn as one, and leave the same steps out."""

import json

import numpy as np
import pytest

from stillhouse.training.checkpoint.storage import MANIFEST
from stillhouse.training.parallel.loss_scaler import LossScaler
from tests.helpers.half_precision import HIGH
from tests.helpers.parallel_ranks import run_case
from tests.helpers.small_trainings import ALONE, one_thread  # noqa: F401
from tests.training.test_parallel import agree, spread

WAYS = {
    "ddp": ("classifier", {}),
    "fsdp": ("classifier", {"parallel": {"sharding": "fsdp"}}),
    "fsdp of a decoder, accumulated": ("llama", {"parallel": {"sharding": "fsdp"}, "micro_batch_size": 2}),
    "tensor": ("llama", {"parallel": {"tensor": 2}}),
    "pipeline": ("llama", {"parallel": {"pipeline": 2}, "micro_batch_size": 4}),
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> dict[str, list[dict]]:
    """fp16 on two ranks, with the usual scale and with one that overflows at first."""
    cases = [
        {"kind": kind, "params": {"precision": "fp16", **way}, "loss_scale": scale}
        for kind, way in WAYS.values()
        for scale in (LossScaler.initial, 2.0**40)
    ]
    found = spread(tmp_path_factory.mktemp("pair"), 2, cases)
    return dict(zip(WAYS, zip(found[::2], found[1::2], strict=True), strict=True))


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.slow
def test_two_ranks_learn_as_one(name, pair):
    agree(pair[name][0], run_case({"kind": WAYS[name][0], "params": {"precision": "fp16"}}, ALONE), 2e-3)
    assert pair[name][0]["left_out"] == [0, 0]


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.slow
def test_two_ranks_leave_the_same_steps_out(name, pair):
    """Where ranks have parts of the gradient, one of them may see nothing infinite."""
    found = pair[name][1]
    assert "error" not in found, found
    one, other = found["left_out"]
    assert one == other > 5
    assert np.isfinite(found["train"]).all()


@pytest.mark.slow
def test_another_number_of_ranks_goes_on_with_the_same_scale(tmp_path):
    case = {"kind": "classifier", "params": {"precision": "fp16"}, "loss_scale": HIGH, "state": str(tmp_path)}
    spread(tmp_path, 2, [case | {"stop": 20}])
    values = json.loads((tmp_path / "test" / "step-00000018" / MANIFEST).read_text())["values"]
    before = values["history"]["overflowed"]
    assert before > 3
    assert values["scaler"]["scale"] == HIGH / 2**before
    assert values["scaler"]["good_steps"] == 18 - before
    # One rank has all rows in one sum, which overflows a little earlier.
    assert before <= run_case(case, ALONE)["left_out"][0] <= before + 1
