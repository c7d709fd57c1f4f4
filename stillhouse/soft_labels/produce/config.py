"""The block `export_soft_labels`; torch-free, so that they can be checked in milliseconds."""

from typing import Literal

from stillhouse.core.params import block


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


@block
class ExportSoftLabels:
    batch_size: int
    """Rows of a forward pass of the teacher."""
    part_rows: int
    """Rows of a shard of the store; shards of 64 to 256 MB suit DVC and object stores."""
    mixture: list[MoreTeacher] | None = None
    """Further teachers, whose distributions are mixed with that of the pipeline's own."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the teacher's forward pass: bf16 and fp16 autocast it. Never chosen automatically, because another device
    would then export other bytes."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.part_rows < 1:
            raise ValueError(f"batch_size and part_rows must be at least 1, are {self.batch_size} and {self.part_rows}")
        if self.mixture and sum(teacher.share for teacher in self.mixture) >= 1:
            raise ValueError("the shares of mixture must sum to less than 1: the pipeline's own teacher has the rest")


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
