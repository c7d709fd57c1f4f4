"""Small tables of own data, and what `make data` proposes for them."""

from pathlib import Path

import pandas as pd

from stillhouse.core.params import read_yaml
from stillhouse.sources.files import FilesSource, read_files
from tasks.proposals.columns import Asked
from tasks.proposals.layout import FolderLayout, look_at
from tasks.propose import Proposal, propose
from tests.conftest import ROOT

TREE = read_yaml(ROOT / "params.yaml")
WORDS = ["kettle", "barley", "copper", "mash", "cask", "peat", "still", "spirit"]
NOTHING = Asked()


def texts(count: int) -> list[str]:
    return [f"{WORDS[i % 8]} and {WORDS[i * 3 % 7]} number {i}" for i in range(count)]


def labels(count: int) -> list[str]:
    return [("red", "green", "blue")[i % 3] for i in range(count)]


def table(count: int = 60) -> pd.DataFrame:
    return pd.DataFrame({"text": texts(count), "label": labels(count)})


def put(folder: Path, name: str, content: str | bytes = "") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def proposed(folder: Path, name: str, asked: Asked = NOTHING, **splits: str) -> Proposal:
    """What is proposed, after `ingest`'s own reader has taken it."""
    layout = look_at(name, folder)
    found = propose(FolderLayout(**{**vars(layout), **splits}), folder, asked, TREE)
    read_files(FilesSource(**found.source), folder, labelled=found.kind != "causal_lm")
    return found
