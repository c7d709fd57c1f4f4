"""Which module trains the models of a kind.

Both have `Task`, `build`, `load`, `adapt`, `verify_model`, `choose`, `fit`, `save_training`.
"""

from types import ModuleType

from stillhouse.core.params import Kind
from stillhouse.training import classifier, language_model


def trainer_of(kind: Kind) -> ModuleType:
    return language_model if kind == "causal_lm" else classifier
