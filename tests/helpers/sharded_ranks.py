"""A sharded model's state, written by two ranks under torchrun: `python -m tests.helpers.sharded_ranks FOLDER`.

The step is one of plain torch, because the loop does not shard yet; what is tried is that the checkpoint takes sharded tensors,
and gives them to one process that holds them whole, and back.
"""

import os
import sys
from pathlib import Path

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.elastic.multiprocessing.errors import record
from torch.distributed.fsdp import fully_shard

from stillhouse.runtime.distributed import Ranks, join
from stillhouse.training.checkpoint.state import TrainState
from stillhouse.training.checkpoint.storage import Checkpoints, step_name
from stillhouse.training.optim.optimizers import build_optimizer
from stillhouse.training.optim.schedules import Schedule
from tests.helpers.resuming import often
from tests.helpers.small_trainings import small_model


def state_of(model: nn.Module) -> TrainState:
    params = often(ema_decay=0.5)
    optimizer = build_optimizer(model, params.optimizer)
    return TrainState(model, optimizer, Schedule(params.schedule, params.steps), params, 3)


def take_steps(state: TrainState, count: int) -> None:
    """The same steps on every rank, so that sharding changes nothing."""
    for number in range(count):
        torch.manual_seed(number)
        ids = torch.randint(1, 39, (4, 6))
        state.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.square().sum().backward()
        state.optimizer.step()
        state.average.update()
        state.optimizer.zero_grad()
        state.step += 1
    scores = {"loss": 1.0, "accuracy": 0.0, "macro_f1": 0.0}
    state.best.offer(scores, state.step, state.model)


def go_on(folder: Path, ranks: Ranks) -> None:
    """Three steps from the newest checkpoint, or from the start, and a checkpoint of them."""
    model = small_model()
    if ranks.world > 1:
        mesh = init_device_mesh("cpu", (ranks.world,))
        for layer in model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    state = state_of(model)
    checkpoints = Checkpoints(folder, "test", ranks)
    found = checkpoints.newest()
    if found:
        checkpoints.load(found["folder"], state.targets(found))
        state.take(found, ranks)
    take_steps(state, 3)
    checkpoints.save(step_name(state.step), state.tensors(), state.values(ranks) | {"finished": False}, wait=True)
    checkpoints.close()


@record
def main() -> None:
    with join(int(os.environ["WORLD_SIZE"])) as ranks:
        go_on(Path(sys.argv[1]), ranks)


if __name__ == "__main__":
    main()
