"""A model as ONNX, and its answers through onnxruntime: classifiers, and causal language models without a cache of keys."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from stillhouse.core.errors import ArtifactError
from stillhouse.runtime.model_types import as_pretrained


class BareLogits(nn.Module):
    """A model with plain tensors for arguments, and its logits as one: what torch writes as ONNX."""

    remedy: str
    """What to do about a model that cannot be written."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model


class LogitsOnly(BareLogits):
    """`input_ids`, `attention_mask` to logits as a plain tensor."""

    remedy = "choose a student such as ngram_encoder, bert, distilbert or modernbert"

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


class ImageLogits(BareLogits):
    """`pixel_values` to logits as a plain tensor."""

    remedy = "choose a student such as residual_cnn, vit, convnext or resnet"

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=pixel_values).logits


class NextTokenLogits(BareLogits):
    """`input_ids` to logits of every position; attention is causal, so there is nothing to mask."""

    remedy = "choose a student such as llama, gpt2, qwen3 or gemma2"

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, use_cache=False).logits


def export_onnx(model: nn.Module, path: Path, opset: int) -> None:
    """Write `path` with dynamic batch and length, inputs `input_ids` and `attention_mask`, output `logits`."""
    write_onnx(LogitsOnly(model.eval()), dict.fromkeys(("input_ids", "attention_mask"), IDS), TEXT_DIMENSIONS, path, opset)


def export_language_onnx(model: nn.Module, path: Path, opset: int) -> None:
    """Write `path` with dynamic batch and length, input `input_ids` (B, T), output `logits` (B, T, V)."""
    write_onnx(NextTokenLogits(model.eval()), {"input_ids": IDS}, TEXT_DIMENSIONS, path, opset)


def export_image_onnx(model: nn.Module, path: Path, opset: int, shape: tuple[int, int, int]) -> None:
    """Write `path` with dynamic batch, input `pixel_values` (B, *shape), output `logits` (B, classes). shape: C, H, W."""
    write_onnx(ImageLogits(model.eval()), {"pixel_values": torch.zeros(2, *shape)}, {0: "batch"}, path, opset)


IDS = torch.ones((2, 7), dtype=torch.int64)
TEXT_DIMENSIONS = {0: "batch", 1: "length"}


def write_onnx(model: BareLogits, inputs: dict[str, torch.Tensor], dimensions: dict[int, str], path: Path, opset: int) -> None:
    """Write the model, whose inputs look like `inputs`; dimensions: those that may be of any size, by name.

    Raises ArtifactError if the exporter left another opset in the file than the one that was asked for.
    """
    free = {number: torch.export.Dim(name) for number, name in dimensions.items()}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    # It says with a traceback that it left the opset as it was; whether it did is looked at below.
    logging.getLogger("onnxscript").setLevel(logging.CRITICAL)
    logging.getLogger("torch.fx").setLevel(logging.CRITICAL)
    # The exporter reports its steps on stdout, prints the graph of a model that it fails at, and warns of its own internals.
    with warnings.catch_warnings(), quiet(), not_exportable(model), batched_experts(model):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            tuple(value.clone() for value in inputs.values()),
            path,
            input_names=list(inputs),
            output_names=["logits"],
            dynamic_shapes=dict.fromkeys(inputs, free),
            opset_version=opset,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    written = strip_metadata(path)
    if written != opset:
        raise ArtifactError(
            f"this model cannot be written with ONNX opset {opset}: the exporter left it at {written}; set "
            f"export_model.opset to {written}"
        )
    shapes = [value.type.tensor_type.shape.dim for value in onnx.load(path).graph.input]
    if any(not shape[number].dim_param for shape in shapes for number in dimensions):
        raise ArtifactError(
            f"{named(model)} cannot be written as ONNX: its graph takes one {' or '.join(dimensions.values())} only; "
            f"{model.remedy}"
        )


def named(model: BareLogits) -> str:
    inner = as_pretrained(model.model)
    return f"{inner.config.model_type} ({type(inner).__name__})"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def not_exportable(model: BareLogits) -> Iterator[None]:
    """What torch says of a model that it cannot write becomes ArtifactError: its own message is a page."""
    try:
        yield
    except torch.onnx.OnnxExporterError as error:
        reason = next((line for line in str(error.__cause__ or error).splitlines() if line.strip()), "")
        raise ArtifactError(
            f"{named(model)} cannot be written as ONNX ({type(error).__name__}: {reason[:160]}); {model.remedy}"
        ) from None


@contextlib.contextmanager
def batched_experts(model: BareLogits) -> Iterator[None]:
    """Experts are batched matrix products meanwhile, which ONNX has; it has no grouped ones."""
    inner = as_pretrained(model.model)
    before = getattr(inner.config, "_experts_implementation", None)
    if before is None:
        yield
        return
    inner.set_experts_implementation("batched_mm")
    try:
        yield
    finally:
        inner.set_experts_implementation(before)


def strip_metadata(path: Path) -> int:
    """Remove the exporter's notes: they hold stack traces with this machine's paths, and would make the bytes differ.

    Returns the opset that the file has.
    """
    model = onnx.load(path)
    graphs = [model.graph, *model.functions]
    for graph in graphs:
        del graph.metadata_props[:]
        items = [*graph.node, *graph.value_info]
        if isinstance(graph, onnx.GraphProto):
            items += [*graph.input, *graph.output, *graph.initializer]
        for item in items:
            del item.metadata_props[:]
    onnx.save(model, path)
    return next(entry.version for entry in model.opset_import if entry.domain == "")


def write_properties(path: Path, properties: dict[str, str]) -> None:
    """Write the model's `metadata_props`, which onnxruntime gives as `get_modelmeta().custom_metadata_map`."""
    model = onnx.load(path)
    onnx.helper.set_model_props(model, properties)
    onnx.save(model, path)


def session_of(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """The model on the CPU. Raises ArtifactError if onnxruntime does not take it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise ArtifactError(f"{path} does not run: {' '.join(str(error).split())[:200]}") from error


def largest_difference(session: onnxruntime.InferenceSession, model: nn.Module, vocab_size: int, longest: int) -> float:
    """Largest difference of a logit to torch over batches of one row and of three, one token long and `longest`."""
    generator = np.random.default_rng(0)
    found = 0.0
    for rows, length in ((1, 1), (3, 1), (1, longest), (3, longest)):
        ids = generator.integers(0, vocab_size, (rows, length))
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        feed = {entry.name: feed[entry.name] for entry in session.get_inputs()}
        with torch.no_grad():
            expected = model(**{name: torch.from_numpy(value) for name, value in feed.items()}).logits.float().numpy()
        found = max(found, float(np.abs(np.asarray(session.run(["logits"], feed)[0]) - expected).max()))
    return found
