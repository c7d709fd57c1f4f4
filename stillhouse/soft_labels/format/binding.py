"""Which teacher the labels of a student may be of."""

from pathlib import Path
from typing import Any

from stillhouse.core.artifacts import MANIFEST, digest_json, read_json
from stillhouse.soft_labels.format.manifest import Binding

IMPORTED = "imported from "
"""How a binding begins to name the teacher of labels that were made elsewhere."""


def teacher_of(origin: dict[str, Any]) -> str:
    """How a binding names the teacher of imported labels: by name, day, and a digest of all that is known of them.

    origin: `model`, `date`, `prompt` (SHA-256 or None), `files` (name to SHA-256).
    """
    return f"{IMPORTED}{origin['model']}, {origin['date']}, origin {digest_json(origin)}"


def taught_by(binding: Binding, teacher: str) -> str:
    """The teacher that a student may expect: its own, the mixture in the store that its own is a part of, or whoever labels
    that were imported are of: that they were, the parameters have said."""
    if (binding.teacher or "").startswith(IMPORTED):
        return binding.teacher or ""
    parts = (binding.teacher or "").split(" + ")
    return binding.teacher or "" if any(part.endswith(f" of {teacher}") for part in parts) else teacher


def teacher_in(labels: Path, teacher: str) -> str:
    """Whose labels a student learns from that reads the store in `labels`: its own teacher's, or those of an import."""
    named = read_json(labels / MANIFEST)["binding"]["teacher"]
    return named if named.startswith(IMPORTED) else teacher
