"""What a kind's module of soft labels must hold."""

from pathlib import Path
from typing import Any, Protocol, cast

from stillhouse.kinds.protocol import load
from stillhouse.kinds.registry import KINDS
from stillhouse.runtime.distributed import Ranks
from stillhouse.soft_labels.produce.export import Teachers


class Export(Protocol):
    def export(
        self, teachers: Teachers, task: Any, settings: Any, views: Any, seed: int, digest: str, folder: Path, ranks: Ranks
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Write what the teachers say of every training row into `folder`; returns figures, and timing.

        settings: the block `export_soft_labels`. digest: of the teachers' weights and shares. Raises StillhouseError.
        """
        ...


class Import(Protocol):
    def import_labels(
        self, source: Any, task: Any, settings: Any, views: Any, seed: int, folder: Path
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Write what the files of `source` say of every training row into `folder`; returns figures, and timing.

        settings: the block `export_soft_labels`, `source` its key of that name. Raises StillhouseError.
        """
        ...


def import_of(kind: str) -> Import:
    """The module that stores labels of a kind that were made elsewhere."""
    module = KINDS[kind].target.imported
    # No block of the others has a key that would ask for it.
    assert module is not None
    return cast(Import, load(module))


def export_of(kind: str) -> Export:
    """The module that writes the soft labels of a kind."""
    return cast(Export, load(KINDS[kind].target.soft_labels))
