"""Whether every pretrained model gets the ids of its own tokenizer, as far as local folders tell. Nothing heavy is imported.

`preprocess` makes the tokenizers before any model: it reads no model's block, so a model's tokenizer is named once more, the
student's in `preprocess.tokenizer.pretrained`, and the teacher's, if it is another one, in `preprocess.teacher`.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models

from stillhouse.core.artifacts import DATA, MANIFEST
from stillhouse.core.checkout import local_folder
from stillhouse.core.errors import ArtifactError, ParamsError
from stillhouse.core.shipped import TEACHER
from stillhouse.data.pretrained_tokenizer import fetch_pretrained, read_tokenizer, require_room
from stillhouse.data.tokenizer import describe_tokenizer, frame_of
from stillhouse.data.tokenizer_identity import identity_of
from stillhouse.preprocessing.kinds import preprocessing_of
from stillhouse.training.optim.rates import note_on_rate
from tasks.checks.model_blocks import named_models


@dataclass(frozen=True)
class Reader:
    """A tokenizer of the pipeline: the student's, or the teacher's own."""

    block: str
    """The block with its parameters."""
    settings: dict[str, Any]
    teacher: bool
    """Whether it is the teacher's alone."""
    processor: Path
    """Where the last run of preprocess left it."""

    @property
    def key(self) -> str:
        return f"{self.block}.tokenizer.pretrained"


STUDENTS = DATA / "preprocess" / "processor"
OF_TEACHERS = ("train_teacher.", "export_soft_labels.")
"""How keys of models begin that read what the teacher reads."""


def check_tokenizers(tree: dict[str, Any]) -> list[str]:
    """Notes on models whose tokenizer only the stage can compare.

    Raises ParamsError or ArtifactError naming the key of a model with another tokenizer than the pipeline's, or with none.
    """
    preprocess = tree["preprocess"]
    if "tokenizer" not in preprocess:
        return []
    students = Reader("preprocess", preprocess["tokenizer"], False, STUDENTS)
    models = list(pretrained_models(tree))
    if preprocess.get("teacher") is None:
        return check_reader(students, models, tree)
    teachers = Reader("preprocess.teacher", preprocess["teacher"]["tokenizer"], True, TEACHER / "processor")
    theirs = [model for model in models if model[0].startswith(OF_TEACHERS)]
    ours = [model for model in models if not model[0].startswith(OF_TEACHERS)]
    return check_reader(teachers, theirs, tree) + check_reader(students, ours, tree)


Model = tuple[str, str, Path | None]
"""Key, value, and the folder with the weights (None: on the hub)."""


def check_reader(reader: Reader, models: list[Model], tree: dict[str, Any]) -> list[str]:
    """Notes on the models that read by one tokenizer; raises as `check_tokenizers`."""
    given = reader.settings.get("pretrained")
    folder = local_folder(given) if given else None
    needs_end = preprocessing_of(tree["kind"]).NEEDS_END_TOKEN
    ours = None if given is None or folder is None else identity_given(given, reader.key, needs_end)
    notes: list[str] = []
    without_key: list[tuple[str, str, str | None]] = []
    for key, name, place in models:
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
                f"{named}, whose tokenizer is another one than that of '{reader.key}' ('{given}'): its token ids mean "
                f"something else; {remedy(key, name, tree)}"
            )
        if given is None and not is_present(found, reader.processor):
            if may_be_trained(tokenizer, bool(prefix), reader, tree):
                notes.append(
                    f"{named}: whether its tokenizer is the one that preprocess trains, only the stage can tell; "
                    f"'{reader.key}: {name}' makes sure of it"
                )
            else:
                without_key.append((key, name, found))
    refuse_without_key(without_key, reader, tree)
    return notes


def remedy(key: str, name: str, tree: dict[str, Any]) -> str:
    """What to do about a model that does not read by the tokenizer it is given."""
    if key.startswith(OF_TEACHERS) and "max_tokens" in tree["preprocess"] and tree["preprocess"].get("teacher") is None:
        return (
            f"give the teacher its own: 'preprocess.teacher: {{tokenizer: {{pretrained: {name}}}, max_tokens: 128}}', or take "
            "a model of the same tokenizer"
        )
    return "take a model of the same tokenizer, or give all that read by it this one's"


def refuse_without_key(needy: list[tuple[str, str, str | None]], reader: Reader, tree: dict[str, Any]) -> None:
    """Raises ParamsError for models (key, name, identity if known) of another tokenizer than preprocess would train."""
    if not needy:
        return
    for (key, name, one), (other_key, other_name, other) in pairwise(model for model in needy if model[2] is not None):
        if one != other:
            raise ParamsError(
                f"'{key}' is '{name}' and '{other_key}' is '{other_name}', whose tokenizers differ: take two models of the "
                f"same one, and name it as '{reader.key}'"
                + (
                    ""
                    if reader.teacher or "max_tokens" not in tree["preprocess"]
                    else ", or give the teacher its own as 'preprocess.teacher'"
                )
            )
    key, name, _ = needy[0]
    own = remedy(key, name, tree)
    raise ParamsError(
        f"'{key}' is '{name}', which brings a tokenizer of its own, and '{reader.key}' is not set: preprocess would train "
        "another, whose token ids mean something else to that model; "
        + (own if own.startswith("give the teacher") else f"set '{reader.key}: {name}'")
    )


def pretrained_models(tree: dict[str, Any]) -> Iterator[Model]:
    """Every pretrained model that parameters name."""
    for key, name, file in named_models(tree):
        if name is not None and file == "config.json":
            folder = local_folder(name)
            inner = folder and not (folder / file).is_file() and (folder / "model" / file).is_file()
            yield key, name, folder / "model" if folder and inner else folder


def identity_given(given: str, key: str, needs_end: bool) -> str:
    """The identity of the tokenizer that preprocess will take from a local folder. Raises StillhouseError as it would."""
    with tempfile.TemporaryDirectory() as place:
        fetch_pretrained(given, Path(place))
        facts = describe_tokenizer(Path(place), given)
    if needs_end and facts.eos_id is None:
        raise ParamsError(
            f"'{key}' is '{given}', which names no 'eos_token' that its vocabulary has; a causal language model needs one "
            "behind documents: set it in tokenizer_config.json"
        )
    return facts.identity


def is_present(identity: str, folder: Path) -> bool:
    """Whether the last run of preprocess made this tokenizer, in `folder`."""
    return (folder / "tokenizer.json").is_file() and describe_tokenizer(folder).identity == identity


def may_be_trained(tokenizer: Tokenizer, wrapped: bool, reader: Reader, tree: dict[str, Any]) -> bool:
    """Whether preprocess could have trained it with these parameters, on whatever texts."""
    settings = reader.settings
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
        teacher.training
        and note_on_rate("train_teacher.training", teacher.model.pretrained, teacher.training.optimizer, teacher.mode),
        note_on_rate("student.training", student.model.pretrained, student.training.optimizer),
    ]
    return [note for note in notes if note] + finetune.notes_on_rates(student, teacher)
