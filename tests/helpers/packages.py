"""A small run with all that `export_model` reads, made in a moment of weights that were only drawn; and its package."""

import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from stillhouse.core.artifacts import MANIFEST, write_json
from stillhouse.core.params import build
from stillhouse.core.shipped import Shipped
from stillhouse.modalities.blocks.rows import block_task
from stillhouse.modalities.text.export_model.classifier_package import write_package
from stillhouse.modalities.text.rows import text_task
from stillhouse.models.config import ModelParams
from stillhouse.models.saved import save_model
from stillhouse.preprocessing.tables import canonical, documents, write_table
from stillhouse.runtime.distributed import Ranks
from tasks.preprocess import Params
from tasks.preprocess import run as preprocess

SPLIT = {"validation_share": 0.2, "test_share": 0.3}
ENCODER = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "intermediate_size": 16,
    "initializer_range": 0.8,
}
NGRAMS = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "initializer_range": 0.8,
}
DECODER = {
    "hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 1, "intermediate_size": 16,
    "max_position_embeddings": 64, "initializer_range": 0.3,
}  # fmt: skip
BERT = {"architecture": "bert", "config": ENCODER}
OWN = {"architecture": "ngram_encoder", "config": NGRAMS}
PACKAGE = Path("package")
SETTINGS = {"opset": 18, "tolerance": 1e-4, "threads": 1}
METRICS = {"validation_accuracy": 0.5, "validation_macro_f1": 0.5, "validation_loss": 1.0, "validation_bits_per_byte": 1.0}
SHOUTING = [
    f"{color} {text} {number}  {words}\u00a0"
    for number in range(20)
    for color, words in (("Blue", "NO THANKS"), ("RED", "YES Please"))
    for text in ("See You Later", "how Are you", "NICE to meet\tYOU", "É e\u0301 İ ΟΔΟΣ")
]
"""Texts that say something else, or to the tokenizer nothing, before they are normalised."""
ALONE = Ranks(rank=0, world=1, local_rank=0, local_world=1, device=torch.device("cpu"))


def ingested(table: pd.DataFrame, folder: Path) -> None:
    for name in ("source", "new"):
        write_table(table, folder / f"{name}.parquet")
    entry = {"origin": {"kind": "files", "files": ["texts.csv"], "licence": "CC0-1.0"}}
    write_json(folder / MANIFEST, {"source": entry, "new": entry})


def trained(model: Any, task: Any) -> None:
    """What a training leaves, for the model that is shipped."""
    folder = Shipped.read().training
    folder.mkdir(parents=True)
    weights = save_model(model, folder / "model")
    write_json(folder / MANIFEST, {"weights": weights, "inputs": {**task.inputs(), "start": "0" * 64, "teacher": "0" * 64}})
    write_json(folder / "metrics.json", METRICS)


def rows_run(model: dict[str, Any], texts: list[str] | None = None, **settings: Any) -> Any:
    """A classifier's run in the working directory; returns the model."""
    texts = SHOUTING if texts is None else texts
    labels = [f"class {number % 3}" for number in range(len(texts))]
    table = pd.DataFrame({"text": texts, "label": labels, "split": ""})
    Path("data/ingest").mkdir(parents=True)
    ingested(canonical(table, "texts", None, None), Path("data/ingest"))
    tree = {"lowercase": False, "split": SPLIT, "tokenizer": {"vocab_size": 300}, "max_tokens": 24, **settings}
    Path("data/preprocess").mkdir()
    preprocess(build(Params, {"kind": "text_classification", "preprocess": tree}, "params.yaml"), Path("data/preprocess"))
    task = text_task.read_task(Path("data/preprocess/new"))
    made = text_task.build(build(ModelParams, model, "model"), task, seed=3).eval()
    trained(made, task)
    return made


def documents_run(texts: list[str], **settings: Any) -> Any:
    """A causal language model's run in the working directory; returns the model."""
    table = pd.DataFrame({"text": texts, "split": ""})
    Path("data/ingest").mkdir(parents=True)
    ingested(documents(table, None), Path("data/ingest"))
    tree = {"split": SPLIT, "tokenizer": {"vocab_size": 300}, "block_tokens": 32, **settings}
    Path("data/preprocess").mkdir()
    preprocess(build(Params, {"kind": "causal_lm", "preprocess": tree}, "params.yaml"), Path("data/preprocess"))
    task = block_task.read_task(Path("data/preprocess/new"))
    params = build(ModelParams, {"architecture": "llama", "config": DECODER}, "model")
    made = block_task.build(params, task, seed=3).eval()
    trained(made, task)
    return made


def export(write=write_package, **settings) -> dict:
    shutil.rmtree(PACKAGE, ignore_errors=True)
    PACKAGE.mkdir()
    return write(Shipped.read(), PACKAGE, ALONE, **SETTINGS | settings)


def code_of(package: Path) -> str:
    return re.findall(r"```python\n(.*?)```", (package / "README.md").read_text(), flags=re.S)[0]


def given(folder: Path, make) -> dict:
    make(folder)
    return {"tokenizer": {"pretrained": str(folder)}}
