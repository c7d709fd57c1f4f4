"""Trainings that are spread over ranks in several ways: `torchrun -m tests.parallel_ranks JSON`, all in one start.

The JSON names `out` and `cases`: each with `kind` (`classifier` or an architecture of a language model), `params` (changes to
the training's), and at choice `lora`, `state`, a folder for checkpoints, `stop`, the step before which the training fails,
`dropout`, and `loss_scale`, the first one of fp16. Rank 0 writes, for each case, the losses, a digest of the weights, how many
steps each rank left out, and the error if there was one.
"""

import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import record

from stillhouse.core.errors import StillhouseError
from stillhouse.training import language_model
from stillhouse.training.checkpoint import digest_tensors
from stillhouse.training.classifier import Task, fit
from stillhouse.training.config import LoraParams
from stillhouse.training.distributed import Ranks, join
from stillhouse.training.methods import prepare
from stillhouse.training.scaler import LossScaler


def run_case(case: dict, ranks: Ranks) -> dict:
    from tests import test_language_model as lm
    from tests import test_resume, test_training

    ranks = replace(ranks, inflight=Path(case["state"]) if case.get("state") else None)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(LossScaler, "initial", case.get("loss_scale", LossScaler.initial))
        if "stop" in case:
            test_resume.stop_after(case["stop"], patch)
        try:
            if case["kind"] == "classifier":
                rows, model = test_training.table(), test_training.small_model(case.get("dropout", 0.2))
                params, task = test_resume.often(**case["params"]), Task(rows, rows, ["a", "b", "c"], test_training.FACTS, "")
                history = fit(model, task, params, test_training.VIEWS, None, 3, ranks, "test")
            else:
                task = lm.make_task(Path(folder))
                model = lm.small_model(task, case["kind"], **case.get("config", {}))
                lora = LoraParams(rank=4, alpha=8.0) if case.get("lora") else None
                method = prepare(model, "lora" if lora else "full", new_head=False, steps=1, seed=3, lora=lora)
                params = lm.training(**case["params"])
                history = language_model.fit(model, task, params, None, 0, 3, ranks, "test", fingerprint=method.fingerprint)
                model = method.finish(model)
        except (StillhouseError, test_resume.Stop) as error:
            return {"error": f"{type(error).__name__}: {error}"}
        losses = {split: [p["loss"] for p in history.points if p["split"] == split] for split in ("train", "validation")}
        left_out = ranks.gather(history.overflowed)
        return losses | {"weights": digest_tensors(model.state_dict()), "tokens": history.tokens, "left_out": left_out}


@record
def main() -> None:
    given = json.loads(sys.argv[1])
    with join(int(os.environ.get("WORLD_SIZE", "1"))) as ranks:
        found = [run_case(case, ranks) for case in given["cases"]]
        if ranks.is_main:
            Path(given["out"]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
