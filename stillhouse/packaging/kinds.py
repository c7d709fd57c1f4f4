"""What a kind's module of packages must hold; torch-free."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from stillhouse.core.shipped import Shipped
from stillhouse.kinds.protocol import load
from stillhouse.kinds.registry import KINDS

if TYPE_CHECKING:
    from stillhouse.runtime.distributed import Ranks


class Packaging(Protocol):
    def write_package(
        self, shipped: Shipped, package: Path, ranks: "Ranks", *, opset: int, tolerance: float, threads: int
    ) -> dict[str, Any]:
        """Fill `package`; returns its metrics. Raises ArtifactError if it answers otherwise than the pipeline."""
        ...

    def summary(self, metrics: dict[str, Any]) -> str:
        """What was compared, in a sentence."""
        ...


def packaging_of(kind: str) -> Packaging:
    return cast(Packaging, load(KINDS[kind].package))
