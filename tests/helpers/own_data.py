"""Own data to give to `make data`, and the block of params.yaml that was written for them."""

from pathlib import Path

from stillhouse.core.params import read_yaml
from stillhouse.sources.files import FilesSource, read_files

ROWS = "text,category\n" + "".join(f"a text of {c} number {i},{c}\n" for i in range(40) for c in ("red", "green"))
SOURCE = {"kind": "files", "train": "train.csv", "text": "text", "label": "category"}


def put(folder: Path, name: str, content: str = ROWS) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def source_of(root: Path) -> dict:
    """The block that was written; `ingest`'s reader takes it."""
    block = read_yaml(root / "params.yaml")["ingest"]
    assert block["new"] is None
    labelled = read_yaml(root / "params.yaml")["kind"] != "causal_lm"
    read_files(FilesSource(**block["source"]), root / "data" / "raw", labelled)
    return block["source"]
