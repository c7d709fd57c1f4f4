"""Where a model to be imported lies: in a folder, a GGUF file, at a hub id with its commit, or in an installed package."""

import re
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from stillhouse.core.errors import DataError
from stillhouse.core.hub_snapshot import snapshot
from tasks.imports.licences import licence_of_package

HUB = re.compile(r"(?P<id>[^/@:\s]+/[^/@:\s]+)@(?P<commit>[0-9a-f]{40})(:(?P<file>[^:\s]+\.gguf))?")
GGUF = ".gguf"
CARD = ["README.md", "LICENSE*", "NOTICE*"]
COMPANIONS = ["*.json", "*.txt", "*.model", "*.jinja", *CARD]
"""What is fetched and copied beside weights."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".pkl", ".joblib")
USAGE = "expected a folder, file.gguf, owner/model@<40 hex digits> (perhaps ':file.gguf' behind it), or package:folder"


@dataclass(frozen=True)
class ModelSource:
    """A folder or a GGUF file, and where it came from."""

    path: Path
    origin: dict[str, Any] = field(default_factory=dict)
    """For `origin.json`: no path of this machine, only names."""
    licence: str | None = None
    """That of the package around it, if it is in one."""


def find_model(given: str) -> ModelSource:
    """Raises DataError if `given` names nothing that can be a model, HubError if the hub does not answer."""
    path = Path(given)
    if given and path.exists():
        return ModelSource(
            refuse_other_files(path, given), {"kind": "file" if path.is_file() else "folder", "name": path.resolve().name}
        )
    if found := HUB.fullmatch(given):
        return from_hub(found["id"], found["commit"], found["file"])
    name, colon, inside = given.partition(":")
    if colon and name and "/" not in name:
        return from_package(name, inside)
    if re.fullmatch(r"[^/@:\s]+/[^/@:\s]+(@\S*)?", given):
        raise DataError(
            f"{given} is not there, and a hub id needs its commit, which does not move: 'owner/model@<40 hex digits>'"
        )
    raise DataError(f"{given or 'FROM'} does not exist; {USAGE}")


def from_hub(name: str, commit: str, file: str | None) -> ModelSource:
    wanted = [file, *CARD] if file else ["*.safetensors", *COMPANIONS]
    folder = snapshot(f"{name}@{commit}", wanted)
    origin = {"kind": "hub", "id": name, "commit": commit} | ({"file": file} if file else {})
    if file and not (folder / file).is_file():
        raise DataError(f"{name}@{commit} has no file {file}; the names of its files stand on its page, under 'Files'")
    return ModelSource(folder / file if file else folder, origin)


def from_package(name: str, inside: str) -> ModelSource:
    """A folder or a GGUF file of an installed package. Nothing of the package is imported: its code does not run."""
    try:
        package = metadata.distribution(name)
    except (metadata.PackageNotFoundError, ValueError):
        owners = metadata.packages_distributions().get(name, [])
        if len(owners) != 1:
            raise DataError(f"the package {name} is not installed in this environment: 'pip install {name}'") from None
        package = metadata.distribution(owners[0])
    there = models_in(package)
    wanted = inside.strip("/")
    found = [place for place in there if wanted in (place, place.partition("/")[2])]
    if len(found) != 1:
        known = ", ".join(f"{name}:{place}" for place in there) or "none: it has neither a config.json with weights nor a .gguf"
        raise DataError(f"the package {name} has no model at '{inside}'; models in it: {known}")
    path = Path(str(package.locate_file(found[0])))
    origin = {"kind": "package", "name": package.name, "version": package.version, "place": found[0]}
    return ModelSource(refuse_other_files(path, f"{name}:{found[0]}"), origin, licence_of_package(package))


def models_in(package: metadata.Distribution) -> list[str]:
    """Folders with a model, and GGUF files, below the place where the package is installed."""
    files = [path.as_posix() for path in package.files or []]
    folders = {name.rpartition("/")[0] for name in files if name.endswith("/config.json") or name.endswith("/modules.json")}
    # Pooling's config is of a module in a model, whose folder lies around it.
    folders = {name for name in folders if f"{name.rpartition('/')[0]}/modules.json" not in files}
    return sorted({*folders, *(name for name in files if name.endswith(GGUF))})


def refuse_other_files(path: Path, given: str) -> Path:
    """Raises DataError for a file that is not a GGUF, and for a folder that has nothing else than one."""
    suffix = path.suffix.lower()
    if path.is_file() and suffix in PICKLES:
        raise DataError(
            f"{given} is a file of kind {suffix}, which may hold code and is never read: load it where it was made, and write "
            "it with save_pretrained"
        )
    if path.is_file() and suffix != GGUF:
        raise DataError(f"{given} is neither a folder nor a GGUF file; {USAGE}")
    if path.is_dir() and not (path / "config.json").is_file() and (files := sorted(path.glob(f"*{GGUF}"))):
        raise DataError(
            f"{given} holds {len(files)} GGUF file(s) and no config.json; name one of them, for example {files[0].name}"
        )
    return path
