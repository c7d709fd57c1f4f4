"""A pretrained model gets the ids of its own tokenizer, or is refused: by the check, and by the stage itself."""

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import processors
from transformers import AutoTokenizer

from stillhouse.core.artifacts import read_json, write_json
from stillhouse.core.errors import ArtifactError
from stillhouse.core.params import build
from stillhouse.data.tokenizer import (
    TokenizerFacts,
    TokenizerParams,
    WrappingTokenizer,
    describe_tokenizer,
    save_trained,
    train_bpe,
)
from stillhouse.models.own_tokenizer import require_own_tokenizer
from stillhouse.preprocessing.text_rules import write_document_rules, write_row_rules
from stillhouse.training.config import OptimizerParams
from stillhouse.training.optim.rates import note_on_rate
from tests.helpers.tiny_tokenizers import write_words
from tests.tasks.test_check import checked  # noqa: F401

ROWS = Path("data/preprocess/source")
VALID = "params.yaml: all blocks are valid\n"


def facts_of(identity: str, digest: str = "") -> TokenizerFacts:
    return TokenizerFacts(vocab_size=40, pad_id=0, prefix=[], suffix=[], digest=digest, identity=identity)


def model(folder: Path, first: str = "a", size: int = 40, rows: int = 40) -> Path:
    write_words(folder, size, first)
    write_json(folder / "config.json", {"model_type": "bert", "vocab_size": rows})
    (folder / "model.safetensors").touch()
    return folder


# ---- what makes a tokenizer another one ----


def changed(folder: Path, change) -> str:
    """The identity once tokenizer.json is changed."""
    tree = read_json(folder / "tokenizer.json")
    change(tree)
    (folder / "tokenizer.json").write_text(json.dumps(tree))
    return describe_tokenizer(folder).identity


def ids_swapped(tree: dict) -> None:
    vocabulary = tree["model"]["vocab"]
    vocabulary["word1"], vocabulary["word2"] = vocabulary["word2"], vocabulary["word1"]


OTHER = {
    "two ids swapped": ids_swapped,
    "a word renamed": lambda tree: tree["model"]["vocab"].update(other=tree["model"]["vocab"].pop("word5")),
    "lower case": lambda tree: tree.update(normalizer={"type": "Lowercase"}),
    "another split": lambda tree: tree.update(pre_tokenizer={"type": "Whitespace"}),
    "another unknown": lambda tree: tree["model"].update(unk_token="word3"),
    "a frame": lambda tree: tree.update(
        post_processor=json.loads(
            processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)]).__getstate__().decode()
        )
    ),
}
SAME = {
    "cut and padded": lambda tree: tree.update(
        truncation={"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        padding={"strategy": {"Fixed": 128}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
                 "pad_token": "<pad>"},
    ),
    "another way back": lambda tree: tree.update(decoder={"type": "Fuse"}),
    "a sequence of one": lambda tree: tree.update(
        pre_tokenizer={"type": "Sequence", "pretokenizers": [tree["pre_tokenizer"]]}
    ),
    "an older file": lambda tree: (tree["model"].pop("type"), tree.pop("truncation"), tree.pop("padding")),
    "words that are not called special": lambda tree: [token.update(special=False) for token in tree["added_tokens"]],
}  # fmt: skip


@pytest.mark.parametrize("change", OTHER)
def test_what_gives_texts_other_ids_is_another_tokenizer(tmp_path, change):
    before = write_words(tmp_path)
    assert changed(tmp_path, OTHER[change]) != before


@pytest.mark.parametrize("change", SAME)
def test_what_changes_no_id_is_the_same_tokenizer(tmp_path, change):
    before = write_words(tmp_path)
    assert changed(tmp_path, SAME[change]) == before


@pytest.mark.parametrize("documents", [False, True])
def test_the_pipelines_rules_and_a_save_by_transformers_change_nothing(tmp_path, documents):
    save_trained(train_bpe(["one two three"], WrappingTokenizer(vocab_size=270, wrap=not documents), documents), tmp_path / "a")
    facts = describe_tokenizer(tmp_path / "a")
    AutoTokenizer.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "saved")
    assert describe_tokenizer(tmp_path / "saved").identity == facts.identity
    if documents:
        write_document_rules(tmp_path / "a", facts)
    else:
        write_row_rules(tmp_path / "a", facts, True, 9)
    assert describe_tokenizer(tmp_path / "a").identity == facts.identity


# ---- the stage ----


def test_a_model_of_another_tokenizer_is_refused_by_the_stage(tmp_path):
    folder = model(tmp_path / "bert")
    require_own_tokenizer(str(folder), facts_of(describe_tokenizer(folder).identity), ROWS)
    other = facts_of(write_words(tmp_path / "other", first="b"))
    with pytest.raises(
        ArtifactError, match=r"^model\.pretrained '.*bert' was trained with tokenizer \w{12}, .* is \w{12}: its token ids mean"
    ):
        require_own_tokenizer(str(folder), other, ROWS)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(
        ArtifactError, match=r"bert' says nothing of its tokenizer; expected tokenizer\.json beside the weights"
    ):
        require_own_tokenizer(str(folder), other, ROWS)


def test_ids_that_a_model_has_no_embeddings_for_are_named(tmp_path):
    folder = model(tmp_path / "bert", rows=38)
    with pytest.raises(ArtifactError, match=r"have 38 rows .* 2 ids beyond: 'word34' \(38\), 'word35' \(39\); take these out"):
        require_own_tokenizer(str(folder), facts_of(describe_tokenizer(folder).identity), ROWS)


# ---- the check ----


def test_the_check_names_the_key_to_set(project, checked):  # noqa: F811
    model(project.folder / "models" / "bert")
    bert = {"pretrained": "models/bert"}
    said = checked(student__model=bert)
    assert said.startswith("'student.model.pretrained' is 'models/bert', which brings a tokenizer of its own, and ")
    assert said.endswith("set 'preprocess.tokenizer.pretrained: models/bert'")
    assert checked(student__model=bert, preprocess__tokenizer=bert).endswith(VALID)
    said = checked(student__model={"pretrained": f"owner/model@{'a' * 40}"})
    assert said.endswith(f"set 'preprocess.tokenizer.pretrained: owner/model@{'a' * 40}'")


def test_the_check_names_the_block_of_a_teachers_own_tokenizer(project, checked):  # noqa: F811
    """It reads by the student's where there is none, and then has to have the same."""
    bert = {"pretrained": str(model(project.folder / "models" / "bert").relative_to(project.folder))}
    own = {"tokenizer": bert, "max_tokens": 32}
    said = checked(train_teacher__model=bert)
    assert "'preprocess.tokenizer.pretrained' is not set: preprocess would train another" in said
    assert "give the teacher its own: 'preprocess.teacher: {tokenizer: {pretrained: models/bert}, max_tokens: 128}'" in said
    assert checked(train_teacher__model=bert, preprocess__teacher=own).endswith(VALID)
    assert checked(train_teacher__model=bert, preprocess__tokenizer=bert).endswith(VALID)
    other = {"pretrained": str(model(project.folder / "models" / "other", first="b").relative_to(project.folder))}
    said = checked(train_teacher__model=other, preprocess__teacher=own)
    assert "whose tokenizer is another one than that of 'preprocess.teacher.tokenizer.pretrained' ('models/bert')" in said
    said = checked(student__model=bert, preprocess__teacher=own)
    assert said.endswith("set 'preprocess.tokenizer.pretrained: models/bert'"), "the teacher's tokenizer is not the student's"


@pytest.mark.parametrize("key", ["train_teacher__model", "student__model", "finetune__start"])
def test_the_check_refuses_a_model_of_another_tokenizer(project, checked, key):  # noqa: F811
    model(project.folder / "models" / "bert")
    model(project.folder / "models" / "other", first="b")
    value = "models/other" if "start" in key else {"pretrained": "models/other"}
    said = checked(**{key: value, "preprocess__tokenizer": {"pretrained": "models/bert"}})
    assert (
        "is 'models/other', whose tokenizer is another one than that of 'preprocess.tokenizer.pretrained' ('models/bert')"
        in said
    )


def test_two_models_of_different_tokenizers_are_refused_by_name(project, checked):  # noqa: F811
    model(project.folder / "models" / "bert")
    model(project.folder / "models" / "other", first="b")
    said = checked(train_teacher__model={"pretrained": "models/bert"}, student__model={"pretrained": "models/other"})
    assert said.startswith(
        "'train_teacher.model.pretrained' is 'models/bert' and 'student.model.pretrained' is 'models/other', whose tokenizers"
    )


def test_a_model_without_its_tokenizer_is_refused_with_what_to_do(project, checked):  # noqa: F811
    folder = model(project.folder / "models" / "bert")
    (folder / "tokenizer.json").unlink()
    said = checked(train_teacher__model={"pretrained": "models/bert"})
    assert said.startswith(
        "'train_teacher.model.pretrained' is 'models/bert', a model without its tokenizer: nothing says what"
    )


def test_a_model_of_our_own_tokenizer_is_left_to_the_stage(project, checked):  # noqa: F811
    folder = project.folder / "models" / "own"
    save_trained(train_bpe(["one two"], TokenizerParams(vocab_size=270)), folder)
    write_json(folder / "config.json", {"model_type": "ngram_encoder", "vocab_size": 300})
    (folder / "model.safetensors").touch()
    said = checked(finetune__start="models/own")
    assert said.startswith(
        "note: 'finetune.start' is 'models/own': whether its tokenizer is the one that preprocess trains, only"
    )
    assert said.endswith(VALID)
    shutil.copytree(folder, project.folder / "data" / "preprocess" / "processor")
    assert checked(finetune__start="models/own") == VALID


# ---- rates ----


def optimizer(name: str, rate: float) -> OptimizerParams:
    return build(OptimizerParams, {"name": name, "learning_rate": rate}, "here")


def test_rates_that_undo_what_a_model_knows_are_said(tmp_path):
    folder = str(model(tmp_path / "bert"))
    said = note_on_rate("train_teacher.training", folder, optimizer("adamw", 3e-3))
    assert said is not None
    assert said.startswith("'train_teacher.training.optimizer.learning_rate' is 0.003 for all layers of '")
    for quiet in (optimizer("adamw", 5e-4), optimizer("sgd", 0.1)):
        assert note_on_rate("x", folder, quiet) is None
    for mode in ("frozen", "lora"):
        assert note_on_rate("finetune.training", folder, optimizer("adamw", 3e-3), mode) is None
    assert note_on_rate("x", None, optimizer("adamw", 3e-3)) is None
    write_json(Path(folder) / "config.json", {"model_type": "ngram_encoder"})
    assert note_on_rate("x", folder, optimizer("adamw", 3e-3)) is None


def test_the_check_says_so_too(project, checked):  # noqa: F811
    bert = {"pretrained": str(model(project.folder / "models" / "bert").relative_to(project.folder))}
    training = project.params["train_teacher"]["training"] | {"optimizer": {"name": "adamw", "learning_rate": 3e-3}}
    said = checked(train_teacher={"model": bert, "training": training}, preprocess__tokenizer=bert)
    assert "note: 'train_teacher.training.optimizer.learning_rate' is 0.003 for all layers of 'models/bert'" in said
