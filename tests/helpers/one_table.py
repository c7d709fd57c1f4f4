"""One table of `data/raw` as stage `ingest` reads it, or refuses it."""

import pytest

from stillhouse.core.errors import DataError
from tests.helpers.ingesting import table_of

WORDS = ["good", "bad", "fine", "poor", "nice", "dull"]


def rows_of(project, content: str, name: str = "a.csv", **keys) -> list[list[str]]:
    (project.raw / name).write_bytes(content.encode())
    return table_of({"kind": "files", "train": name} | keys)[["text", "label"]].to_numpy().tolist()


def refused(project, content: str, name: str = "a.csv", **keys) -> str:
    with pytest.raises(DataError, match=r"^data/raw/") as caught:
        rows_of(project, content, name, **keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def many(count: int, text=lambda i: f"text {i}", label=lambda i: WORDS[i % 2]) -> str:
    return "text,label\n" + "".join(f"{text(i)},{label(i)}\n" for i in range(count))
