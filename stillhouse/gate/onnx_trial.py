"""Whether a model can be shipped as ONNX, found out with a small one in some seconds."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from transformers import PreTrainedModel

from stillhouse.core.errors import ArtifactError, ParamsError

LENGTHS = (1, 5, 17)
TOLERANCE = 1e-3
"""Of the difference of a logit over the largest."""

Write = Callable[[PreTrainedModel, Path, int], None]


def require_onnx(
    model: PreTrainedModel, write: Write, opset: int, inputs: Callable[[int], dict[str, np.ndarray]], remedy: str
) -> None:
    """Raises ParamsError if torch cannot write the model as ONNX, for one length only, or as another model.

    inputs: length to what two texts, of which one may be shorter, are for the model. remedy: what to do instead.
    """
    with model_as_onnx(model.eval(), write, opset, remedy) as session:
        for length in LENGTHS:
            require_same_answers(model, session, inputs(length), f"texts of {length} tokens", remedy)


@contextmanager
def model_as_onnx(model: PreTrainedModel, write: Write, opset: int, remedy: str) -> Iterator[onnxruntime.InferenceSession]:
    """Raises ParamsError, also for what goes wrong inside."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            write(model, path, opset)
            options = onnxruntime.SessionOptions()
            # Its errors are raised too; 4 is fatal.
            options.log_severity_level = 4
            yield onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except ParamsError:
            raise
        except ArtifactError as error:
            raise ParamsError(str(error)) from None
        except Exception as error:  # onnxruntime's errors have no base of their own
            reason = " ".join(str(error).split())[:160]
            raise ParamsError(f"{model.config.model_type} as ONNX does not run ({reason}); {remedy}") from None


@torch.no_grad()
def require_same_answers(
    model: PreTrainedModel, session: onnxruntime.InferenceSession, given: dict[str, np.ndarray], what: str, remedy: str
) -> None:
    """Raises ParamsError unless `what` is given gets the model's own logits."""
    logits = session.run(["logits"], given)[0]
    own = model(**{name: torch.from_numpy(value) for name, value in given.items()}).logits.numpy()
    gap = float(np.abs(logits - own).max() / np.abs(own).max())
    if not gap <= TOLERANCE:
        raise ParamsError(
            f"{model.config.model_type} as ONNX says something else than the model, by {gap:.1e} of its largest logit (allowed "
            f"{TOLERANCE:.0e}), of {what}; {remedy}"
        )
