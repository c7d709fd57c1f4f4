"""What a folder of sentence-transformers says of its model beside `config.json`: pooling and normalisation; torch-free.

modules.json              which modules, in which order, and in which folder each of them is
1_Pooling/config.json     which states become the text's vector
2_Normalize               has no options: vectors of length 1
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillhouse.core.artifacts import read_json
from stillhouse.core.errors import ArtifactError
from stillhouse.models.model_folders import CONFIG, read_object

MODULES = "modules.json"
READ = (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
"""What is taken, by the last part of the modules' types."""
POOLING_MODES = {
    "cls": "cls",
    "cls_token": "cls",
    "mean": "mean",
    "mean_tokens": "mean",
    "lasttoken": "last",
}
"""Their names of the modes to ours; the files of older releases have a key `pooling_mode_NAME` for each."""


@dataclass(frozen=True)
class SentenceModules:
    """How an encoder's states become the vector of a text."""

    pooling: str
    normalise: bool
    encoder: Path
    """The folder with its `config.json`, weights and tokenizer; older releases have one below the model's."""
    files: tuple[str, ...]
    """What says so, below the model's folder."""


def read_modules(folder: Path, named: str = "") -> SentenceModules | None:
    """None if `folder` is not one of sentence-transformers. Raises ArtifactError, about what is `named`, for one with modules
    that are not read here, or that lacks their files."""
    if not (folder / MODULES).is_file():
        return None
    about = f"{named}: {folder}" if named else str(folder)
    entries = module_entries(folder, about)
    kinds = [entry["type"].rpartition(".")[2] for entry in entries]
    if kinds not in READ:
        raise ArtifactError(
            f"{about} is a model of sentence-transformers of the modules {', '.join(kinds)}; read are Transformer and Pooling, "
            f"perhaps Normalize behind them: delete {MODULES} to take the encoder alone, or choose another model"
        )
    for entry in entries[:2]:
        place = folder / entry["path"]
        if folder.resolve() not in (place.resolve(), *place.resolve().parents) or not (place / CONFIG).is_file():
            raise ArtifactError(f"{about}: {MODULES} names '{entry['path']}', where no {CONFIG} is; copy the whole folder")
    config = folder / entries[1]["path"] / CONFIG
    return SentenceModules(
        pooling=pooling_in(read_object(config), config),
        normalise=len(kinds) == 3,
        encoder=folder / entries[0]["path"],
        files=(MODULES, config.relative_to(folder).as_posix()),
    )


def module_entries(folder: Path, about: str) -> list[dict[str, Any]]:
    """The list in `modules.json`. Raises ArtifactError."""
    try:
        entries = read_json(folder / MODULES)
    except ArtifactError:
        entries = None
    named = isinstance(entries, list) and all(
        isinstance(entry, dict) and isinstance(entry.get("type"), str) and isinstance(entry.get("path"), str)
        for entry in entries
    )
    if not named or not entries:
        raise ArtifactError(f"{about}: {MODULES} is not a list of modules with 'type' and 'path'; copy it again")
    return entries


def pooling_in(config: dict[str, Any], path: Path) -> str:
    """Our name of the mode that a Pooling module's config says. Raises ArtifactError for another, or several."""
    older = [
        key.removeprefix("pooling_mode_") for key, value in config.items() if key.startswith("pooling_mode_") and value is True
    ]
    said = config.get("pooling_mode")
    modes = older or (said if isinstance(said, list) else [] if said is None else [said])
    if len(modes) != 1 or modes[0] not in POOLING_MODES:
        raise ArtifactError(
            f"{path} pools by {' and '.join(map(str, modes)) or 'nothing'}, which is not read; expected one of "
            f"{', '.join(dict.fromkeys(POOLING_MODES.values()))}"
        )
    return POOLING_MODES[modes[0]]


def in_one_folder(folder: Path, named: str) -> SentenceModules | None:
    """As `read_modules`. Raises ArtifactError also for an encoder in a folder of its own, where transformers finds none."""
    modules = read_modules(folder, named)
    if modules is not None and modules.encoder.resolve() != folder.resolve():
        raise ArtifactError(
            f"{named}: {folder} keeps its encoder in {modules.encoder.name}; 'make model FROM={folder}' makes one folder of it"
        )
    return modules
