"""Whether a language model of an architecture can be shipped as ONNX, found out with a small one in some seconds."""

import tempfile
from pathlib import Path

import numpy as np
import onnxruntime

from stillhouse.core.errors import ArtifactError, ParamsError
from stillhouse.evaluation.onnx import REMEDY, export_language_onnx
from stillhouse.models.config import ModelParams
from stillhouse.models.small import VOCABULARY
from stillhouse.training.trial import small_model

LENGTHS = (1, 5, 17)


def try_onnx(params: ModelParams, opset: int) -> None:
    """Raises ParamsError if torch cannot write the architecture as ONNX, or for one length of text only."""
    model = small_model(params)
    if model is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            export_language_onnx(model, path, opset)
            session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            for length in LENGTHS:
                session.run(["logits"], {"input_ids": np.ones((1, length), dtype=np.int64) % VOCABULARY})
        except ArtifactError as error:
            raise ParamsError(str(error)) from None
        except Exception as error:  # onnxruntime's errors have no base of their own
            reason = " ".join(str(error).split())[:160]
            raise ParamsError(f"{model.config.model_type} as ONNX does not run ({reason}); {REMEDY}") from None
