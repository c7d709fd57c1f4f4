"""Whether every pretrained model gets the ids of its own tokenizer, as far as local folders tell. Nothing heavy is imported.

All models share the pipeline's tokenizer, which `preprocess` makes before any of them: it reads no model's block, so a model's
tokenizer is named once more, in `preprocess.tokenizer.pretrained`.
"""

import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models

from stillhouse.core.artifacts import DATA, MANIFEST
from stillhouse.core.checkout import local_folder
from stillhouse.core.errors import ArtifactError, ParamsError
from stillhouse.data.pretrained_tokenizer import fetch_pretrained, read_tokenizer, require_room
from stillhouse.data.tokenizer import describe_tokenizer, frame_of
from stillhouse.data.tokenizer_identity import identity_of
from stillhouse.preprocessing.kinds import preprocessing_of
from stillhouse.training.optim.rates import note_on_rate
from tasks.checks.model_blocks import named_models

KEY = "preprocess.tokenizer.pretrained"


def check_tokenizers(tree: dict[str, Any]) -> list[str]:
    """Notes on models whose tokenizer only the stage can compare.

    Raises ParamsError or ArtifactError naming the key of a model with another tokenizer than the pipeline's, or with none.
    """
    if "tokenizer" not in tree["preprocess"]:
        return []
    given = tree["preprocess"]["tokenizer"].get("pretrained")
    folder = local_folder(given) if given else None
    ours = None if folder is None else identity_given(given, preprocessing_of(tree["kind"]).NEEDS_END_TOKEN)
    notes: list[str] = []
    without_key: list[tuple[str, str, str | None]] = []
    for key, name, place in pretrained_models(tree):
        if place is None:
            if given is None:
                without_key.append((key, name, None))
            continue
        named = f"'{key}' is '{name}'"
        tokenizer = read_tokenizer(place, named)
        if tokenizer is None:
            if place.name == "model" and (place.parent / MANIFEST).is_file():
                continue
            raise ArtifactError(
                f"{named}, a model without its tokenizer: nothing says what its token ids mean; copy the tokenizer that it was "
                "trained with (tokenizer.json, tokenizer_config.json) into that folder"
            )
        prefix, suffix = frame_of(tokenizer, named)
        found = identity_of(tokenizer, prefix, suffix)
        require_room(place, tokenizer, named)
        if ours is not None and found != ours:
            raise ParamsError(
                f"{named}, whose tokenizer is another one than that of '{KEY}' ('{given}'): its token ids mean something else, "
                "and all models share one tokenizer; take a model of the same tokenizer, or give all of them this one's"
            )
        if given is None and not is_present(found):
            if may_be_trained(tokenizer, bool(prefix), tree):
                notes.append(
                    f"{named}: whether its tokenizer is the one that preprocess trains, only the stage can tell; "
                    f"'{KEY}: {name}' makes sure of it"
                )
            else:
                without_key.append((key, name, found))
    refuse_without_key(without_key)
    return notes


def refuse_without_key(needy: list[tuple[str, str, str | None]]) -> None:
    """Raises ParamsError for models (key, name, identity if known) of another tokenizer than preprocess would train."""
    if not needy:
        return
    for (key, name, one), (other_key, other_name, other) in pairwise(model for model in needy if model[2] is not None):
        if one != other:
            raise ParamsError(
                f"'{key}' is '{name}' and '{other_key}' is '{other_name}', whose tokenizers differ: all models share one "
                f"tokenizer; take two models of the same one, and name it as '{KEY}'"
            )
    key, name, _ = needy[0]
    raise ParamsError(
        f"'{key}' is '{name}', which brings a tokenizer of its own, and '{KEY}' is not set: preprocess would train another, "
        f"whose token ids mean something else to that model; set '{KEY}: {name}'"
    )


def pretrained_models(tree: dict[str, Any]) -> Iterator[tuple[str, str, Path | None]]:
    """Key, value, and the folder with the weights (None: on the hub) of every pretrained model that parameters name."""
    for key, name, file in named_models(tree):
        if name is not None and file == "config.json":
            folder = local_folder(name)
            inner = folder and not (folder / file).is_file() and (folder / "model" / file).is_file()
            yield key, name, folder / "model" if folder and inner else folder


def identity_given(given: str, needs_end: bool) -> str:
    """The identity of the tokenizer that preprocess will take from a local folder. Raises StillhouseError as it would."""
    with tempfile.TemporaryDirectory() as place:
        fetch_pretrained(given, Path(place))
        facts = describe_tokenizer(Path(place), given)
    if needs_end and facts.eos_id is None:
        raise ParamsError(
            f"'{KEY}' is '{given}', which names no 'eos_token' that its vocabulary has; a causal language model needs one "
            "behind documents: set it in tokenizer_config.json"
        )
    return facts.identity


def is_present(identity: str) -> bool:
    """Whether the last run of preprocess made this tokenizer."""
    folder = DATA / "preprocess" / "processor"
    return (folder / "tokenizer.json").is_file() and describe_tokenizer(folder).identity == identity


def may_be_trained(tokenizer: Tokenizer, wrapped: bool, tree: dict[str, Any]) -> bool:
    """Whether preprocess could have trained it with these parameters, on whatever texts."""
    settings = tree["preprocess"]["tokenizer"]
    special = preprocessing_of(tree["kind"]).SPECIAL_TOKENS
    return (
        isinstance(tokenizer.model, models.BPE)
        and [tokenizer.token_to_id(name) for name in special] == list(range(len(special)))
        and tokenizer.get_vocab_size() <= settings.get("vocab_size", 1024)
        and wrapped == settings.get("wrap", False)
    )


def notes_on_rates(blocks: dict[str, Any]) -> list[str]:
    """What to say of learning rates that are too high for pretrained models."""
    teacher, student = blocks["train_teacher"].train_teacher, blocks["train_student"].student
    finetune = blocks["finetune"].finetune
    notes = [
        note_on_rate("train_teacher.training", teacher.model.pretrained, teacher.training.optimizer),
        note_on_rate("student.training", student.model.pretrained, student.training.optimizer),
    ]
    return [note for note in notes if note] + finetune.notes_on_rates(student, teacher)
