"""What a folder with a model holds, found out from its names and JSON files: no weights are read, and no torch.

    require_model(Path("models/bert"), "train_teacher.model.pretrained")

A folder is taken as `save_pretrained` writes it: `config.json` with `model.safetensors`, or with the shards that
`model.safetensors.index.json` names. Everything else is refused by what it is.
"""

import json
from pathlib import Path
from typing import Any

from stillhouse.core.artifacts import digest_file, digest_json
from stillhouse.core.errors import ArtifactError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
ADAPTER = "adapter_config.json"
PATTERNS = ["*.json", "*.safetensors"]
"""What is fetched of a model on the hub."""
SAVE_AGAIN = "load it once where it was made, and write it with save_pretrained"


def require_model(folder: Path, named: str = "") -> None:
    """Raises ArtifactError, about what is `named`, unless `folder` holds config and weights that can be read."""
    about = f"{named}: {folder}" if named else str(folder)
    if (folder / ADAPTER).is_file():
        # With peft installed, transformers would load the model that the adapter names, wherever that is.
        raise ArtifactError(
            f"{about} holds an adapter ({ADAPTER}), not a model: merge it into its base model (peft's merge_and_unload), write "
            "that with save_pretrained, and name the new folder"
        )
    if not (folder / CONFIG).is_file():
        raise ArtifactError(f"{missing(folder, CONFIG, about)}")
    config = read_object(folder / CONFIG)
    quantized = config.get("quantization_config")
    if quantized:
        method = quantized.get("quant_method", "unknown") if isinstance(quantized, dict) else "unknown"
        raise ArtifactError(
            f"{about} holds quantized weights (quantization_config in {CONFIG}, method {method}), which are not trained here; "
            "expected float weights: take the model it was made of, or dequantize it and save it again"
        )
    if not weight_files(folder):
        others = sorted(
            path.name
            for path in folder.iterdir()
            if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx", ".safetensors")
        )
        if others:
            raise ArtifactError(
                f"{about} has no {WEIGHTS}; it has {', '.join(others[:3])}, which is not read (files that may hold code never "
                f"are): {SAVE_AGAIN}"
            )
        raise ArtifactError(missing(folder, WEIGHTS, about))


def missing(folder: Path, name: str, about: str) -> str:
    """The text for a file that is not there: a stage's own comes back by itself, a user's does not."""
    if folder.parts[:1] == ("data",) and folder.parts[1:2] != ("raw",):
        return f"{folder / name} is missing; 'dvc repro' or 'dvc checkout' brings it back"
    return f"{about} has no {name}; expected a folder as save_pretrained writes it: config.json, and {WEIGHTS} or {INDEX}"


def has_weights(folder: Path) -> bool:
    return (folder / WEIGHTS).is_file() or (folder / INDEX).is_file()


def weight_files(folder: Path) -> list[Path]:
    """The file with the weights, or all shards that the index names; none where there is neither.

    Raises ArtifactError for an index that is damaged, leaves the folder, or names shards that are not there.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        return []
    places = read_object(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise ArtifactError(f"{folder / INDEX} has no weight_map from tensors to files; {SAVE_AGAIN}")
    names = sorted(set(places.values()))
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise ArtifactError(f"{folder / INDEX} names '{outside[0]}', which does not lie beside it; expected names of files")
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise ArtifactError(
            f"{folder / INDEX} names {len(names)} files with weights, of which {len(absent)} are missing, the first "
            f"{absent[0]}; copy the whole folder"
        )
    return [folder / name for name in names]


def weights_digest(folder: Path) -> str:
    """SHA-256 of the file with the weights, or of all shards by name. Raises ArtifactError if there are none."""
    files = weight_files(folder)
    if not files or files[0].name == WEIGHTS:
        return digest_file(folder / WEIGHTS)
    return digest_json({path.name: digest_file(path) for path in files})


def read_object(path: Path) -> dict[str, Any]:
    """Raises ArtifactError unless the file is a JSON object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} is not valid JSON ({' '.join(str(error).split())[:120]}); copy it again") from None
    if not isinstance(found, dict):
        raise ArtifactError(f"{path} is not a JSON object; copy it again")
    return found
