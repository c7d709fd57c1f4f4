"""The contract of a kind: every module that it names is there and holds what the protocol of its part says."""

import ast
import inspect
import re
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path

import pytest

from stillhouse.comparison.kinds import Comparison
from stillhouse.core.errors import ParamsError
from stillhouse.core.params import FLOW_BLOCKS, SHARED_BLOCKS, STAGES, build, listed, load, of_kind, read_yaml
from stillhouse.distillation.kinds import StudentObjective
from stillhouse.evaluation.kinds import Evaluation
from stillhouse.gate.decision import GateParams
from stillhouse.gate.kinds import Judge
from stillhouse.gate.trial import Trial
from stillhouse.kinds.registry import KINDS, kind_of
from stillhouse.kinds.text_classification import TEXT_CLASSIFICATION
from stillhouse.models.kinds import Models, StudentStart
from stillhouse.packaging.kinds import Packaging
from stillhouse.preprocessing.kinds import Preprocessing
from stillhouse.reporting.page import Page
from stillhouse.soft_labels.produce.kinds import Export, Import
from stillhouse.sources.kinds import Ingestion
from stillhouse.training.kinds import Trainer
from tests.helpers.tiny_run import ROOT

PROTOCOLS = {
    "ingestion": Ingestion, "preprocessing": Preprocessing, "student_start": StudentStart, "models": Models,
    "training": Trainer, "soft_labels": Export, "imported": Import, "objective": StudentObjective,
    "evaluation": Evaluation, "package": Packaging, "page": Page, "judge": Judge, "trial": Trial, "comparison": Comparison,
}  # fmt: skip
PARTS = [name for name, _ in TEXT_CLASSIFICATION.parts()]
OPTIONAL = ("student_start", "imported")
"""What some kinds do without."""
RECIPES = {
    "text_classification": "tiny",
    "causal_lm": "tiny_lm",
    "image_classification": "tiny_image",
    "multi_label": "tiny_multi_label",
}
"""Of every kind, one that is valid."""


def wanting(module: object, protocol: type) -> list[str]:
    """Members of the protocol that the module lacks, or whose parameters have other names."""
    found = []
    for name, member in vars(protocol).items():
        if name.startswith("_"):
            continue
        if not hasattr(module, name):
            found.append(f"{name} is missing")
        elif inspect.isfunction(member):
            asked = [each for each in inspect.signature(member).parameters if each != "self"]
            given = list(inspect.signature(getattr(module, name)).parameters)
            if asked != given:
                found.append(f"{name} takes {given}, and not {asked}")
    return found


def test_every_part_has_a_protocol():
    assert sorted(PROTOCOLS) == sorted(PARTS)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_holds_all_that_is_asked_of_it(kind, part):
    place = dict(KINDS[kind].parts()).get(part)
    if place is None:
        assert part in OPTIONAL
        return
    assert wanting(import_module(place), PROTOCOLS[part]) == [], f"{place} of kind {kind}"


def test_a_member_that_is_missing_is_told_by_its_name():
    class Halfway:
        TEMPLATE = "page"

    assert wanting(Halfway, Page) == ["show is missing"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_blocks_of_a_kind_are_blocks_that_some_stage_reads(kind):
    known = {*STAGES, *SHARED_BLOCKS, *FLOW_BLOCKS}
    for name in KINDS[kind].blocks:
        assert name in known
        declared = KINDS[kind].block(name)
        assert is_dataclass(declared)
        assert declared.__pydantic_config__["extra"] == "forbid"


@pytest.mark.parametrize("kind", KINDS)
def test_a_recipe_of_the_kind_is_valid_for_every_stage_and_the_gate(kind):
    path = ROOT / "recipes" / f"{RECIPES[kind]}.yaml"
    assert kind_of(read_yaml(path)) == kind
    assert (ROOT / "recipes" / f"{KINDS[kind].own_recipe}.yaml").is_file()
    for stage in STAGES:
        load(import_module(f"tasks.{stage}").Params, path)
    load(GateParams, path)


BETWEEN = [
    ("train_teacher", "train_teacher.training.label_smoothing", 0.1),
    ("train_student", "student.training.label_smoothing", 0.1),
    ("train_baseline", "train_baseline.label_smoothing", 0.1),
    ("train_student", "student.training.metric", "macro_f1"),
    ("finetune", "finetune.training.metric", "macro_f1"),
    ("train_baseline", "student.training.imbalance", {"class_weights": "inverse"}),
    ("train_teacher", "views.count", 4),
    ("preprocess", "preprocess.lowercase", False),
    ("preprocess", "preprocess.tokenizer.wrap", False),
    ("finetune", "finetune.examples_per_class", 10),
    ("finetune", "finetune.mode", "frozen"),
]


OF_TEXTS = ("text_classification", "multi_label")
HAVE = {
    "preprocess.lowercase": OF_TEXTS,
    "preprocess.tokenizer.wrap": OF_TEXTS,
    "views.count": ("text_classification", "image_classification", "multi_label"),
    "student.training.imbalance": ("text_classification", "image_classification", "multi_label"),
}
"""Kinds that have a key, where they are others than those of classes."""


@pytest.mark.parametrize(("stage", "key", "value"), BETWEEN, ids=[key for _, key, _ in BETWEEN])
def test_what_a_language_model_does_not_have_is_refused_at_once(stage, key, value):
    tree = read_yaml(ROOT / "recipes" / "tiny_lm.yaml")
    *path, last = key.split(".")
    block = tree
    for name in path:
        block = block[name]
    block[last] = value
    params = import_module(f"tasks.{stage}").Params
    wanted = {field.name for field in fields(params)}
    with pytest.raises(ParamsError) as caught:
        build(params, {name: tree[name] for name in wanted}, "params.yaml")
    said = str(caught.value)
    if last in ("metric", "mode"):
        assert f"'{key}' is '{value}' (str), expected" in said
    else:
        kinds = [kind for kind in KINDS if kind in HAVE.get(key, ("text_classification", "image_classification"))]
        assert said == f"params.yaml: '{key}' is a parameter of kind {listed(kinds)}, and 'kind' is causal_lm; leave it out"


def test_a_temperature_that_changes_is_refused_where_soft_labels_are_drawn_at_one():
    tree = read_yaml(ROOT / "recipes" / "tiny_lm.yaml")
    params = import_module("tasks.train_student").Params
    tree["train_student"]["distillation"] |= {"temperature": {"start": 2.0, "end": 1.0}}
    wanted = {field.name: tree[field.name] for field in fields(params)}
    with pytest.raises(ParamsError, match=r"'train_student': distillation\.temperature changes over the training, but sampled"):
        build(params, wanted, "params.yaml")
    tree["train_student"]["distillation"]["teacher"] = "online"
    build(params, wanted, "params.yaml")


def test_a_key_of_no_kind_names_the_nearest_of_its_own():
    tree = read_yaml(ROOT / "recipes" / "tiny.yaml")
    tree["views"]["cuont"] = 2
    params = import_module("tasks.train_teacher").Params
    with pytest.raises(ParamsError, match=r"unknown parameter 'views\.cuont'; did you mean 'count'\?"):
        build(params, {field.name: tree[field.name] for field in fields(params)}, "params.yaml")


@pytest.mark.parametrize("name", ["text_clasification", "", None, 3, ["causal_lm"], {"causal_lm": 1}], ids=repr)
def test_a_kind_that_there_is_not_is_one_line(name):
    wanted = re.escape(f"'kind' is {name!r}, expected one of {', '.join(KINDS)}")
    with pytest.raises(ParamsError, match=wanted):
        build(import_module("tasks.evaluate").Params, {"kind": name}, "params.yaml")


def test_blocks_of_a_kind_are_made_of_those_that_a_stage_declares():
    params = import_module("tasks.finetune").Params
    for kind in KINDS.values():
        assert issubclass(of_kind(params, kind), params)


def is_about_kinds(node: ast.AST) -> bool:
    """A comparison with the name of a kind, also among others, or a look-up by one."""
    if isinstance(node, ast.Dict):
        places: list = node.keys
    elif isinstance(node, ast.Compare | ast.MatchValue | ast.MatchOr):
        places = list(ast.walk(node))
    else:
        return False
    return any(isinstance(place, ast.Constant) and place.value in KINDS for place in places)


@pytest.mark.parametrize("room", ["stillhouse", "tasks", "flows"])
def test_nobody_compares_with_a_kind(room):
    """A place that asks which kind it is forgets the next one."""
    for path in (ROOT / room).rglob("*.py"):
        if (ROOT / "stillhouse" / "kinds") in path.parents:
            continue
        tree = ast.parse(path.read_text())
        compared = [node.lineno for node in ast.walk(tree) if is_about_kinds(node)]
        assert compared == [], f"{path.relative_to(ROOT)}:{compared[0]} compares with a kind"


def test_a_stage_asks_a_kind_for_the_parts_that_are_said_to_be_its_own():
    """By the functions that load them: `dvc.yaml` names what a stage depends on by the same table."""
    loaders = {
        "ingestion_of": "ingestion", "preprocessing_of": "preprocessing", "models_of": "models", "trainer_of": "training",
        "export_of": "soft_labels", "objective_of": "objective", "evaluation_of": "evaluation", "packaging_of": "package",
        "comparison_of": "comparison",
    }  # fmt: skip
    for stage in STAGES:
        text = Path(ROOT / "tasks" / f"{stage}.py").read_text()
        asked = {part for loader, part in loaders.items() if f"{loader}(" in text}
        assert asked <= {part for part, _ in TEXT_CLASSIFICATION.parts(stage)}, stage
