"""The block `export_soft_labels`; torch-free, so that they can be checked in milliseconds."""

from datetime import date
from typing import ClassVar, Literal

from stillhouse.core.params import block
from stillhouse.soft_labels.format.sampler import UNBIASED


@block
class MoreTeacher:
    model: str
    """A folder below data/raw with a model of the same kind and tokenizer."""
    share: float
    """This teacher's share of the mixture; the pipeline's own teacher has the rest."""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share must lie in (0, 1), is {self.share}")
        if not self.model.startswith("data/raw/") or ".." in self.model.split("/"):
            raise ValueError(f"model must be a folder below data/raw, where DVC sees it change; is {self.model!r}")


SUFFIXES = (".csv", ".jsonl", ".parquet")
"""Files of labels that are read."""


@block
class ImportedLabels:
    """Labels that another model gave, elsewhere: read from files, checked, and stored as if exported."""

    kind: Literal["import"]
    """Where the labels come from."""
    files: str | list[str]
    """Name of a file below data/raw, or a list of names: .csv, .jsonl or .parquet (`docs/soft-labels.md`)."""
    model: str
    """Name and version of the model whose labels these are: the store, the report and the summary say it."""
    date: str
    """The day on which they were made, in quotes: '2026-11-30'."""
    prompt: str | None = None
    """Name of a file below data/raw with the prompt that the model was given; its digest is bound to the labels."""

    @property
    def names(self) -> list[str]:
        """The files, each once, in an order that does not depend on how they are given."""
        return [self.files] if isinstance(self.files, str) else sorted(set(self.files))

    @property
    def beside(self) -> dict[str, str | None]:
        """Key to the name of a file that belongs to the labels and holds none."""
        return {"prompt": self.prompt}

    def __post_init__(self) -> None:
        for key, name in [*(("files", name) for name in self.names), *self.beside.items()]:
            if name is not None and (not name or name.startswith("/") or ".." in name.split("/")):
                raise ValueError(f"{key} names files below data/raw, where DVC sees them change; is {name!r}")
        if not self.names:
            raise ValueError("files is empty; name at least one file below data/raw")
        for name in self.names:
            if not name.endswith(SUFFIXES):
                raise ValueError(f"files has {name!r}; expected a name that ends in {', '.join(SUFFIXES)}")
        if not self.model.strip():
            raise ValueError("model is empty; name the model whose labels these are")
        try:
            date.fromisoformat(self.date)
        except ValueError:
            raise ValueError(f"date is {self.date!r}; expected a day such as 2026-11-30") from None


@block
class ImportedClasses(ImportedLabels):
    """Labels that another model gave, elsewhere: read from files, checked, and stored as if exported."""

    values: Literal["probabilities", "log_probabilities"] | None = None
    """What the numbers are; null: log-probabilities in a column `logprobs`, probabilities in all others. Logarithms are
    natural."""
    classes: list[str] | None = None
    """What the numbers of a list column stand for, in their order, if the file has no column `classes`."""
    id: str = "id"
    """Name of the column with row ids."""
    text: str = "text"
    """Name of the column with texts, by which rows are found where there are no ids."""
    view: str = "view"
    """Name of the column with the number of the view that a text was shown in, 0 to views.count - 1."""

    def __post_init__(self) -> None:
        ImportedLabels.__post_init__(self)
        if self.classes is not None and len(set(self.classes)) != len(self.classes):
            raise ValueError("classes has a name twice; expected each class once, in the order of the numbers")
        if len({self.id, self.text, self.view}) < 3:
            raise ValueError("id, text and view must be names of different columns")


@block
class ImportedTokens(ImportedLabels):
    compression: str | None = None
    """Name of a file below data/raw: the `compression_config.yaml` that DistillKit wrote beside its files."""

    @property
    def beside(self) -> dict[str, str | None]:
        return {"prompt": self.prompt, "compression": self.compression}

    def __post_init__(self) -> None:
        ImportedLabels.__post_init__(self)
        if any(name.endswith(".csv") for name in self.names):
            raise ValueError("files has a .csv, which holds no lists of ids for each token; use .jsonl or .parquet")


@block
class ExportSoftLabels:
    batch_size: int
    """Rows of a forward pass of the teacher."""
    part_rows: int
    """Rows of a shard of the store; shards of 64 to 256 MB suit DVC and object stores."""
    mixture: list[MoreTeacher] | None = None
    """Further teachers, whose distributions are mixed with that of the pipeline's own."""
    source: ClassVar[ImportedLabels | None] = None
    """Labels from elsewhere, of kinds that have a form for them."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the teacher's forward pass: bf16 and fp16 autocast it. Never chosen automatically, because another device
    would then export other bytes."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.part_rows < 1:
            raise ValueError(f"batch_size and part_rows must be at least 1, are {self.batch_size} and {self.part_rows}")
        if self.mixture and sum(teacher.share for teacher in self.mixture) >= 1:
            raise ValueError("the shares of mixture must sum to less than 1: the pipeline's own teacher has the rest")
        if self.mixture and self.source:
            raise ValueError("mixture runs teachers, and source imports labels instead; leave one of them out")


@block
class ClassesExport(ExportSoftLabels):
    source: ImportedClasses | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """Labels from elsewhere in place of those of the pipeline's own teacher, which is null."""


@block
class SamplerParams:
    method: Literal["threshold", "systematic", "multinomial", "residual", "topk", "topk_tail"] = "threshold"
    """How ids are drawn (`docs/soft-labels.md`); top-k is biased, and offered for comparison."""
    samples: int = 50
    """Number of draws at each position; for top-k the number of ids."""
    sampling_temperature: float = 1.0
    """Temperature that the teacher's logits are divided by; the student's must be the same."""
    bases: int = 0
    """Base distributions that residual draws are taken against; 64 is a good number, and other methods need 0."""

    def __post_init__(self) -> None:
        if (self.method == "residual") != (self.bases > 0) or self.bases == 1 or self.bases > 65536:
            raise ValueError(f"residual draws need bases from 2 to 65536, other methods 0; bases is {self.bases}")
        if not 1 <= self.samples <= 65536:
            raise ValueError(f"samples must lie in [1, 65536], is {self.samples}")
        if not 0.01 <= self.sampling_temperature <= 100:
            raise ValueError(f"sampling_temperature must lie in [0.01, 100], is {self.sampling_temperature}")


@block
class SampledExport(ExportSoftLabels):
    sampler: SamplerParams
    """How sparse targets are drawn."""
    source: ImportedTokens | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """Labels from elsewhere in place of those of the pipeline's own teacher, which is null."""

    def __post_init__(self) -> None:
        ExportSoftLabels.__post_init__(self)
        if self.source and self.sampler.method in UNBIASED:
            raise ValueError(
                f"sampler.method is {self.sampler.method}, which draws from whole distributions, but files of labels hold the "
                "likeliest ids; set method: topk_tail, and samples to as many ids as the files have at a position"
            )
