"""What a training said of itself."""

from pathlib import Path

from stillhouse.core.artifacts import read_json
from stillhouse.core.scores import AT_CHANCE


def said_of_training(folder: Path) -> dict[str, str]:
    """What its training said of having learned nothing, if it did. folder: of the weights."""
    said = read_json(folder.parent / "metrics.json").get(AT_CHANCE)
    return {AT_CHANCE: said} if said else {}
