"""Which teacher the labels of a student may be of."""

from stillhouse.soft_labels.format.manifest import Binding


def taught_by(binding: Binding, teacher: str) -> str:
    """The teacher that a student may expect: its own, or the mixture in the store that its own is a part of."""
    parts = (binding.teacher or "").split(" + ")
    return binding.teacher or "" if any(part.endswith(f" of {teacher}") for part in parts) else teacher
