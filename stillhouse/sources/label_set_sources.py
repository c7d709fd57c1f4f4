"""The block `ingest` of kind `multi_label`: sources whose rows have sets of labels; torch-free."""

from typing import Annotated, Literal

from pydantic import Field

from stillhouse.core.params import block
from stillhouse.sources.config import Ingest
from stillhouse.sources.files import FilesSource
from stillhouse.sources.hub import HubSource
from stillhouse.sources.label_set_column import LabelSetColumn
from stillhouse.sources.source_blocks import SampleData

LabelNames = Annotated[list[str], Field(min_length=2)]


@block
class MixedSample(SampleData):
    """The sample that needs no network and no account: several messages in one text."""

    task: Literal["mixed_languages", "mixed_varieties"]
    """Which languages, or which regional varieties, occur in the text: those of `languages` and `varieties`, mixed."""


@block
class LabelSetFiles(FilesSource):
    label_separator: Annotated[str, Field(min_length=1)] | None = None
    """What stands between the labels of a row in CSV, TSV and Excel files, such as "|". There an empty field is a row without
    labels, or with `unlabelled` one whose labels are not known. null: rows hold lists, as in parquet and JSON files."""
    label_names: LabelNames | None = None
    """Names of labels that are numbers in the data, from 0 on."""

    @property
    def column(self) -> LabelSetColumn:
        return LabelSetColumn(self.label_separator, self.label_names)


@block
class LabelSetHub(HubSource):
    label_separator: Annotated[str, Field(min_length=1)] | None = None
    """As with `kind: files`."""
    label_names: LabelNames | None = None
    """Names of labels that are numbers in the data, from 0 on; null: those that the data set has, if any."""

    @property
    def column(self) -> LabelSetColumn:
        return LabelSetColumn(self.label_separator, self.label_names)


LabelSetSource = Annotated[MixedSample | LabelSetFiles | LabelSetHub, Field(discriminator="kind")]


@block
class LabelSetsIngest(Ingest):
    source: LabelSetSource  # pyright: ignore[reportIncompatibleVariableOverride]
    """The task that teacher and student learn."""
    new: LabelSetSource | None  # pyright: ignore[reportIncompatibleVariableOverride]
    """The task that the student is fine-tuned on; null where it is shipped as it is, for the source task."""

    def __post_init__(self) -> None:
        for name, source in self.tasks.items():
            for key in ("document", "document_characters"):
                if getattr(source, key, None) is not None:
                    raise ValueError(f"'{name}.{key}' is about documents, which kind multi_label does not read; leave it out")
