"""A causal language model as it is shipped: ONNX and safetensors, checked against each other and against the pipeline.

The ONNX graph reads the whole text at each call; the safetensors folder loads with transformers, which keeps a cache of
keys and values and is faster for long continuations. What the card says to do with a text is `CODE`, word for word; it is
executed here on every raw test document, and has to find the tokens and the nats that the pipeline found.
"""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from stillhouse.core.artifacts import DATA, MANIFEST, digest_file, read_json
from stillhouse.core.errors import ArtifactError
from stillhouse.core.shipped import Shipped
from stillhouse.data.blocks import BlockTable, read_blocks
from stillhouse.data.tokenizer import TokenizerFacts, load_tokenizer
from stillhouse.modalities.blocks.preprocess.documents import TEST_DOCUMENTS
from stillhouse.modalities.blocks.rows.ngram_model import sequences
from stillhouse.models.build import count_parameters
from stillhouse.models.saved import load_language_model, save_model
from stillhouse.packaging.onnx import export_language_onnx, session_of
from stillhouse.packaging.package import CARD, MODEL, describe, execute, requirement, write_description
from stillhouse.packaging.package_check import hard_texts, require_any_shape, shortened, special_names
from stillhouse.preprocessing.tables import read_table
from stillhouse.preprocessing.text_rules import encode_by_rules
from stillhouse.runtime.distributed import Ranks
from stillhouse.runtime.model_types import on_device
from stillhouse.targets.next_token.predict.language_predict import block_nats

COMPARED_TOKENS = 64
COMPARED_TEXTS = 64
CODE = '''\
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

config = json.loads(Path("config.json").read_text(encoding="utf-8"))
tokenizer = PreTrainedTokenizerFast.from_pretrained("model")
model = AutoModelForCausalLM.from_pretrained("model").eval()


def tokens_of(text):
    """The tokens of a document, behind what begins it; the name of a special token in a text is text."""
    return config["begin"] + tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


@torch.no_grad()
def nats_of(text):
    """Negative log-likelihood of every token of a document and of its end, in nats; read in pieces, as in training."""
    ids, size = torch.tensor([*tokens_of(text), config["end"]]), config["block_tokens"]
    pieces = [ids[start : start + size + 1] for start in range(0, len(ids) - 1, size)]
    logits = (model(input_ids=piece[None, :-1]).logits[0].float() for piece in pieces)
    cross_entropy = torch.nn.functional.cross_entropy
    return torch.cat([cross_entropy(logits_TV, piece[1:], reduction="none") for logits_TV, piece in zip(logits, pieces)])


prompt = tokens_of("a text")
ids = torch.tensor([prompt])
text = tokenizer.decode(model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=40)[0])
'''
"""What the card says to do."""


def write_package(
    shipped: Shipped, package: Path, ranks: Ranks, *, opset: int, tolerance: float, threads: int
) -> dict[str, Any]:
    """Fill `package`; returns its metrics.

    Raises ArtifactError if a logit of the ONNX model differs from torch's by more than `tolerance`, or the card's code reads a
    raw test document otherwise than the pipeline.
    """
    model = load_language_model(shipped.training / "model")
    test, settings = read_blocks(shipped.data / "test.arrow"), read_json(shipped.data / MANIFEST)
    facts = TokenizerFacts(**settings["tokenizer"])
    save_model(model, package / "model")
    for folder in (package, package / "model"):
        shutil.copytree(DATA / "preprocess" / "processor", folder, dirs_exist_ok=True)
    export_language_onnx(model, package / MODEL, opset)
    block_tokens = settings["packing"]["block_tokens"]
    reading = {"begin": facts.begin, "end": facts.eos_id, "block_tokens": block_tokens}
    manifest = read_json(shipped.training / MANIFEST)
    write_description(package, describe(opset, manifest, kind="causal_lm", **reading, preprocessing=settings["preprocessing"]))

    texts = sequences(test)[:COMPARED_TEXTS]
    difference, same, positions, worst = compare(model, package / MODEL, texts, threads)
    if not difference <= tolerance:
        raise ArtifactError(
            f"the ONNX model differs from torch by {difference:.2e} in test segment {worst}, more than export_model.tolerance "
            f"{tolerance:.0e}; raise the tolerance or the opset"
        )
    require_any_shape(package / MODEL, model, facts.vocab_size, block_tokens, tolerance, threads)
    nats = {
        "pipeline": float(block_nats(on_device(model, ranks.device), test, facts.pad_id, ranks).sum() / len(test.tokens)),
        "package": nats_by_card(package, shipped, test),
    }
    if not abs(nats["package"] - nats["pipeline"]) <= tolerance:
        raise ArtifactError(
            f"the package gives the test documents {nats['package']:.5f} nats per token, the pipeline {nats['pipeline']:.5f}, "
            f"more than export_model.tolerance {tolerance:.0e} apart; documents of a block see each other in this architecture"
        )
    metrics = {
        "rows_compared": len(read_json(shipped.data / TEST_DOCUMENTS)),
        "rows_different": 0,
        "texts_tried": require_equal_odd_tokens(package, shipped, facts),
        "nats_per_token": round(nats["package"], 6),
        "positions_compared": positions,
        "largest_difference": float(f"{difference:.3g}"),
        "same_answer": same,
        "bytes": (package / MODEL).stat().st_size,
        "parameters": count_parameters(model),
    }
    write_language_card(package, metrics, shipped)
    return metrics


@torch.no_grad()
def compare(model: PreTrainedModel, path: Path, texts: list[list[int]], threads: int) -> tuple[float, float, int, int]:
    """Largest difference of a logit, share of equal first guesses, positions, and the text with the largest difference."""
    session = session_of(path, threads)
    differences, same, positions = [], 0, 0
    for text in texts:
        ids = np.array([text[:COMPARED_TOKENS]], dtype=np.int64)
        shipped = np.asarray(session.run(["logits"], {"input_ids": ids})[0])
        expected = model(input_ids=torch.from_numpy(ids)).logits.numpy()
        differences.append(float(np.abs(shipped - expected).max()))
        same += int((shipped.argmax(-1) == expected.argmax(-1)).sum())
        positions += ids.size
    return max(differences), round(same / positions, 6), positions, int(np.argmax(differences))


def nats_by_card(package: Path, shipped: Shipped, test: BlockTable) -> float:
    """Nats per token of the raw test documents by the card's code. Raises ArtifactError if it reads other tokens."""
    names = execute(CODE, package)
    chosen = read_json(shipped.data / TEST_DOCUMENTS)
    table = read_table(shipped.table)
    texts = table.loc[table["id"].isin(chosen), ["id", "text"]].itertuples(index=False)
    config, total, count = names["config"], 0.0, 0
    left = Counter(tuple(segment) for segment in sequences(test))
    for number, text in texts:
        ids = [*names["tokens_of"](text), config["end"]]
        for start in range(0, len(ids) - 1, config["block_tokens"]):
            piece = tuple(ids[start : start + config["block_tokens"] + 1])
            left[piece] -= 1
            if left[piece] < 0:
                raise ArtifactError(
                    f"the package's tokenizer reads test document {number} as other tokens than the pipeline, from token "
                    f"{start} on; run 'dvc repro preprocess', or take another tokenizer"
                )
        nats = names["nats_of"](text)
        total, count = total + float(nats.double().sum()), count + len(nats)
    if missing := sum(left.values()):
        raise ArtifactError(f"{shipped.table} lacks documents of {missing} test segments; run 'dvc repro'")
    return total / count


def require_equal_odd_tokens(package: Path, shipped: Shipped, facts: TokenizerFacts) -> int:
    """Raises ArtifactError if the card's code reads odd texts as other tokens than the pipeline would; returns how many."""
    tokens_of = execute(CODE, package)["tokens_of"]
    odd = hard_texts(read_table(shipped.table)["text"].tolist(), special_names(package, facts))
    ours = encode_by_rules(load_tokenizer(package), facts, odd, [f"{text[:30]!r}" for text in odd])
    for text, ids in zip(odd, ours, strict=True):
        if (theirs := tokens_of(text)) != [*facts.begin, *ids]:
            raise ArtifactError(
                f"the package reads the text {text[:30]!r} as the tokens {shortened(theirs)}, the pipeline as "
                f"{shortened([*facts.begin, *ids])}; take another tokenizer"
            )
    return len(odd)


def summary(metrics: dict[str, Any]) -> str:
    """What was compared, in a sentence."""
    return (
        f"{metrics['rows_compared']:,} raw test documents: {metrics['nats_per_token']:.4f} nats per token by the card's code, "
        f"as by the pipeline; on {metrics['positions_compared']:,} positions ONNX and torch differ by at most "
        f"{metrics['largest_difference']:.1e}"
    )


def write_language_card(package: Path, metrics: dict[str, Any], shipped: Shipped) -> None:
    """A model card: what it does, what it learned from, how good it is, how to run it."""
    origin = read_json(DATA / "ingest" / MANIFEST)[shipped.task]["origin"]
    manifest, training = read_json(shipped.training / MANIFEST), read_json(shipped.training / "metrics.json")
    text = f"""---
library_name: transformers
pipeline_tag: text-generation
license: {origin["licence"]}
---

# Distilled causal language model

Predicts the next token. {shipped.made} with Stillhouse.

| | |
|---|---|
| parameters | {metrics["parameters"]:,} |
| ONNX file | {metrics["bytes"]:,} bytes |
| validation loss | {training["validation_loss"]:.4f} nats per token |
| validation bits per byte | {training["validation_bits_per_byte"]:.4f} |
| test loss by the code below | {metrics["nats_per_token"]:.4f} nats per token of {metrics["rows_compared"]:,} raw documents |
| largest difference of ONNX to torch | {metrics["largest_difference"]:.1e} on {metrics["positions_compared"]:,} positions |

Scores on test data stand in the pipeline's report.

## Use

```sh
{requirement("torch", "transformers", "tokenizers")}
```

```python
{CODE}```

Give it texts as they are: layout counts. `config.json` has what stands before and behind a document, limits, versions and
digests, as has the ONNX model's own metadata. `model.onnx` takes `input_ids` (batch, length) and gives `logits` (batch, length,
vocabulary).

## Where it comes from

| | |
|---|---|
| data | {origin["kind"]}: {origin.get("package") or origin.get("dataset") or origin.get("files")} |
| weights (SHA-256) | `{manifest["weights"]}` |
{shipped.origin_row(manifest)}
| training blocks | `{manifest["inputs"]["data"]}` |
| tokenizer | `{manifest["inputs"]["tokenizer"]}` |
| ONNX file | `{digest_file(package / MODEL)}` |
"""
    (package / CARD).write_text(text, encoding="utf-8")
