"""What a kind's module of the report must hold."""

from typing import Any, Protocol, cast

from stillhouse.kinds.protocol import load
from stillhouse.kinds.registry import KINDS


class Page(Protocol):
    @property
    def TEMPLATE(self) -> str: ...

    def show(self, params: dict[str, Any]) -> dict[str, Any]:
        """What the template is filled with. Raises ArtifactError if an output of an earlier stage is missing or damaged."""
        ...


def page_of(kind: str) -> Page:
    return cast(Page, load(KINDS[kind].target.page))
