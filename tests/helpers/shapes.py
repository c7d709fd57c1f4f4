"""Shapes and types of annotations, checked where a module is imported under this hook."""

from collections.abc import Callable

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

SHAPED = (
    "stillhouse.data.batch", "stillhouse.losses.dense", "stillhouse.soft_labels.format.records",
    "stillhouse.targets.classes.losses.class_losses", "stillhouse.targets.classes.train_student.feature_losses",
)  # fmt: skip
"""Modules whose annotations name shapes: whatever is called in them is held against those, in every test."""


def checked(function: Callable) -> Callable:
    """With its arguments checked; an int is a float too, as type checkers have it."""
    return beartype(conf=BeartypeConf(is_pep484_tower=True))(function)


def check_shapes() -> None:
    """For what is imported from now on."""
    install_import_hook(SHAPED, "tests.helpers.shapes.checked")
