"""What `dvc.yaml` says of a stage: its deps cover every module that it imports, and little else makes it stale."""

from dataclasses import fields
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from stillhouse.core.params import STAGES
from stillhouse.core.stage_entries import resolved
from stillhouse.kinds.protocol import EVERY_TRAINING
from stillhouse.kinds.registry import KINDS
from tests.helpers.imports import LIBRARY, PIPELINE, ROOT, library_room, module_file, reached


@pytest.mark.parametrize("stage", STAGES)
def test_params_of_dvc_are_the_blocks_that_the_stage_reads(stage):
    read = {field.name for field in fields(import_module(f"tasks.{stage}").Params)}
    assert set(PIPELINE[stage]["params"]) == read


@cache
def loaded(stage: str, kind: str) -> frozenset[Path]:
    """Files of the library and of `tasks` that a stage may import, with the modules that its kind names for it."""
    read = {field.name for field in fields(import_module(f"tasks.{stage}").Params)}
    modules = {module for _, module in KINDS[kind].parts(stage)}
    modules |= {place.partition(":")[0] for block, place in KINDS[kind].blocks.items() if block in read}
    start = [ROOT / "tasks" / f"{stage}.py", *(path for module in modules if (path := module_file(module)))]
    if "tasks.launch" in PIPELINE[stage]["cmd"]:
        start.append(ROOT / "tasks" / "launch.py")
    found = {file for begin in start for file in reached(begin)}
    return frozenset(path for path in found if path.name != "__init__.py" or path.read_text())


def stale_after(path: Path, kind: str) -> set[str]:
    """Stages that DVC runs again when a file is edited."""
    pipeline = resolved(PIPELINE, {"rooms": KINDS[kind].rooms})
    deps = {stage: [ROOT / dep for dep in entry["deps"]] for stage, entry in pipeline.items()}
    return {stage for stage, names in deps.items() if path in names or set(names) & set(path.parents)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stage", STAGES)
def test_deps_cover_every_module_that_the_stage_imports(stage, kind):
    for path in loaded(stage, kind):
        assert stage in stale_after(path, kind), f"{stage} imports {path.relative_to(ROOT)}, which its deps do not name"


def test_trainings_depend_on_pretrained_models_and_on_no_other_own_data():
    """On the whole folder: which model a training reads stands in its parameters, and DVC cannot look it up there."""
    own = {stage: [dep for dep in entry["deps"] if dep.startswith("data/raw")] for stage, entry in PIPELINE.items()}
    assert {stage for stage, deps in own.items() if deps == ["data/raw/models"]} == set(EVERY_TRAINING)
    assert {stage for stage, deps in own.items() if deps == ["data/raw"]} == {"ingest", "preprocess", "export_soft_labels"}
    # DVC refuses what is not there; a fresh clone has the folder.
    assert (ROOT / "data" / "raw" / "models" / ".gitkeep").is_file()
    assert "data/raw/models/.gitkeep" in (ROOT / ".dvcignore").read_text().splitlines()


# Stages that cost minutes to hours: what does not concern them must not make them stale.
COSTLY = {"train_teacher", "export_soft_labels", "train_student", "train_baseline", "finetune"}
EVERYBODYS = {"kinds", "core", "data", "runtime", "models"}
"""Rooms that whole stages are built on; they are not cut any finer."""
COARSE = {
    "losses/dense.py": "of the targets with a distribution over classes or ids",
    "losses/teacher_targets.py": "likewise",
    "soft_labels/format/dataset.py": "for users: no stage reads it",
    "soft_labels/produce/foreign_files.py": "of the targets that have a form for labels from elsewhere",
    "soft_labels/produce/bases.py": "of one target, and above no modality",
    "soft_labels/produce/sampling.py": "likewise",
    "training/frozen_body.py": "of the targets whose rows have labels",
    "training/parallel/block_reading.py": "of one target, and transfer asks it too",
    "modalities/text/rows/teacher_vectors.py": "of one modality, which has no room for one training of four",
    "modalities/blocks/table/packing.py": "what a table of blocks is made by stands beside it",
    "modalities/blocks/rows/ngram_model.py": "the yardstick of a modality is one of its models",
    "soft_labels/produce/rows_export.py": "of the targets whose rows have labels",
    "targets/classes/train/image_training_config.py": "of a pair of modality and target, and there is no room for pairs",
    "targets/classes/predict/class_chance.py": "what predictions are held against",
    "targets/classes/predict/class_scores.py": "likewise",
    "targets/label_set/predict/label_chance.py": "likewise",
    "targets/label_set/predict/label_scores.py": "likewise",
    "targets/label_set/predict/thresholds.py": "likewise",
    "targets/next_token/predict/language_predict.py": "likewise",
    "targets/next_token/predict/token_chance.py": "likewise",
}
"""Files of other rooms that costly stages depend on without loading them, and why."""


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_concern_a_costly_stage_does_not_make_it_stale(kind):
    for path in LIBRARY:
        name = str(path.relative_to(ROOT / "stillhouse"))
        if library_room(path) in EVERYBODYS or name in COARSE:
            continue
        needless = {stage for stage in stale_after(path, kind) & COSTLY if path not in loaded(stage, kind)}
        assert not needless, f"a change in {name} makes {needless} stale, which do not load it"


def test_no_exception_is_needless():
    for name in COARSE:
        path = ROOT / "stillhouse" / name
        assert any(path not in loaded(stage, kind) for kind in KINDS for stage in stale_after(path, kind) & COSTLY), name


@pytest.mark.parametrize(
    ("edited", "stale"),
    [
        ("reporting/report_style.css.jinja", {"report"}),
        ("gate/*", set()),
        ("modalities/*/gate/*", set()),
        ("transfer/lora.py", {"finetune", "train_teacher"}),
        ("modalities/blocks/*/*", set()),
        ("targets/next_token/*/*", set()),
        ("targets/label_set/*/*", set()),
        ("modalities/images/*/*", set()),
        ("distillation/*", {"train_student"}),
        ("targets/classes/train_student/*", {"train_student"}),
        ("soft_labels/produce/*", {"export_soft_labels"}),
        ("packaging/*", {"export_model"}),
        ("training/loop.py", {"train_teacher", "train_student", "train_baseline", "finetune"}),
    ],
)  # fmt: skip
def test_an_edit_makes_those_stages_of_a_text_classification_stale(edited, stale):
    paths = [path for path in (ROOT / "stillhouse").glob(edited) if path.is_file()]
    assert paths, f"nothing is called stillhouse/{edited}"
    for path in paths:
        assert stale_after(path, "text_classification") == stale, path
