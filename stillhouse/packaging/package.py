"""What the packages of both kinds of model share: what they say of themselves, and their card's code.

The card's code is part of what is checked: the export stage executes it on raw texts, and so does the gate. It is never read
out of a package, which comes over a network: a package says in `config.json` of which `FORMAT` it is, and that names the code.
"""

import contextlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stillhouse.core.artifacts import digest_file, read_json, write_json
from stillhouse.core.errors import ArtifactError
from stillhouse.packaging.onnx import write_properties

CONFIG, MODEL, CARD = "config.json", "model.onnx", "README.md"
FORMAT = 1
"""Of packages whose own files say how a text becomes an answer; older ones have no config.json."""
TEMPERATURE = 1.0
"""What logits are divided by before they are probabilities."""
MAKERS = ("stillhouse", "torch", "transformers", "tokenizers", "onnx", "onnxruntime")


def describe(opset: int, manifest: dict[str, Any], **more: Any) -> dict[str, Any]:
    """What a package says of itself: how to use it, what it was made by and of. `manifest`: of the training."""
    return {
        "format": FORMAT,
        "temperature": TEMPERATURE,
        "opset": opset,
        "versions": {name: release(name) for name in MAKERS},
        "digests": {"weights": manifest["weights"], **manifest["inputs"]},
        **more,
    }


def write_description(package: Path, description: dict[str, Any]) -> None:
    """Write it into the ONNX model and, with the digest of that, into `config.json`."""
    words = {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for key, value in description.items()
    }
    write_properties(package / MODEL, words)
    digests = description["digests"] | {"model": digest_file(package / MODEL)}
    write_json(package / CONFIG, description | {"digests": digests})


def description_of(package: Path) -> dict[str, Any] | None:
    """What a package says of itself; None for one that is older than that. Raises ArtifactError for one that is newer."""
    if not (package / CONFIG).is_file():
        return None
    description = read_json(package / CONFIG)
    found = description.get("format") if isinstance(description, dict) else None
    if found != FORMAT:
        raise ArtifactError(f"{package / CONFIG} is of format {found}, this version of Stillhouse reads {FORMAT}; update it")
    return description


def release(name: str) -> str:
    """The version of a package, without what says for which processor it was built."""
    return version(name).partition("+")[0]


def requirement(*names: str) -> str:
    """The line that installs what a card's code needs, in the versions that the package was checked with."""
    return "pip install " + " ".join(f"{name}=={release(name)}" for name in names)


def execute(code: str, package: Path) -> dict[str, Any]:
    """The names that a card's code leaves behind, executed in its package."""
    names: dict[str, Any] = {}
    with contextlib.chdir(package):
        exec(compile(code, CARD, "exec"), names)
    return names
