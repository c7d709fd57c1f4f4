"""A model's folder into another one: config, float weights and tokenizer as they are, and nothing that is or may hold code."""

import json
import shutil
from pathlib import Path

from safetensors import SafetensorError, safe_open

from stillhouse.core.artifacts import write_json
from stillhouse.core.errors import ArtifactError, DataError
from stillhouse.models.model_folders import CONFIG, INDEX, WEIGHTS, read_object, require_model, weight_files
from stillhouse.models.sentence_modules import MODULES, SentenceModules, read_modules
from tasks.imports.model_sources import COMPANIONS

BESIDE = ("config_sentence_transformers.json", "sentence_bert_config.json")


def copy_model(source: Path, folder: Path, given: str) -> list[str]:
    """Copy the model in `source` into the empty `folder`; returns sentences about what it is. Raises StillhouseError."""
    modules = read_modules(source, given)
    encoder = modules.encoder if modules else source
    require_model(encoder, given)
    refuse_unknown(encoder, given)
    for path in weight_files(encoder):
        require_whole(path)
        shutil.copyfile(path, folder / path.name)
    if modules and encoder != source:
        copy_companions(source, folder)
    # Behind what lies around it, so that the encoder's own config and tokenizer win.
    copy_companions(encoder, folder)
    if (folder / WEIGHTS).is_file():
        # Of shards that are not read then.
        (folder / INDEX).unlink(missing_ok=True)
    facts = [f"architecture {read_object(folder / CONFIG).get('model_type')}"]
    if modules:
        copy_modules(modules, source, folder)
        facts += [f"a model of sentence-transformers: pooling {modules.pooling}{', normalised' if modules.normalise else ''}"]
        facts += notes_on_sentences(folder)
    return facts


def copy_companions(source: Path, folder: Path) -> None:
    """Whatever is beside the weights and is text, but lists of files with pickles."""
    for pattern in COMPANIONS:
        for path in sorted(source.glob(pattern)):
            if path.is_file() and not path.name.startswith(".") and not path.name.endswith(".bin.index.json"):
                shutil.copyfile(path, folder / path.name)


def copy_modules(modules: SentenceModules, source: Path, folder: Path) -> None:
    """Pooling and normalisation, around an encoder that now lies in the model's own folder."""
    for name in modules.files[1:]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, folder / name)
    entries = json.loads((source / MODULES).read_text(encoding="utf-8"))
    entries[0]["path"] = ""
    write_json(folder / MODULES, entries)


def notes_on_sentences(folder: Path) -> list[str]:
    """What sentence-transformers does to a text before the tokenizer, which the pipeline does not do by itself."""
    found = {}
    for name in BESIDE:
        if (folder / name).is_file():
            found |= read_object(folder / name)
    notes = []
    if found.get("do_lower_case"):
        notes.append("it was trained on texts in lower case: set 'preprocess.lowercase: true'")
    prompts = {name: text for name, text in (found.get("prompts") or {}).items() if text}
    if prompts:
        shown = ", ".join(f"{name} {text!r}" for name, text in prompts.items())
        notes.append(f"it was trained with texts that begin with a prompt ({shown}), which the pipeline does not add")
    return notes


def refuse_unknown(folder: Path, given: str) -> None:
    """Raises DataError for an architecture that transformers has only as code beside the weights, or does not have."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from stillhouse.models import own  # noqa: F401  registers the architectures

    config = read_object(folder / CONFIG)
    kind = config.get("model_type")
    if kind not in CONFIG_MAPPING:
        code = (
            "brings its code beside the weights, which is never run"
            if config.get("auto_map")
            else "this transformers does not know"
        )
        raise DataError(
            f"{given} is of the architecture '{kind}', which {code}; choose a model of an architecture of transformers"
        )


def require_whole(path: Path) -> None:
    """Raises ArtifactError if a file of safetensors is cut off or damaged, as far as its header tells."""
    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise ArtifactError(
            f"{path.name} is damaged or cut off ({' '.join(str(error).split())[:120]}); copy or fetch it again"
        ) from None
