"""Stage `preprocess` on small tables of made-up texts."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from stillhouse.core.params import build
from stillhouse.modalities.text.table.tokens import TokenTable, read_tokens
from stillhouse.preprocessing.tables import canonical, write_table
from tasks.preprocess import Params, run

SPLITS = ("train", "validation", "test")
WORDS = ["kettle", "barley", "copper", "mash", "cask", "Ärger", "東京", "peat", "still", "spirit"]


def texts(count: int, salt: int = 0) -> list[str]:
    """Distinct texts of one to seven words and a number."""
    generator = np.random.default_rng(salt)
    return [" ".join([*generator.choice(WORDS, generator.integers(1, 8)), str(i)]) for i in range(count)]


def ingested(source: list[str] | None = None, split: list[str] | str = "", reverse: bool = False) -> None:
    """Put two tables where the stage looks for them; three classes each."""
    source = source or texts(300)
    folder = Path("data/ingest")
    folder.mkdir(parents=True, exist_ok=True)
    for name, words in (("source", source), ("new", texts(200, salt=1))):
        labels = [f"class {i % 3}" for i in range(len(words))]
        table = pd.DataFrame({"text": words, "label": labels, "split": split if name == "source" else ""})
        write_table(canonical(table.iloc[:: -1 if reverse else 1], name, None, None), folder / f"{name}.parquet")


def settings(**keys) -> dict:
    split = {"validation_share": 0.2, "test_share": 0.2}
    defaults = {"lowercase": False, "split": split, "tokenizer": {"vocab_size": 300}, "max_tokens": 64, "withheld_labels": 0.0}
    return {**defaults, **keys}


def preprocess(**keys) -> Path:
    """The folder that the stage fills, run anew."""
    out = Path("data/preprocess")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    run(build(Params, {"kind": "text_classification", "preprocess": settings(**keys)}, "params.yaml"), out)
    return out


def read_task(out: Path, task: str = "source") -> dict[str, TokenTable]:
    return {split: read_tokens(out / task / f"{split}.arrow") for split in SPLITS}
