"""A GGUF file into a folder as `save_pretrained` writes it: float32 weights as safetensors, config and tokenizer.json.

transformers reads the file and takes its quantised weights apart (`gguf_file=`). Unless it is asked to (`dequantize=True`), the
model still counts as quantised then, and cannot be saved. What is saved is loaded once more and compared.
"""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stillhouse.core.errors import DataError
from stillhouse.data.tokenizer import load_tokenizer

NEEDED = ("gguf", "accelerate")
"""Packages by which transformers reads most GGUF files."""


def convert_gguf(path: Path, folder: Path, given: str) -> tuple[list[str], str | None]:
    """Write what `path` holds into the empty `folder`. Returns sentences about what it is, and its licence if it says so.

    Raises DataError for a file that is no GGUF, is damaged, or is of an architecture that transformers does not read.
    """
    metadata = read_metadata(path, given)
    architecture = metadata["general.architecture"]
    with_reason(given, architecture, lambda: convert(path, folder))
    licence = metadata.get("general.license")
    facts = [f"architecture {architecture}, converted from GGUF to float32 weights"]
    if name := metadata.get("general.name"):
        facts.append(f"called '{name}'")
    return facts, str(licence) if licence else None


def read_metadata(path: Path, given: str) -> dict[str, Any]:
    from transformers.integrations.gguf.reader import read_gguf_metadata

    try:
        return read_gguf_metadata(str(path))[0]
    except Exception as error:  # bytes of any kind may stand there
        raise DataError(
            f"{given} is not a GGUF file, or is cut off ({' '.join(str(error).split())[:120]}); fetch it again"
        ) from None


def with_reason(given: str, architecture: str, work: Any) -> None:
    """Run `work`. Raises DataError with what transformers says is wrong."""
    try:
        work()
    except Exception as error:  # each part of transformers raises others
        if isinstance(error, MemoryError) or getattr(error, "errno", None):
            # Of this machine, not of the file.
            raise
        wanting = isinstance(error, ImportError) or "is required" in str(error)
        missing = [name for name in NEEDED if wanting and find_spec(name) is None]
        if missing:
            raise DataError(
                f"{given} is a GGUF file of the architecture '{architecture}', which transformers reads with the package(s) "
                f"{' and '.join(missing)}: 'pip install {' '.join(missing)}'"
            ) from None
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{given} cannot be read as a causal language model of the architecture '{architecture}' ({type(error).__name__}: "
            f"{reason}); take the model that it was made of, as safetensors"
        ) from None


def convert(path: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from stillhouse.models.saved import require_same_when_loaded, save_model

    given = {"gguf_file": path.name, "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32, trust_remote_code=False, **given
    )
    save_model(model, folder)
    require_same_when_loaded(model, folder)
    AutoTokenizer.from_pretrained(path.parent, **given).save_pretrained(folder)
    load_tokenizer(folder, os.fspath(path.name))
