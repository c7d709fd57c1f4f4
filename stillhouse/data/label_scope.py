"""Which rows soft labels are about, whoever reads them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LabelScope:
    """What a store is bound to beside teacher, views and classes; fields as in `soft_labels.format.manifest.Binding`."""

    data: str
    """SHA-256 of the training rows, as far as labels are about them."""
    reader: str
    """Digest of what makes a model's inputs of a row, where labels hold for one such reader alone; "" where for any."""
    preprocessing: str
    """What was done to the rows before, in words."""
