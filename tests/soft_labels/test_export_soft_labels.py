"""The soft-label store: what is read back is what the teacher says, and it knows which teacher that was."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from stillhouse.core.artifacts import digest_folder, read_json, write_json
from stillhouse.core.errors import ArtifactError
from stillhouse.data.views import ViewParams
from stillhouse.modalities.text.rows.text_batches import Collator
from stillhouse.modalities.text.rows.text_task import TextTask, read_task
from stillhouse.models.saved import load_model
from stillhouse.soft_labels.format.store import Binding, SoftLabels
from stillhouse.soft_labels.produce.export import Teachers
from stillhouse.targets.classes.export_soft_labels.export_classifier import export_classifier
from stillhouse.targets.classes.soft_labels.class_binding import classifier_binding
from tests.helpers.small_trainings import ALONE, FACTS, small_model, table
from tests.helpers.tiny_run import environment

STORE = Path("data/export_soft_labels/soft_labels")
VIEWS = ViewParams(count=2, min_share=0.5)


def test_labels_on_disk_are_the_teacher_in_memory(tiny):
    labels = SoftLabels.open(tiny / STORE)
    task = read_task(tiny / "data" / "preprocess" / "source")
    model = load_model(tiny / "data" / "train_teacher" / "model")
    rows = np.arange(len(task.train))
    for view in range(2):
        views = np.full(len(rows), view)
        batch = Collator(task.train, task.facts, VIEWS, seed=1)(rows, views)
        with torch.no_grad():
            logits = model(**batch.inputs).logits
        said = torch.log_softmax(logits, -1).numpy()
        # float16 keeps 11 bits: within 5e-4 of the value, or of 1 where probabilities matter.
        np.testing.assert_allclose(labels(rows, views), said, rtol=1e-3, atol=1e-3)


def test_every_row_and_view_stands_once_and_probabilities_sum_to_one(tiny):
    labels = SoftLabels.open(tiny / STORE)
    task = read_task(tiny / "data" / "preprocess" / "source")
    assert list(labels) == task.train.ids.to_pylist()
    for view in range(labels.num_views):
        values = labels(np.arange(len(labels)), np.full(len(labels), view))
        np.testing.assert_allclose(np.exp(values).sum(axis=1), 1, atol=5e-3)
    assert labels[labels.ids[5]].shape == (2, len(task.labels))


def test_rows_without_true_label_have_soft_labels(tiny):
    task = read_task(tiny / "data" / "preprocess" / "source")
    withheld = [task.train.ids[int(i)].as_py() for i in np.flatnonzero(task.train.labels < 0)]
    assert withheld
    assert len(SoftLabels.open(tiny / STORE).rows_of(withheld)) == len(withheld)


@pytest.mark.parametrize("field", ["teacher", "data"])
def test_a_mismatch_names_both_sides(tiny, field):
    binding = SoftLabels.open(tiny / STORE).binding
    wanted = Binding(**{**vars(binding), field: "f" * 64})
    with pytest.raises(ArtifactError, match=rf"made with {field} {getattr(binding, field)[:12]}, but .* {field} ffffffffffff"):
        binding.require(wanted, STORE)


def test_a_damaged_shard_is_refused(tiny_copy):
    shard = sorted(STORE.glob("*.safetensors"))[0]
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ArtifactError, match=rf"{shard.name} does not match its checksum"):
        SoftLabels.open(STORE)


def test_a_cut_off_shard_is_refused_even_unverified(tiny_copy):
    shard = sorted(STORE.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match=r"is damaged or missing"):
        SoftLabels.open(STORE, verify=False)


def test_a_store_of_another_form_is_refused(tiny_copy):
    manifest = read_json(STORE / "manifest.json")
    write_json(STORE / "manifest.json", manifest | {"form": "sparse"})
    with pytest.raises(ArtifactError, match=r"form 'sparse'; this version reads .* form 'full', 'sampled'"):
        SoftLabels.open(STORE)


def test_an_unknown_row_is_refused(tiny):
    labels = SoftLabels.open(tiny / STORE)
    with pytest.raises(ArtifactError, match=r"lack 1 of 2 training rows \(first id ffffffffffffffff\)"):
        labels.rows_of([labels.ids[0], "f" * 16])


def test_two_ranks_write_the_same_bytes_as_one(tiny_copy):
    """Real torchrun, gloo, 2 processes; one thread each, so the reference is made with one thread too."""
    params = Path("params.yaml")
    digests = {}
    for ranks, threads in ((1, 1), (2, 2)):
        text = (
            params.read_text().replace("threads: 2\n", f"threads: {threads}\n").replace("threads: 1\n", f"threads: {threads}\n")
        )
        params.write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "tasks.launch", "export_soft_labels"],
            env=environment(Path.cwd()) | {"PET_NPROC_PER_NODE": str(ranks)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        digests[ranks] = digest_folder(STORE)
        assert json.loads(Path("data/export_soft_labels/metrics.json").read_text())["rows"] > 0
    assert digests[1] == digests[2]


@pytest.mark.parametrize(("precision", "drift", "refused"), [("fp32", 0.1, True), ("bf16", 0.1, False), ("bf16", 1.0, True)])
def test_the_audit_allows_what_the_precision_does(tmp_path, precision, drift, refused):
    """In bf16 a row's logits differ with the rows beside it by some hundredths, however sound the teacher is."""
    rows, model = table(), small_model()
    task = TextTask(rows, rows, ["a", "b", "c"], FACTS, "")

    def later(module, given, result):
        # What is asked when the store is finished is the audit.
        if (tmp_path / "labels" / "manifest.json").exists():
            result.logits[:, 0] += drift
        return result

    model.eval().register_forward_hook(later)
    binding = classifier_binding(task, VIEWS, 1, "t" * 64)
    teachers = Teachers([model], [1.0], precision)

    def export() -> None:
        export_classifier(teachers, task, VIEWS, 1, binding, tmp_path / "labels", 32, 64, ALONE)

    if refused:
        with pytest.raises(
            ArtifactError, match=r"the audit asked the teacher again and found log-probabilities that differ by"
        ):
            export()
        assert not (tmp_path / "labels" / "manifest.json").exists()
    else:
        export()
        assert SoftLabels.open(tmp_path / "labels").layout.rows == len(rows)
