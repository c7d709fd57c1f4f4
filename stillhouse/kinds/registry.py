"""The kinds that there are. A new one is a file beside this, and a line here."""

from collections.abc import Mapping
from typing import Any

from stillhouse.kinds.causal_lm import CAUSAL_LM
from stillhouse.kinds.image_classification import IMAGE_CLASSIFICATION
from stillhouse.kinds.multi_label import MULTI_LABEL
from stillhouse.kinds.protocol import Kind
from stillhouse.kinds.text_classification import TEXT_CLASSIFICATION

KINDS: dict[str, Kind] = {kind.name: kind for kind in (TEXT_CLASSIFICATION, CAUSAL_LM, IMAGE_CLASSIFICATION, MULTI_LABEL)}
OLDEST = TEXT_CLASSIFICATION
"""Of parameters that are older than the key `kind`."""


def kind_of(tree: Mapping[str, Any]) -> str:
    """What the models of a run are, by its parameters."""
    return tree.get("kind", OLDEST.name)


def with_classes(wanted: bool) -> Kind:
    """The first kind whose rows have labels, or whose data are documents."""
    return next(kind for kind in KINDS.values() if kind.target.of_classes == wanted)
