"""Whether a model of an architecture can be shipped as ONNX, found out with a small one in some seconds."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from transformers import PreTrainedModel

from stillhouse.core.errors import ArtifactError, ParamsError
from stillhouse.core.params import Kind
from stillhouse.evaluation.onnx import LogitsOnly, NextTokenLogits, export_language_onnx, export_onnx
from stillhouse.models.config import ModelParams
from stillhouse.models.small import VOCABULARY
from stillhouse.training.trial import CLASSIFIED, small_model

LENGTHS = (1, 5, 17)
TOLERANCE = 1e-3
"""Of the difference of a logit over the largest."""


def try_onnx(params: ModelParams, opset: int, kind: Kind) -> None:
    """Raises ParamsError if torch cannot write the architecture as ONNX, for one length of text only, or as another model."""
    model = small_model(params, kind)
    if model is not None:
        with model_as_onnx(model.eval(), opset, kind) as session:
            for length in LENGTHS:
                require_same_answers(model, session, length, kind)


@contextmanager
def model_as_onnx(model: PreTrainedModel, opset: int, kind: Kind) -> Iterator[onnxruntime.InferenceSession]:
    """Raises ParamsError, also for what goes wrong inside."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            (export_language_onnx if kind == "causal_lm" else export_onnx)(model, path, opset)
            options = onnxruntime.SessionOptions()
            # Its errors are raised too; 4 is fatal.
            options.log_severity_level = 4
            yield onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except ParamsError:
            raise
        except ArtifactError as error:
            raise ParamsError(str(error)) from None
        except Exception as error:  # onnxruntime's errors have no base of their own
            remedy = (NextTokenLogits if kind == "causal_lm" else LogitsOnly).remedy
            reason = " ".join(str(error).split())[:160]
            raise ParamsError(f"{model.config.model_type} as ONNX does not run ({reason}); {remedy}") from None


@torch.no_grad()
def require_same_answers(model: PreTrainedModel, session: onnxruntime.InferenceSession, length: int, kind: Kind) -> None:
    """Raises ParamsError unless a text, and beside it half of one, gets the model's own logits."""
    ids = np.random.default_rng(0).integers(3, VOCABULARY, (2, length))
    given = {"input_ids": ids}
    if kind == "text_classification":
        given["attention_mask"] = np.ones_like(ids)
        ids[:, 0], ids[0, -1], half = CLASSIFIED.prefix[0], CLASSIFIED.suffix[0], max(1, length // 2)
        ids[1, half - 1 :] = [CLASSIFIED.suffix[0], *[CLASSIFIED.pad_id] * (length - half)]
        given["attention_mask"][1, half:] = 0
    said = session.run(["logits"], given)[0]
    own = model(**{name: torch.from_numpy(value) for name, value in given.items()}).logits.numpy()
    gap = float(np.abs(said - own).max() / np.abs(own).max())
    if not gap <= TOLERANCE:
        remedy = (NextTokenLogits if kind == "causal_lm" else LogitsOnly).remedy
        raise ParamsError(
            f"{model.config.model_type} as ONNX says something else than the model, by {gap:.1e} of its largest logit (allowed "
            f"{TOLERANCE:.0e}), of texts of {length} tokens; {remedy}"
        )
