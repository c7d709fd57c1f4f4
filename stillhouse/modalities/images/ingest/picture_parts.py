"""Pictures of a file or folder before they are read: the labels of all of them, and then one picture after the other."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

Payload = bytes | np.ndarray | Path | None
"""A picture: its file's bytes, its pixels, where its file is, or nothing where a row has none."""


@dataclass(frozen=True)
class Part:
    """Pictures of one file, or of one folder of classes."""

    labels: pd.Series
    """Texts (rows,), "" where a row has no label."""
    payloads: Callable[[], Iterator[Payload]]
    """Every picture, in the order of the labels."""
    name: Callable[[int], str]
    """Place of a picture, counted from 0, as an error message has it."""
    files: tuple[Path, ...] = ()
    """What is read, but for pictures that are files of their own."""
    column: str | None = None
    """The column of the labels, where a user has named one."""


@dataclass(frozen=True)
class Opened:
    """A source, known but for its pictures."""

    where: str
    """What it is called in an error message."""
    parts: list[tuple[str, Part]]
    """Split and part, in the order of the rows."""
    origin: Callable[[dict[str, dict[str, str]]], dict[str, Any]]
    """What the manifest says of it: of split to file to digest."""
    root: Path = field(default_factory=Path)
    """The folder that the names of files count from."""
