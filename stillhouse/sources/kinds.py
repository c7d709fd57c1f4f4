"""What a kind's module of sources must hold; torch-free."""

from pathlib import Path
from typing import Any, Protocol, cast

from stillhouse.kinds.protocol import load
from stillhouse.kinds.registry import KINDS


class Ingestion(Protocol):
    @property
    def UNIT(self) -> str: ...

    def ingest(self, source: Any, path: Path, notes: list[str]) -> dict[str, Any]:
        """Read one task and write its canonical table to `path`; returns its entry in the manifest.

        source: one of the sources that the kind's block `ingest` has. `notes` takes what the user should be told of the data.
        Raises DataError, HubError or ParamsError in one line.
        """
        ...

    def write_empty(self, path: Path) -> None:
        """The canonical table of a run without a target task: its columns, and no rows."""
        ...

    def check_data(self, source: Any) -> int | None:
        """At most how many training rows (or bytes, of documents) the source has; None where that is not known.

        Only the beginnings of files are read. Raises DataError for a file or column that is not there.
        """
        ...


def ingestion_of(kind: str) -> Ingestion:
    """The module that reads the data of a kind."""
    return cast(Ingestion, load(KINDS[kind].modality.ingestion))
