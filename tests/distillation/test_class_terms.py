"""The student's objective as a list of terms: what each is worth, what it needs, and projections, which are not shipped."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stillhouse.core.errors import ParamsError
from stillhouse.core.params import build
from stillhouse.distillation.config import DistillationParams
from stillhouse.distillation.signals import OF_DISTRIBUTIONS, OF_SAMPLES, OF_TEACHER, require_signals
from stillhouse.modalities.text.rows.text_task import TextTask
from stillhouse.models.build import build_model
from stillhouse.models.config import ModelParams
from stillhouse.models.saved import save_model
from stillhouse.runtime.distributed import Ranks, join
from stillhouse.targets.classes.losses.class_losses import ClassDistillation
from stillhouse.targets.classes.train.classifier import fit
from stillhouse.targets.classes.train_student.class_teachers import OnlineTeacher, TeacherAnswer
from stillhouse.targets.classes.train_student.class_terms import ClassTerms
from stillhouse.targets.classes.train_student.classifier_objective import terms_objective
from stillhouse.targets.classes.train_student.feature_losses import feature_distance
from stillhouse.training.checkpoint.storage import digest_tensors
from stillhouse.training.job import OBJECTIVE
from stillhouse.training.loop import Training
from tests.helpers.resuming import Stop, often, ranks, stop_after
from tests.helpers.small_trainings import ALONE, FACTS, VIEWS, losses, small_model, table, training
from tests.losses.test_losses import STUDENT, TEACHER, batch_of

ROOT = Path(__file__).parents[2]
TERMS = [
    {"name": "forward_kl", "weight": 0.8, "temperature": 2.0},
    {"name": "cross_entropy", "weight": 0.2},
    {"name": "feature_mse", "weight": 0.5, "layers": [[0, 0], [-1, -1]]},
    {"name": "feature_cosine", "weight": 0.3, "layers": [[-1, -1]]},
]


@pytest.fixture(autouse=True)
def one_thread():
    with join(1):
        yield


def params(**changes) -> DistillationParams:
    return build(DistillationParams, changes, "train_student.distillation")


def wide_teacher(folder: Path) -> Path:
    """A teacher whose hidden states are wider than those of `small_model`."""
    sizes = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16, "ngram_sizes": [2]}
    params = ModelParams(architecture="ngram_encoder", config=sizes | {"ngram_buckets": 64})
    save_model(build_model(params, 40, 0, ["a", "b", "c"], 5), folder)
    return folder


def task_of() -> TextTask:
    rows = table()
    return TextTask(rows, rows, ["a", "b", "c"], FACTS, "")


def run(settings, which: Ranks, teacher: Path, terms=TERMS, dropout: float = 0.0):
    """A student trained by the terms; the objective beside it."""
    task, model = task_of(), small_model(dropout)
    objective = terms_objective(
        params(terms=terms, teacher="online"), task, model, OnlineTeacher(teacher, task, task, VIEWS, 3, which), 3, 0.0
    )
    history = fit(model, task, settings, VIEWS, 2, 3, which, "test", rows=task.train, loss=objective)
    return model, history, objective


# ---- terms ----


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_short_form_is_a_divergence_and_a_cross_entropy(divergence, temperature):
    short = params(temperature=temperature, weight=0.7, divergence=divergence, beta=0.3, teacher="online")
    batch = batch_of([0, 1, 2])
    joined = ClassDistillation(lambda b: TEACHER[b.rows], temperature, 0.7, 0.1, divergence, 0.3)(STUDENT, batch, 0.5)
    terms = ClassTerms(short.all_terms, lambda b, layers=(): TeacherAnswer(TEACHER[b.rows]), 0.1)
    said = torch.nn.Module()
    said.forward = lambda **_: type("Output", (), {"logits": STUDENT})  # type: ignore[method-assign]
    torch.testing.assert_close(terms(said, batch, 0.5), joined)


def test_weights_that_change_and_what_is_left_of_them_sum_to_one():
    settings = params(temperature=1.0, weight={"start": 1.0, "end": 0.25})
    divergence, rest = settings.all_terms
    assert (divergence.weight.end, rest.weight.start, rest.weight.end) == (0.25, 0.0, 0.75)


def test_distances_of_states_by_hand():
    student = torch.tensor([[[1.0, 0.0], [3.0, 3.0]], [[0.0, 2.0], [5.0, torch.nan]]])
    teacher = torch.tensor([[[0.0, 0.0], [3.0, 4.0]], [[0.0, 1.0], [1.0, 1.0]]])
    mask = torch.tensor([[1, 1], [1, 0]])
    same = torch.nn.Identity()
    # Row 0: (1 / 2 + 1 / 2) / 2, row 1: its second position is padding.
    assert feature_distance("feature_mse", student, teacher, same, mask).item() == pytest.approx(0.5 + 0.5)
    turned = 1 - 21 / (18**0.5 * 5)
    assert feature_distance("feature_cosine", student[:1], teacher[:1], same, None).item() == pytest.approx((1 + turned) / 2)


def test_states_of_pictures_are_positions_and_other_numbers_of_them_are_averaged():
    student, teacher = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 2, 2)
    expected = (student.mean((2, 3)) - teacher.mean((2, 3))).square().mean(1).sum()
    torch.testing.assert_close(feature_distance("feature_mse", student, teacher, torch.nn.Identity(), None), expected)


@pytest.mark.parametrize(
    ("settings", "given", "method", "message"),
    [
        ({"temperature": 1.0, "weight": 1.0, "divergence": "jsd"}, OF_SAMPLES, "threshold", r"divergence' is jsd"),
        ({"terms": TERMS}, OF_DISTRIBUTIONS, None, r"terms\.2\.name' is feature_mse, which needs the teacher's hidden states"),
        ({"terms": [{"name": "reverse_kl", "weight": 1.0}]}, OF_SAMPLES, "topk", r"terms\.0\.name' is reverse_kl"),
    ],
)  # fmt: skip
def test_a_term_that_needs_what_the_source_does_not_give_is_refused(settings, given, method, message):
    with pytest.raises(ParamsError, match=message):
        require_signals(params(**settings), given, method)
    require_signals(params(**settings), OF_TEACHER, method)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"terms": TERMS, "weight": 0.5}, "weight is short for a term, and terms are given"),
        ({"terms": []}, "terms is empty"),
        ({"terms": [{"name": "cross_entropy", "weight": 1.0}]}, "nothing of the teacher"),
        ({"terms": [TERMS[0], TERMS[0]]}, "terms has forward_kl twice"),
        ({"terms": [{"name": "jsd", "weight": -1.0}]}, r"'terms\.0': weight must be at least 0"),
        ({"terms": [{"name": "jsd", "wieght": 1.0}]}, r"unknown parameter 'terms\.0\.wieght'; did you mean 'weight'"),
        ({"terms": [{"name": "feature_mse", "weight": 1.0, "layers": [[1]]}]}, r"layers has \[1\]; expected pairs"),
        ({"temperature": 2.0}, "weight is missing, and so are terms"),
    ],
)
def test_terms_are_checked(settings, message):
    with pytest.raises(ParamsError, match=message):
        params(**settings)


def test_layers_that_there_are_not_are_named(tmp_path):
    terms = [{"name": "feature_mse", "weight": 1.0, "layers": [[2, 0]]}]
    message = r"'train_student\.distillation\.terms\.0\.layers' names layer 2 of the student, which has 2 layers \("
    with pytest.raises(ParamsError, match=message):
        run(training(steps=2, evaluate_every=2), ALONE, wide_teacher(tmp_path / "teacher"), terms)


# ---- projections ----


def test_projections_learn_and_are_not_shipped(tmp_path):
    model, _, objective = run(training(steps=4), ALONE, wide_teacher(tmp_path / "teacher"))
    shapes = [tuple(p.shape) for p in objective.parameters()]
    assert shapes == [(24, 16)] * 3
    torch.manual_seed(3)
    begun = torch.nn.Linear(16, 24, bias=False).weight
    assert not torch.equal(objective.projections[0].weight, begun)
    assert not hasattr(model, OBJECTIVE)
    assert not [name for name in model.state_dict() if OBJECTIVE in name]
    save_model(model, tmp_path / "student")
    assert OBJECTIVE not in (tmp_path / "student" / "model.safetensors").read_bytes()[:4000].decode("latin-1")


def test_feature_terms_bring_the_students_states_towards_the_teachers(tmp_path):
    teacher = wide_teacher(tmp_path / "teacher")
    terms = [{"name": "feature_mse", "weight": 1.0, "layers": [[-1, -1]]}]
    _, history, _ = run(training(steps=40, evaluate_every=40), ALONE, teacher, terms)
    found = losses(history)
    assert found[-1] < 0.7 * found[0]


def test_projections_resume_to_the_same_bytes(tmp_path, monkeypatch):
    teacher = wide_teacher(tmp_path / "teacher")
    settings = often(ema_decay=0.9)

    def result(folder: Path | None) -> dict:
        model, history, objective = run(settings, ranks(folder), teacher, dropout=0.2)
        return {
            "weights": digest_tensors(model.state_dict()),
            "projections": digest_tensors(objective.state_dict()),
            "points": json.dumps(history.points),
        }

    wanted = result(None)
    stop_after(10, monkeypatch)
    with pytest.raises(Stop):
        result(tmp_path / "state")
    monkeypatch.undo()
    (newest,) = {path.parent for path in (tmp_path / "state").rglob("step-00000009/*.safetensors")}
    assert b"objective.projections.0.weight" in b"".join(path.read_bytes() for path in newest.glob("*.safetensors"))
    assert result(tmp_path / "state") == wanted


def test_projections_are_averaged(tmp_path, monkeypatch):
    kept = []
    look = Training.look

    def noted(self: Training) -> None:
        kept[:] = [self.state.average]
        look(self)

    monkeypatch.setattr(Training, "look", noted)
    run(training(steps=4, ema_decay=0.5), ALONE, wide_teacher(tmp_path / "teacher"))
    (average,) = kept
    assert {name for name in average.weights if name.startswith(OBJECTIVE)} == {
        f"{OBJECTIVE}.projections.{number}.weight" for number in range(3)
    }


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_ranks_learn_the_same_projections_as_one(tmp_path, sharding):
    """Two real processes under torchrun with gloo."""
    teacher, out = wide_teacher(tmp_path / "teacher"), tmp_path / "losses.json"
    script = tmp_path / "two.py"
    script.write_text(
        "import json\nfrom pathlib import Path\nfrom tests.distillation.test_class_terms import run, training, join, losses\n"
        f"settings, teacher = training(parallel={{'sharding': '{sharding}'}}), Path(r'{teacher}')\n"
        "with join(2) as ranks:\n    _, history, _ = run(settings, ranks, teacher)\n"
        f"    if ranks.is_main: Path(r'{out}').write_text(json.dumps(losses(history).tolist()))\n"
    )
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    _, alone, _ = run(training(), ALONE, teacher)
    np.testing.assert_allclose(json.loads(out.read_text()), losses(alone), rtol=1e-4)


def test_micro_batches_have_one_gradient(tmp_path):
    teacher = wide_teacher(tmp_path / "teacher")
    whole, parts = (run(replace(training(), micro_batch_size=size), ALONE, teacher)[1] for size in (None, 4))
    np.testing.assert_allclose(losses(parts), losses(whole), rtol=1e-4)
