"""Pictures, from the sample to the package: every stage in one process, and what holds between them."""

import json
import os
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from stillhouse.core.errors import ArtifactError, ParamsError
from stillhouse.core.params import STAGES, build, read_yaml
from stillhouse.gate.decision import main as gate
from stillhouse.modalities.images.export_model.image_package import open_package, raw_images
from stillhouse.modalities.images.preprocess.preprocess_images import preprocess
from stillhouse.modalities.images.rows import image_task
from stillhouse.modalities.images.rows.image_task import ImageTask, read_task
from stillhouse.modalities.images.table.image_config import ImageViews
from stillhouse.modalities.images.table.images import read_images
from stillhouse.models.config import ModelParams
from stillhouse.runtime.distributed import Ranks
from stillhouse.soft_labels.format.store import SoftLabels
from stillhouse.targets.classes.losses.class_losses import ClassDistillation, CrossEntropy, mixed_cross_entropy_sum
from stillhouse.targets.classes.train.classifier import fit
from stillhouse.targets.classes.train.image_training_config import ImageTraining
from stillhouse.targets.classes.train_student.classifier_objective import stored_log_probs
from stillhouse.training.stage_config import LoraParams
from stillhouse.transfer.lora import add_lora
from tasks.checks.model_blocks import check_together
from tests.helpers.tiny_run import ROOT

ALONE = Ranks(0, 1, 0, 1, torch.device("cpu"))
RECIPE = ROOT / "recipes" / "tiny_image.yaml"
SOURCE = Path("data/preprocess/source")


def run_stage(stage: str, tree: dict) -> None:
    """As `python -m tasks.STAGE` does, in this process and without its checks of the environment."""
    module = import_module(f"tasks.{stage}")
    params = build(module.Params, {field.name: tree[field.name] for field in fields(module.Params)}, "params.yaml")
    out = Path("data") / stage
    out.mkdir(parents=True)
    ranked = "ranks" in module.run.__annotations__
    timing = module.run(params, out, ALONE) if ranked else module.run(params, out)
    (out / "timing.json").write_text(json.dumps({"seconds": 1.0, **(timing or {})}))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    """The folder of a run of the tiny recipe. Shared: look, do not touch."""
    folder, before = tmp_path_factory.mktemp("images"), Path.cwd()
    os.chdir(folder)
    try:
        (folder / "params.yaml").write_text(RECIPE.read_text())
        (folder / "env.lock").write_text((ROOT / "env.lock").read_text())
        for stage in STAGES:
            run_stage(stage, read_yaml(RECIPE))
        yield folder
    finally:
        os.chdir(before)


@pytest.fixture
def here(run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(run)
    return run


def test_splits_share_no_picture_and_cover_all_rows(here):
    tables = {split: read_images(SOURCE / f"{split}.arrow") for split in ("train", "validation", "test")}
    assert sum(map(len, tables.values())) == 300
    seen = {split: {picture.tobytes() for picture in table.pixels} for split, table in tables.items()}
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]
    assert tables["train"].pixels.shape[1:] == (14, 14, 1)
    assert isinstance(tables["train"].pixels, np.memmap)


def test_stored_labels_are_what_the_teacher_says_of_the_very_views_of_the_student(here):
    task = read_task(SOURCE)
    views = build(ImageViews, read_yaml(RECIPE)["views"], "params.yaml")
    store = SoftLabels.open(Path("data/export_soft_labels/soft_labels"), verify=True)
    teacher = task.load(Path("data/train_teacher/model"))
    collate = task.collator(task.train, views, seed=1)
    for view in range(views.count):
        rows = np.arange(64)
        batch = collate(rows, np.full(64, view))
        with torch.no_grad():
            said = teacher(**batch.inputs).logits.log_softmax(-1).numpy()
        assert np.abs(store(rows, np.full(64, view)) - said).max() < 0.01


@pytest.mark.parametrize("changes", [{"shift": 2}, {"mixup": 0.3}, {"count": 3}])
def test_labels_of_other_views_are_refused_before_the_first_step(here, changes):
    views = build(ImageViews, {**read_yaml(RECIPE)["views"], **changes}, "params.yaml")
    labels = Path("data/export_soft_labels/soft_labels")
    weights = json.loads(Path("data/train_teacher/manifest.json").read_text())["weights"]
    with pytest.raises(ArtifactError, match="views"):
        stored_log_probs(labels, read_task(SOURCE), views, 1, weights, ALONE)


def test_the_package_answers_files_as_the_pipeline_answers_rows(here):
    metrics = json.loads(Path("data/export_model/metrics.json").read_text())
    assert metrics["rows_different"] == 0
    assert metrics["images_tried"] == 10
    test = read_task(Path("data/preprocess/new")).test()
    raw = raw_images(Path("data/ingest/new.parquet"), test.ids.to_pylist())
    answers = open_package(Path("data/export_model/package"), threads=1)(raw[:5])
    assert answers.shape == (5, 3)
    card = Path("data/export_model/package/README.md").read_text()
    assert "pipeline_tag: image-classification" in card


def test_the_report_shows_pictures_and_speaks_of_images(here):
    page = Path("data/report/index.html").read_text()
    assert page.count('<img src="data:image/png;base64,') >= 3
    assert "unseen images" in page
    assert " texts" not in page
    assert "img-src data:" in page


def test_the_gate_judges_a_package_of_pictures(here, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["gate"])
    gate()
    said = capsys.readouterr().out
    assert "test rows, nothing promoted before" in said
    assert "latency" in said


def training(**changes) -> ImageTraining:
    tree = read_yaml(RECIPE)["student"]["training"]
    return build(ImageTraining, {**tree, "steps": 6, "evaluate_every": 3, "checkpoint": {}, **changes}, "params.yaml")


def weights_after(task: ImageTask, ranks: Ranks = ALONE, **changes) -> torch.Tensor:
    views = build(ImageViews, read_yaml(RECIPE)["views"], "params.yaml")
    config = {"channels": [8, 16], "blocks": [0, 1], "stem_stride": 2, "norm_groups": 4, "hidden_dropout_prob": 0.2}
    model = image_task.build(ModelParams(architecture="residual_cnn", config=config), task, seed=1)
    fit(model, task, training(**changes), views, 2, 1, ranks, "student")
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def test_micro_batches_walk_the_same_trajectory(here):
    task = read_task(SOURCE)
    assert torch.allclose(weights_after(task), weights_after(task, micro_batch_size=8), atol=2e-5)


def test_a_training_on_pictures_is_the_same_again(here):
    task = read_task(SOURCE)
    assert torch.equal(weights_after(task), weights_after(task))


def test_a_model_with_batch_norm_is_refused_in_micro_batches_and_taken_in_one(here):
    task = read_task(SOURCE)
    config = {"depths": [1], "hidden_sizes": [8], "embedding_size": 8, "layer_type": "basic"}
    views = ImageViews(count=1)

    def resnet():
        return image_task.build(ModelParams(architecture="resnet", config=config), task, seed=1)

    with pytest.raises(ParamsError, match=r"resnet .* normalises over the rows of a micro-batch \(batch norm"):
        fit(resnet(), task, training(micro_batch_size=8), views, 1, 1, ALONE, "student")
    fit(resnet(), task, training(), views, 1, 1, ALONE, "student")


def test_weights_of_classes_and_mixed_pictures_do_not_go_together(here):
    task = read_task(SOURCE)
    with pytest.raises(ParamsError, match=r"views\.mixup or cutmix shows two rows in one picture"):
        weights_after(task, imbalance={"class_weights": "inverse"})


def test_cross_entropy_of_mixed_pictures_by_hand(here):
    task = read_task(SOURCE)
    views = ImageViews(count=1, mixup=1.0)
    rows = task.labelled()
    batch = task.collator(rows, views, seed=1)(np.arange(16), np.zeros(16, dtype=np.int64))
    logits = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    log_probs, mixture = logits.log_softmax(-1), batch.mixture
    each = torch.arange(16)
    wanted = -((1 - mixture.shares) * log_probs[each, batch.labels] + mixture.shares * log_probs[each, mixture.labels]).sum()
    assert torch.allclose(CrossEntropy(rows.labels)(logits, batch, 0.0), wanted)
    # A row that is mixed with one whose label is withheld has no label.
    unknown = replace(batch, mixture=replace(mixture, labels=torch.full_like(mixture.labels, -1)))
    kept = mixture.shares == 0
    assert torch.allclose(
        mixed_cross_entropy_sum(logits, batch.labels, unknown.mixture), -log_probs[each, batch.labels][kept].sum(), atol=1e-6
    )


@pytest.mark.parametrize("weight", [0.0, 0.6, 1.0])
def test_distillation_on_mixed_pictures_is_the_same_by_either_way(here, weight):
    """At temperature 1 both terms are one cross-entropy; a temperature beside it takes them apart."""
    task = read_task(SOURCE)
    batch = task.collator(task.train, ImageViews(count=1, cutmix=1.0), seed=1)(np.arange(32), np.zeros(32, dtype=np.int64))
    generator = torch.Generator().manual_seed(0)
    logits, teacher = torch.randn(32, 4, generator=generator), torch.randn(32, 4, generator=generator)
    joined = ClassDistillation(teacher=lambda _: teacher, temperature=1.0, weight=weight)(logits, batch, 0.0)
    apart = ClassDistillation(teacher=lambda _: teacher, temperature=1.0 + 1e-7, weight=weight)(logits, batch, 0.0)
    assert torch.allclose(joined, apart, rtol=1e-4)


def test_a_damaged_array_is_one_line(here, tmp_path):
    for name in ("test.arrow", "test.npy"):
        (tmp_path / name).write_bytes((SOURCE / name).read_bytes()[:200])
    with pytest.raises(ArtifactError, match=r"damaged .*; run 'dvc checkout --force'"):
        read_images(tmp_path / "test.arrow")
    with pytest.raises(ArtifactError, match=r"is missing; run 'dvc repro preprocess'"):
        read_images(tmp_path / "train.arrow")


def test_preprocess_is_the_same_again_and_other_sizes_are_other_rows(here, tmp_path):
    settings = build(import_module("tasks.preprocess").Params, {"kind": "image_classification", "preprocess": {
        **read_yaml(RECIPE)["preprocess"]}}, "params.yaml").preprocess  # fmt: skip
    again = tmp_path / "again"
    again.mkdir()
    preprocess(settings, again)
    assert (again / "source/train.npy").read_bytes() == (SOURCE / "train.npy").read_bytes()
    assert (again / "source/manifest.json").read_text() == (SOURCE / "manifest.json").read_text()
    larger = tmp_path / "larger"
    larger.mkdir()
    preprocess(replace(settings, height=16, colour="rgb"), larger)
    assert read_images(larger / "source/train.arrow").pixels.shape[1:] == (16, 14, 3)


def test_the_linear_model_of_pixels_is_ridge_regression(here):
    """Held against scikit-learn's, which wants the whole table in memory."""
    from sklearn.linear_model import RidgeClassifier

    task = read_task(SOURCE)
    rows, test = task.labelled(), task.test()
    learned, asked = (task.facts.inputs(table.at(np.arange(len(table)))).reshape(len(table), -1) for table in (rows, test))
    theirs = RidgeClassifier(alpha=1e-2 * len(rows), solver="cholesky").fit(learned.astype(np.float64), rows.labels)
    ours, weights = task.linear(rows, test)
    assert np.array_equal(ours, theirs.predict(asked))
    assert weights == theirs.coef_.size + len(theirs.intercept_)


def splits_of(folder: Path) -> dict[str, str]:
    """Id to split."""
    tables = {split: read_images(folder / f"{split}.arrow") for split in ("train", "validation", "test")}
    return {name: split for split, table in tables.items() for name in table.ids.to_pylist()}


def test_a_picture_stays_on_its_side_at_any_size_and_in_any_colour(here, tmp_path):
    tree = read_yaml(RECIPE)
    other = tree["preprocess"] | {"height": 9, "width": 11, "colour": "rgb"}
    params = {"kind": tree["kind"], "preprocess": other}
    preprocess(build(import_module("tasks.preprocess").Params, params, "params.yaml").preprocess, tmp_path)
    before, after = splits_of(SOURCE), splits_of(tmp_path / "source")
    common = before.keys() & after.keys()
    assert len(common) > 290
    assert [name for name in common if before[name] != after[name]] == []


def test_lora_of_a_convolutional_network_is_one_line(here):
    model = image_task.load(Path("data/train_student/model"))
    with pytest.raises(ParamsError, match=r"finetune\.lora: ResidualCnn\w+ has no linear module below its head"):
        add_lora(model, LoraParams(rank=2, alpha=4), new_head=True, seed=0)


def test_weights_of_mixed_rows_are_refused_before_anything_runs():
    tree = read_yaml(RECIPE)
    tree["train_teacher"]["training"]["imbalance"] = {"class_weights": "inverse"}
    with pytest.raises(
        ParamsError, match=r"'train_teacher\.training\.imbalance' weighs rows by their class, but 'views\.mixup'"
    ):
        check_together(tree)
