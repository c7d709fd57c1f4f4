"""A causal language model as it is shipped: ONNX and safetensors beside each other, checked against each other.

The ONNX graph reads the whole text at each call; the safetensors folder loads with transformers, which keeps a cache of
keys and values and is faster for long continuations.
"""

from pathlib import Path

import numpy as np
import onnxruntime
import torch

from stillhouse.core.artifacts import DATA, MANIFEST, digest_file, read_json
from stillhouse.core.errors import ArtifactError
from stillhouse.data.blocks import read_blocks
from stillhouse.evaluation.ngram_model import sequences
from stillhouse.evaluation.onnx import export_language_onnx
from stillhouse.models.build import count_parameters, load_language_model, save_model

COMPARED_TOKENS = 64
COMPARED_TEXTS = 64


def write_package(folder: Path, package: Path, opset: int, tolerance: float, threads: int) -> dict:
    """Write `model.onnx`, `model/` and the model card into `package`; returns its metrics.

    Raises ArtifactError if a logit of the ONNX model differs from torch's by more than `tolerance`.
    """
    model = load_language_model(folder / "model")
    export_language_onnx(model, package / "model.onnx", opset)
    save_model(model, package / "model")
    texts = sequences(read_blocks(DATA / "preprocess" / "new" / "test.arrow"))[:COMPARED_TEXTS]
    difference, same, positions, worst = compare(model, package / "model.onnx", texts, threads)
    if not difference <= tolerance:
        raise ArtifactError(
            f"the ONNX model differs from torch by {difference:.2e} in test segment {worst}, more than export_model.tolerance "
            f"{tolerance:.0e}; raise the tolerance or the opset"
        )
    metrics = {
        "rows_compared": len(texts),
        "positions_compared": positions,
        "largest_difference": float(f"{difference:.3g}"),
        "same_answer": same,
        "bytes": (package / "model.onnx").stat().st_size,
        "parameters": count_parameters(model),
    }
    write_language_card(package / "README.md", metrics, folder)
    return metrics


@torch.no_grad()
def compare(model, path: Path, texts: list[list[int]], threads: int) -> tuple[float, float, int, int]:
    """Largest difference of a logit, share of equal first guesses, positions, and the text with the largest difference."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    differences, same, positions = [], 0, 0
    for text in texts:
        ids = np.array([text[:COMPARED_TOKENS]], dtype=np.int64)
        shipped = np.asarray(session.run(["logits"], {"input_ids": ids})[0])
        expected = model(input_ids=torch.from_numpy(ids)).logits.numpy()
        differences.append(float(np.abs(shipped - expected).max()))
        same += int((shipped.argmax(-1) == expected.argmax(-1)).sum())
        positions += ids.size
    return max(differences), round(same / positions, 6), positions, int(np.argmax(differences))


def write_language_card(path: Path, metrics: dict, folder: Path) -> None:
    """A model card: what it does, what it learned from, how good it is, how to run it."""
    origin = read_json(DATA / "ingest" / MANIFEST)["new"]["origin"]
    manifest, training = read_json(folder / MANIFEST), read_json(folder / "metrics.json")
    text = f"""---
library_name: transformers
pipeline_tag: text-generation
license: {origin["licence"]}
---

# Distilled causal language model

Predicts the next token. Distilled from a larger teacher and fine-tuned on a new domain with Stillhouse.

| | |
|---|---|
| parameters | {metrics["parameters"]:,} |
| ONNX file | {metrics["bytes"]:,} bytes |
| validation loss | {training["validation_loss"]:.4f} nats per token |
| validation bits per byte | {training["validation_bits_per_byte"]:.4f} |
| largest difference of ONNX to torch | {metrics["largest_difference"]:.1e} on {metrics["positions_compared"]:,} positions |

Scores on test data stand in the pipeline's report.

## Use

```python
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained("."), AutoModelForCausalLM.from_pretrained("model")
prompt = [tokenizer.eos_token_id, *tokenizer("a text", add_special_tokens=False, split_special_tokens=True)["input_ids"]]
text = tokenizer.decode(model.generate(torch.tensor([prompt]), max_new_tokens=40)[0])
```

Each document follows the end-of-text token, whose name in a text is text (`split_special_tokens`).

`model.onnx` takes `input_ids` (batch, length) and gives `logits` (batch, length, vocabulary).

## Where it comes from

| | |
|---|---|
| data | {origin["kind"]}: {origin.get("package") or origin.get("dataset") or origin.get("files")} |
| weights (SHA-256) | `{manifest["weights"]}` |
| started from | `{manifest["inputs"]["start"]}` |
| training blocks | `{manifest["inputs"]["data"]}` |
| tokenizer | `{manifest["inputs"]["tokenizer"]}` |
| ONNX file | `{digest_file(path.parent / "model.onnx")}` |
"""
    path.write_text(text, encoding="utf-8")
