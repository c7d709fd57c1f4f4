"""Trainings that are spread over ranks in several ways: `torchrun -m tests.helpers.parallel_ranks JSON`, all in one start.

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
from stillhouse.modalities.text.rows.text_task import TextTask
from stillhouse.runtime.distributed import Ranks, join
from stillhouse.targets.classes.train.classifier import fit
from stillhouse.targets.next_token.train import language_model
from stillhouse.training.checkpoint.storage import digest_tensors
from stillhouse.training.config import LoraParams
from stillhouse.training.parallel.loss_scaler import LossScaler
from stillhouse.transfer.methods import prepare


def run_case(case: dict, ranks: Ranks) -> dict:
    from tests.helpers import resuming, small_trainings
    from tests.training import test_language_model as lm

    ranks = replace(ranks, inflight=Path(case["state"]) if case.get("state") else None)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(LossScaler, "initial", case.get("loss_scale", LossScaler.initial))
        if "stop" in case:
            resuming.stop_after(case["stop"], patch)
        try:
            if case["kind"] == "classifier":
                rows, model = small_trainings.table(), small_trainings.small_model(case.get("dropout", 0.2))
                params, task = (
                    resuming.often(**case["params"]),
                    TextTask(rows, rows, ["a", "b", "c"], small_trainings.FACTS, ""),
                )
                history = fit(model, task, params, small_trainings.VIEWS, None, 3, ranks, "test")
            else:
                task = lm.make_task(Path(folder))
                model = lm.small_model(task, case["kind"], **case.get("config", {}))
                lora = LoraParams(rank=4, alpha=8.0) if case.get("lora") else None
                method = prepare(model, "lora" if lora else "full", new_head=False, steps=1, seed=3, lora=lora)
                params = lm.training(**case["params"])
                history = language_model.fit(model, task, params, None, 0, 3, ranks, "test", fingerprint=method.fingerprint)
                model = method.finish(model)
        except (StillhouseError, resuming.Stop) as error:
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
