"""What a store says of itself: its layout, and what it belongs to."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import get_args

import pyarrow as pa

from stillhouse.core.artifacts import digest_bytes, digest_json
from stillhouse.core.errors import ArtifactError
from stillhouse.soft_labels.format.records import Coding
from stillhouse.soft_labels.format.sampler import VERSION, Form, Sampler
from stillhouse.soft_labels.format.values import Grid

FORMAT = "stillhouse-soft-labels/2"
CODE = f"{FORMAT}, draws {VERSION}"

EXPORT = "run 'dvc repro export_soft_labels'"
REMEDIES = {
    "tokenizer": f"ids of another tokenizer mean other words: bring that tokenizer back with 'dvc checkout', or {EXPORT}",
    "preprocessing": f"give the rows the same template and cleaning as the teacher saw, or {EXPORT}",
    "packing": f"set the block length and boundary rule back, or {EXPORT}",
    "classes": f"label names count in their order: bring 'data/preprocess' back with 'dvc checkout', or {EXPORT}",
    "vocab": f"{EXPORT}, or give the student the vocabulary of the store",
    "sampling_temperature": (
        "a sampled store is drawn at one temperature and cannot be brought to another: set the student's temperature to the "
        "store's, or export_soft_labels.sampler.sampling_temperature to the student's; then " + EXPORT
    ),
}
"""What to do about a difference, where it is not simply to export again."""
CAUSES = ("preprocessing", "packing")
"""Fields that change others: with another template the tokenizer's digest differs too, with other blocks the data's."""


@dataclass(frozen=True)
class Binding:
    """What soft labels belong to; the student refuses labels whose binding is not its own.

    A field of the wanted binding that is None is not asked for: a student need not care how many draws a store holds.
    """

    teacher: str | None
    """SHA-256 of the teacher's weights; for a mixture as `mixture` spells it."""
    tokenizer: str | None
    """Digest of the folder of tokenizer or image processor; "" for labels of texts, which hold whatever the tokenizer."""
    data: str | None
    """SHA-256 of the training rows: of texts that have a class each of ids and texts, of others as models read them."""
    views: str | None
    """Settings of the views in words: count, shares, seed."""
    preprocessing: str | None = ""
    """What was done to rows before models read them, in words; of documents with the digest of the tokenizer's chat template if
    it has one."""
    packing: str | None = ""
    """Digest of block length and boundary rule; empty for rows that are not packed."""
    classes: str | None = ""
    """Digest of the label names in their order; empty for a language model."""
    vocab: int | None = 0
    """Classes, or ids of the vocabulary, that a distribution spans."""
    sampler: str | None = "full"
    """Method, N and seed in words (`Sampler.words`)."""
    sampling_temperature: float | None = 1.0
    """Temperature of the teacher whose distribution is stored; 1 in the full form, where the student applies its own."""
    code: str | None = CODE
    """Version of format and draws."""

    def require(self, wanted: "Binding", where: Path) -> None:
        """Raises ArtifactError that names both sides of the first difference, causes before effects, and what to do."""
        for name in [*CAUSES, *(field.name for field in fields(self))]:
            mine, theirs = getattr(self, name), getattr(wanted, name)
            if theirs is not None and mine != theirs:
                raise ArtifactError(
                    f"the soft labels in {where} were made with {name} {short(mine)}, but this student is to learn "
                    f"from {name} {short(theirs)}; {REMEDIES.get(name, EXPORT)}"
                )

    @classmethod
    def read(cls, tree: dict, where: Path) -> "Binding":
        """From a manifest. Raises ArtifactError for fields that this version does not know, or lacks."""
        known = {field.name for field in fields(cls)}
        if set(tree) != known:
            raise ArtifactError(
                f"the binding of {where} differs in its fields from this version's "
                f"({', '.join(sorted(set(tree) ^ known))}); {EXPORT}"
            )
        return cls(**tree)


def short(value: str | int | float) -> str:
    """The first 12 digits of a digest, which has no blanks; other values in parentheses."""
    return value[:12] if isinstance(value, str) and len(value) == 64 and " " not in value else f"({value})"


def mixture(teachers: list[tuple[str, float]]) -> str:
    """How a binding spells teachers, pairs of weights digest and share: one digest stands for itself."""
    if len(teachers) == 1:
        return teachers[0][0]
    return " + ".join(f"{share:g} of {digest}" for digest, share in sorted(teachers))


def classes_digest(names: list[str]) -> str:
    """For `Binding.classes`: label names in their order."""
    return digest_json(list(names))


@dataclass(frozen=True)
class Layout:
    """Shapes of a store."""

    form: Form
    rows: int
    views: int
    """1 in the sparse forms."""
    vocab: int
    """Classes, or ids of the vocabulary."""
    part_rows: int
    """Rows of a shard."""
    positions: int = 0
    """Positions of a row, in the sparse forms."""
    sampler: Sampler | None = None
    bases: str = ""
    """SHA-256 of the base distributions' bytes, in residual stores."""

    def __post_init__(self) -> None:
        sparse = self.form != "full"
        if sparse != (self.sampler is not None) or sparse != (self.positions > 0) or (sparse and self.views != 1):
            raise ValueError("sparse forms have a sampler, positions and one view; the full form has neither")
        if (self.form == "residual") != bool(self.bases) or (self.sampler and self.sampler.form != self.form):
            raise ValueError("form, sampler and bases must belong together")
        if min(self.rows, self.vocab, self.part_rows, self.views) < 1:
            raise ValueError("rows, vocab, part_rows and views must be at least 1")

    @property
    def parts(self) -> int:
        return -(-self.rows // self.part_rows)

    def rows_of_part(self, part: int) -> range:
        return range(part * self.part_rows, min((part + 1) * self.part_rows, self.rows))

    def shard_names(self) -> list[str]:
        return [shard_name(view, part) for view in range(self.views) for part in range(self.parts)]

    def drawn(self) -> dict:
        """What a binding says of the sampler."""
        if self.sampler is None:
            return {"sampler": "full", "sampling_temperature": 1.0}
        return {"sampler": self.sampler.words(), "sampling_temperature": float(self.sampler.sampling_temperature)}

    def coding(self) -> Coding:
        """Of the records of a sparse form."""
        assert self.sampler is not None
        code_bits = (self.sampler.bases - 1).bit_length() if self.sampler.bases else 0
        return Coding(self.positions, self.vocab, Grid.of(self.sampler), code_bits)

    def as_dict(self) -> dict:
        tree = asdict(self)
        if self.sampler is None:
            del tree["sampler"], tree["positions"], tree["bases"]
            return tree | {"dtype": "float16"}
        return tree | {"value_bits": Grid.of(self.sampler).bits}

    @classmethod
    def read(cls, manifest: dict, where: Path) -> "Layout":
        """From a manifest. Raises ArtifactError for a format or form that this version does not read."""
        forms = get_args(Form)
        if manifest.get("format") != FORMAT or manifest.get("form") not in forms:
            raise ArtifactError(
                f"{where} has format {manifest.get('format')!r}, form {manifest.get('form')!r}; this version reads "
                f"{FORMAT!r}, form {', '.join(map(repr, forms))}; {EXPORT}"
            )
        try:
            values = {name: manifest[name] for name in ("form", "rows", "views", "vocab", "part_rows")}
            if manifest["form"] != "full":
                values |= {
                    "positions": manifest["positions"],
                    "sampler": Sampler(**manifest["sampler"]),
                    "bases": manifest["bases"],
                }
            layout = cls(**values)
            if layout.sampler and manifest["value_bits"] != Grid.of(layout.sampler).bits:
                raise ValueError(f"value_bits {manifest['value_bits']}")
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"the manifest of {where} is damaged ({error!r}); 'dvc checkout --force' restores it") from None
        return layout


def shard_name(view: int, part: int) -> str:
    return f"view-{view:03d}-part-{part:05d}.safetensors"


def store_key(layout: Layout, binding: Binding, ids: pa.Array) -> str:
    """Digest of all that a store's bytes follow from, the teacher's answers apart; every shard carries it.

    So a shard that an earlier run left, with another teacher or other rows, is known from one that this run may keep.
    """
    rows = digest_bytes("\0".join(ids.to_pylist()).encode())
    return digest_json({"layout": layout.as_dict(), "binding": asdict(binding), "ids": rows, "code": CODE})
