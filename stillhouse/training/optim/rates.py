"""Learning rates that undo what a pretrained model knows; torch-free, so that parameters can be checked in milliseconds."""

from pathlib import Path

from stillhouse.core.artifacts import read_json
from stillhouse.core.checkout import local_folder
from stillhouse.models.own_options import DEFAULTS
from stillhouse.training.config import OptimizerParams

LARGEST = 5e-4
"""Above this, optimisers that divide by the size of the gradient move every weight of a pretrained body too far in its first
steps; 1e-5 to 1e-4 is usual (Devlin et al. 2019, arXiv:1810.04805, app. A.3: 2e-5 to 5e-5)."""
BY_SIZE = ("adam", "adamw", "nadam", "radam", "adamax", "adafactor", "rmsprop", "muon")
"""Optimisers whose steps are as long as the rate says, whatever the gradient's size."""
PARTS = ("frozen", "lora")
"""Modes of fine-tuning in which the body keeps its weights."""


def note_on_rate(key: str, pretrained: str | None, optimizer: OptimizerParams, mode: str = "full") -> str | None:
    """What to say of a training, whose block is at `key`, of all layers of a pretrained model; None where there is nothing.

    Our own small encoders are trained at such rates from the start, and are not spoken of.
    """
    if pretrained is None or mode in PARTS or optimizer.name not in BY_SIZE or optimizer.learning_rate <= LARGEST:
        return None
    folder = local_folder(pretrained)
    if folder is not None and type_of(folder) in DEFAULTS:
        return None
    return (
        f"'{key}.optimizer.learning_rate' is {optimizer.learning_rate:g} for all layers of '{pretrained}': with "
        f"{optimizer.name}, rates above {LARGEST:g} undo what a pretrained model knows; 2e-5 to 1e-4 is usual"
    )


def type_of(folder: Path) -> str | None:
    """The architecture of a model's folder, or of the one in a training's; None where that is not said."""
    path = next((path for path in (folder / "config.json", folder / "model" / "config.json") if path.is_file()), None)
    config = read_json(path) if path else {}
    return config.get("model_type") if isinstance(config, dict) else None


def say_rate(is_main: bool, key: str, pretrained: str | None, optimizer: OptimizerParams, mode: str = "full") -> None:
    """Print the note once, before a training starts."""
    if is_main and (note := note_on_rate(key, pretrained, optimizer, mode)):
        print(f"note: {note}", flush=True)
