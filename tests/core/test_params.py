"""Parameters: whatever `params.yaml` says wrongly is refused in one line that names the key."""

import copy
import json
import math
import os
import subprocess
import sys
from dataclasses import FrozenInstanceError
from importlib import import_module

import pytest

from stillhouse.core.errors import ParamsError
from stillhouse.core.params import STAGES, build, load, read_yaml
from stillhouse.sources.config import Ingest
from tasks.ingest import Params as IngestParams
from tasks.preprocess import Params as PreprocessParams
from tasks.train_baseline import Params as BaselineParams
from tests.conftest import ROOT

MISSING = object()


def changed(params: dict, key: str, value) -> dict:
    """`params` with another value at the dotted key; MISSING takes the key away."""
    params = copy.deepcopy(params)
    *path, last = key.split(".")
    place = params
    for name in path:
        place = place[name]
    if value is MISSING:
        del place[last]
    else:
        place[last] = value
    return params


def refused(project, params_type, key: str, value) -> str:
    """The message with which `params.yaml` is refused once `key` has that value."""
    text = json.dumps(changed(project.params, key, value)).replace("NaN", ".nan").replace("Infinity", ".inf")
    (project.folder / "params.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ParamsError, match=r"^params\.yaml: ") as caught:
        load(params_type)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("path", [ROOT / "params.yaml", *sorted((ROOT / "recipes").glob("*.yaml"))], ids=lambda p: p.stem)
def test_every_recipe_is_valid_for_every_stage(path):
    for stage in STAGES:
        load(import_module(f"tasks.{stage}").Params, path)


def test_an_unknown_block_is_refused_with_the_nearest_name(project):
    message = refused(project, IngestParams, "preproces", {})
    assert message == "params.yaml: unknown parameter 'preproces'; did you mean 'preprocess'?"


def test_an_unknown_block_without_a_near_name_gets_the_list(project):
    message = refused(project, IngestParams, "zzz", {})
    assert message.startswith("params.yaml: unknown parameter 'zzz'; known: evaluate, ")


def test_a_missing_block_is_named(project):
    assert refused(project, PreprocessParams, "preprocess", MISSING) == "params.yaml: parameter 'preprocess' is missing"


def test_an_empty_block_is_refused(project):
    assert refused(project, PreprocessParams, "preprocess", None).startswith("params.yaml: 'preprocess' is None")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("preprocess.max_token", 3, "unknown parameter 'preprocess.max_token'; did you mean 'max_tokens'?"),
        ("preprocess.split.test_shar", 0.1, "unknown parameter 'preprocess.split.test_shar'; did you mean 'test_share'?"),
        ("preprocess.split.qqq", 1, "unknown parameter 'preprocess.split.qqq'; known: test_share, validation_share"),
        ("preprocess.split.test_share", MISSING, "parameter 'preprocess.split.test_share' is missing"),
        ("preprocess.max_tokens", "64", "'preprocess.max_tokens' is '64' (str), expected integer"),
        ("preprocess.max_tokens", 6.5, "'preprocess.max_tokens' is 6.5 (float), expected integer"),
        ("preprocess.max_tokens", True, "'preprocess.max_tokens' is True (bool), expected integer"),
        ("preprocess.max_tokens", None, "'preprocess.max_tokens' is None (NoneType), expected integer"),
        ("preprocess.lowercase", "no", "'preprocess.lowercase' is 'no' (str), expected boolean"),
        ("preprocess.withheld_labels", "0.1", "'preprocess.withheld_labels' is '0.1' (str), expected number"),
        ("preprocess.max_tokens", 0, "'preprocess': max_tokens must be at least 1, is 0"),
        ("preprocess.withheld_labels", 1.0, "'preprocess': withheld_labels must lie in [0, 1), is 1.0"),
        ("preprocess.split.test_share", 0.5, "'preprocess.split': validation_share and test_share must each lie between"),
        ("preprocess.tokenizer.vocab_size", 260, "'preprocess.tokenizer': vocab_size must be at least 261"),
        ("preprocess.split.test_share", math.nan, "'preprocess.split.test_share' is nan (float), expected a finite number"),
        ("preprocess.split.test_share", math.inf, "'preprocess.split.test_share' is inf (float), expected a finite number"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key_and_what_was_expected(project, key, value, message):
    assert refused(project, PreprocessParams, key, value).startswith(f"params.yaml: {message}")


def test_a_misspelt_key_is_reported_before_the_key_that_it_leaves_missing(project):
    split = {"validation_share": 0.1, "tset_share": 0.1}
    message = refused(project, PreprocessParams, "preprocess.split", split)
    assert message == "params.yaml: unknown parameter 'preprocess.split.tset_share'; did you mean 'test_share'?"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"kind": "csv"}, "'ingest.source.kind' is 'csv', expected one of 'sample', 'files', 'hub'"),
        ({"task": "languages"}, "parameter 'ingest.source.kind' is missing"),
        ({"kind": "sample"}, "parameter 'ingest.source.task' is missing"),
        ({"kind": "files"}, "parameter 'ingest.source.train' is missing"),
        (
            {"kind": "sample", "task": "languages", "train": "a.csv"},
            "unknown parameter 'ingest.source.train'; known: kind, labels, max_rows, task",
        ),
        (
            {"kind": "files", "train": "a.csv", "max_row": 5},
            "unknown parameter 'ingest.source.max_row'; did you mean 'max_rows'?",
        ),
        ({"kind": "files", "train": 5}, "'ingest.source.train' is 5 (int), expected string"),
        ({"kind": "files", "train": "a.csv", "labels": ["a", 1]}, "'ingest.source.labels.1' is 1 (int), expected string"),
        ({"kind": "files", "train": "a.csv", "max_rows": 0}, "'ingest.source.max_rows' is 0 (int), expected greater than"),
        ({"kind": "files", "train": "a.csv", "delimiter": "||"}, "'ingest.source.delimiter': delimiter must be one character"),
        (
            {"kind": "sample", "task": "cats"},
            "'ingest.source.task' is 'cats' (str), expected 'languages', 'varieties', 'python' or 'web'",
        ),
        ("sample", "'ingest.source' is 'sample' (str), expected"),
    ],
)
def test_a_source_is_judged_by_the_keys_of_its_own_kind(project, source, message):
    assert refused(project, IngestParams, "ingest.source", source).startswith(f"params.yaml: {message}")


def test_yaml_is_read_as_version_1_2(project):
    (project.folder / "params.yaml").write_text(
        """
kind: text_classification
rooms: {modality: text, target: classes, teacher_data: preprocess/teacher}
ingest: {source: {kind: sample, task: languages, labels: [no, on, off, yes, de]}, new: {kind: sample, task: varieties}}
preprocess: {lowercase: false, split: {validation_share: 1e-1, test_share: 1.5E-1}, tokenizer: {}, max_tokens: 064,
  withheld_labels: 0.0}
"""
    )
    assert load(IngestParams).ingest.source.labels == ["no", "on", "off", "yes", "de"]
    preprocess = load(PreprocessParams).preprocess
    assert (preprocess.split.validation_share, preprocess.split.test_share) == (0.1, 0.15)
    assert preprocess.max_tokens == 64


@pytest.mark.parametrize("value", ["half", 1.5, None])
def test_a_value_that_may_be_of_two_types_is_named_by_its_own_key(project, value):
    message = refused(project, BaselineParams, "student.training.batch_size", value)
    assert message.startswith("params.yaml: 'student.training.batch_size' is ")


@pytest.mark.parametrize("word", ["no", "yes", "off", "1e-3x"])
def test_a_word_is_not_taken_for_a_truth_value_or_number(project, word):
    assert f"is '{word}' (str), expected boolean" in refused(project, PreprocessParams, "preprocess.lowercase", word)


def test_a_missing_file_is_refused(project):
    (project.folder / "params.yaml").unlink()
    with pytest.raises(ParamsError, match=r"^params\.yaml is missing; run the command in the root of the repository$"):
        load(IngestParams)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"ingest: {source: [", "is not valid YAML: "),
        (b"ingest:\n\tsource: 1\n", "is not valid YAML: "),
        (b"seed: 1\nseed: 2\n", 'found duplicate key "seed"'),
        (b"seed: \xff\n", "is not valid YAML: "),
        (b"- seed\n", "holds list, expected a mapping"),
        (b"", "holds NoneType, expected a mapping"),
    ],
)
def test_a_file_that_is_no_mapping_in_yaml_is_refused_in_one_line(project, content, message):
    (project.folder / "params.yaml").write_bytes(content)
    with pytest.raises(ParamsError, match=r"^params\.yaml ") as caught:
        load(IngestParams)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_parameters_cannot_be_changed_after_reading(project):
    params = load(PreprocessParams)
    with pytest.raises(FrozenInstanceError, match="cannot assign"):
        params.preprocess.max_tokens = 3


def test_the_caller_may_build_a_block_of_its_own():
    sample = {"kind": "sample", "task": "languages"}
    assert build(Ingest, {"source": sample, "new": sample}, "here").source.task == "languages"
    with pytest.raises(ParamsError, match=r"^here: parameter 'new' is missing$"):
        build(Ingest, {"source": sample}, "here")


def test_check_accepts_a_good_file(project):
    done = project.command("tasks.check")
    assert (done.returncode, done.stdout, done.stderr) == (0, "params.yaml: all blocks are valid\n", "")


def test_check_refuses_a_bad_file_in_one_line_without_traceback(project):
    project.write_params(preprocess={**project.params["preprocess"], "max_token": 3})
    done = project.command("tasks.check")
    assert done.returncode == 1
    assert done.stderr == ("error: check: params.yaml: unknown parameter 'preprocess.max_token'; did you mean 'max_tokens'?\n")


@pytest.mark.parametrize(
    ("recipe", "stage", "config", "message"),
    [
        ("tiny", "train_teacher", {"hidden_size": 30}, "'train_teacher.model': model.config: hidden_size 30 must divide by"),
        ("tiny_lm", "student", {"hidden_sise": 8}, "'student.model': model.config: llama has no option 'hidden_sise'; did you"),
        ("tiny_lm", "student", {"max_position_embeddings": 8}, "'student.model': model: it has 8 positions, a block 64"),
    ],
)
def test_check_refuses_a_model_that_cannot_be_made(project, recipe, stage, config, message, check_here):
    tree = read_yaml(ROOT / "recipes" / f"{recipe}.yaml")
    tree[stage]["model"]["config"] |= config | ({"num_attention_heads": 4} if recipe == "tiny" else {})
    project.write_params(**tree)
    code, said = check_here(project.folder / "params.yaml")
    assert (code, said.count("\n")) == (1, 1), said
    assert message in said


def test_check_of_the_own_architecture_imports_nothing_heavy(project):
    code = "import sys; from tasks.check import main; main(); print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=project.folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True)  # fmt: skip
    assert done.stdout.endswith("valid\nset()\n"), done.stderr


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        ("tiny_lm", {"divergence": "reverse_kl"}, "is reverse_kl, which needs the teacher wherever the student has mass, but"),
        ("tiny_lm", {"temperature": 2.0}, "'train_student.distillation.temperature' is 2.0, but 'export_soft_labels.sampler"),
        ("tiny", {"teacher": "online"}, "is online, which asks the pipeline's own teacher alone, but 'export_soft_labels.mix"),
    ],
)
def test_blocks_that_do_not_go_together_are_refused_before_the_teacher_is_trained(project, recipe, changes, message):
    tree = read_yaml(ROOT / "recipes" / f"{recipe}.yaml")
    tree["train_student"]["distillation"] |= changes
    if recipe == "tiny":
        tree["export_soft_labels"]["mixture"] = [{"model": "data/raw/more", "share": 0.5}]
    project.write_params(**tree)
    done = project.command("tasks.check")
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (
            "kind: causal_lm\nrooms: {modality: text, target: classes, teacher_data: preprocess/teacher}\n",
            r"is \{'modality': 'text', 'target': 'classes', 'teacher_data': 'preprocess/teacher'\}",
        ),
        ("kind: causal_lm\n", "is missing"),
    ],
)
def test_stages_do_not_go_by_the_code_of_another_kind(project, written, message):
    (project.folder / "params.yaml").write_text(f"{written}seed: 1\n")
    wanted = r"; kind causal_lm needs 'rooms: \{modality: blocks, target: next_token, teacher_data: preprocess\}'"
    with pytest.raises(ParamsError, match=f"params.yaml: parameter 'rooms' {message}{wanted}"):
        load(IngestParams)
