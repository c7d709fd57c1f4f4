"""The block `ingest`; torch-free, so that it can be checked in milliseconds."""

from typing import Annotated

from pydantic import Field

from stillhouse.core.params import block
from stillhouse.sources.cloze import ClozeSource
from stillhouse.sources.files import FilesSource
from stillhouse.sources.hub import HubSource
from stillhouse.sources.sample import SampleSource

Source = Annotated[SampleSource | FilesSource | HubSource | ClozeSource, Field(discriminator="kind")]


@block
class Ingest:
    source: Source
    """The task that teacher and student learn."""
    new: Source | None
    """The task that the student is fine-tuned on; null where it is shipped as it is, for the source task."""

    @property
    def tasks(self) -> dict[str, Source]:
        """Name to source of every task that there is."""
        return {"source": self.source} | ({} if self.new is None else {"new": self.new})


@block
class ClassesIngest(Ingest):
    def __post_init__(self) -> None:
        for name, source in self.tasks.items():
            if getattr(source, "document", None) is not None:
                raise ValueError(f"'{name}.document' joins rows to documents, which kind text_classification does not read")


@block
class DocumentsIngest(Ingest):
    def __post_init__(self) -> None:
        for name, source in self.tasks.items():
            if source.kind == "cloze":
                raise ValueError(f"'{name}' is a cloze test, which has classes; kind causal_lm reads documents (kind: files)")
            if source.labels is not None:
                raise ValueError(f"'{name}.labels' chooses classes, which documents (kind causal_lm) do not have")
