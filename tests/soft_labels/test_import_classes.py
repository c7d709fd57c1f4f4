"""Probabilities of classes from elsewhere: read back they are the teacher's, and what is wrong with them is one line."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from stillhouse.core.artifacts import digest_bytes
from stillhouse.core.errors import ArtifactError, DataError
from stillhouse.data.views import ViewParams
from stillhouse.exchange.row_files import write_rows
from stillhouse.exchange.write_labels import class_rows
from stillhouse.modalities.images.rows.image_task import ImageTask
from stillhouse.modalities.images.table.image_config import ImageViews
from stillhouse.runtime.model_types import on_device
from stillhouse.soft_labels.format.binding import taught_by, teacher_in
from stillhouse.soft_labels.format.store import SoftLabels
from stillhouse.soft_labels.produce.config import ClassesExport, ImportedClasses
from stillhouse.soft_labels.produce.export import Teachers
from stillhouse.targets.classes.export_soft_labels.export_classifier import export_classifier
from stillhouse.targets.classes.export_soft_labels.import_classes import import_labels, shows_whole_rows
from stillhouse.targets.classes.losses.class_losses import ClassDistillation
from stillhouse.targets.classes.soft_labels.class_binding import classifier_binding
from stillhouse.targets.classes.train.classifier import fit
from stillhouse.targets.classes.train_student.classifier_objective import stored_log_probs
from tests.helpers.small_trainings import ALONE, VIEWS, one_thread, small_model, table, task_of, training  # noqa: F401

WHOLE = ViewParams(count=2, min_share=1.0)
ROWS = 96
OWN = Path("teacher")


@pytest.fixture
def task(tmp_path, monkeypatch):
    """A task with a text of its own for every row, in a folder with `data/raw`."""
    monkeypatch.chdir(tmp_path)
    Path("data/raw").mkdir(parents=True)
    rows = replace(table(), texts=pa.array([f"text {row}" for row in range(ROWS)]))
    return replace(task_of(), train=rows, validation=rows)


def teacher_store(task, views=VIEWS) -> SoftLabels:
    teachers = Teachers([on_device(small_model(seed=9), ALONE.device).eval()], [1.0])
    export_classifier(teachers, task, views, 1, classifier_binding(task, views, 1, "t" * 64), OWN, 32, 40, ALONE)
    return SoftLabels.open(OWN)


def source(name: str = "labels.jsonl", **more) -> ImportedClasses:
    tree = {"kind": "import", "files": name, "model": "a large model", "date": "2026-11-30"}
    return ImportedClasses(**tree | more)


def imported(task, views=WHOLE, folder=Path("imported"), **more) -> SoftLabels:
    settings = ClassesExport(batch_size=1, part_rows=40)
    import_labels(source(**more), task, settings, views, 1, folder)
    return SoftLabels.open(folder)


def row_id(row: int) -> str:
    return f"{row:016x}"


def answers(rows: int = ROWS) -> np.ndarray:
    """Probabilities, (rows, 3)."""
    return np.random.default_rng(3).dirichlet([0.5, 0.5, 0.5], rows)


def given(task, values=None, **columns) -> list[dict]:
    """Rows of a file with one column a class."""
    values = answers() if values is None else values
    ids = task.train.ids.to_pylist()
    return [{"id": ids[i]} | dict(zip("abc", values[i].tolist(), strict=True)) | columns for i in range(len(values))]


def write(rows, name: str = "labels.jsonl") -> None:
    Path("data/raw", name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def weights_after_training(task, store: SoftLabels, views) -> str:
    """Digest of the weights of a student that learned from a store."""
    model = small_model(seed=4)
    teacher = stored_log_probs(store.folder, task, views, 1, "t" * 64, ALONE)
    loss = ClassDistillation(teacher=teacher, temperature=2.0, weight=0.7, label_smoothing=0.0)
    fit(model, task, training(), views, views.count, 1, ALONE, "student", rows=task.train, loss=loss)
    return digest_bytes(b"".join(tensor.detach().numpy().tobytes() for tensor in model.state_dict().values()))


@pytest.mark.parametrize("name", ["labels.parquet", "labels.jsonl", "labels.csv"])
@pytest.mark.parametrize(("as_logs", "as_list"), [(False, False), (True, False), (True, True)])
def test_labels_that_go_out_and_come_back_are_the_same_bytes(task, name, as_logs, as_list):
    if as_list and name.endswith("csv"):
        pytest.skip("a CSV file holds no lists")
    own = teacher_store(task)
    assert write_rows(Path("data/raw", name), class_rows(own, task, as_logs, as_list)) == 2 * ROWS
    values = "log_probabilities" if as_logs else "probabilities"
    back = imported(task, VIEWS, name=name, values=values)
    for part in own.folder.glob("view-*"):
        assert back(np.arange(ROWS), np.ones(ROWS, int)).tobytes() == own(np.arange(ROWS), np.ones(ROWS, int)).tobytes(), part
    assert back(np.arange(ROWS), np.zeros(ROWS, int)).tobytes() == own(np.arange(ROWS), np.zeros(ROWS, int)).tobytes()


def test_a_student_learns_the_same_weights_from_labels_that_were_out_and_back(task):
    own = teacher_store(task)
    write_rows(Path("data/raw/labels.parquet"), class_rows(own, task, as_logs=False, as_list=False))
    back = imported(task, VIEWS, name="labels.parquet")
    mine = weights_after_training(task, own, VIEWS)
    assert weights_after_training(task, back, VIEWS) == mine
    # The measure can tell.
    write_rows(
        Path("data/raw/labels.parquet"), ({**row, "a": row["b"], "b": row["a"]} for row in class_rows(own, task, False, False))
    )
    other = imported(task, VIEWS, Path("other"), name="labels.parquet")
    assert weights_after_training(task, other, VIEWS) != mine


def test_the_store_says_whose_labels_it_holds(task):
    write(given(task))
    Path("data/raw/prompt.txt").write_text("What is it?")
    labels = imported(task, prompt="prompt.txt")
    assert labels.origin is not None
    assert labels.origin["model"] == "a large model"
    assert labels.origin["prompt"] == digest_bytes(b"What is it?")
    assert labels.binding.teacher.startswith("imported from a large model, 2026-11-30, origin ")
    Path("data/raw/prompt.txt").write_text("What is this?")
    assert imported(task, folder=Path("other"), prompt="prompt.txt").binding.teacher != labels.binding.teacher


def test_an_origin_that_was_changed_afterwards_is_refused(task):
    write(given(task))
    path = imported(task).folder / "manifest.json"
    tree = json.loads(path.read_text())
    tree["origin"]["model"] = "a model of somebody else"
    path.write_text(json.dumps(tree))
    with pytest.raises(ArtifactError, match=r"the origin in the manifest of imported was changed after the store was written"):
        SoftLabels.open(Path("imported"))


def test_a_student_is_told_whose_labels_it_learned_from(task):
    write(given(task))
    labels = imported(task)
    assert teacher_in(labels.folder, "t" * 64) == labels.binding.teacher
    assert teacher_in(teacher_store(task).folder, "t" * 64) == "t" * 64
    # What was imported is nobody's own, and what another teacher gave is still refused.
    assert taught_by(labels.binding, "t" * 64) == labels.binding.teacher
    assert taught_by(SoftLabels.open(OWN).binding, "u" * 64) == "u" * 64


def test_whole_rows_stand_for_every_view_that_is_whole(task):
    write(given(task))
    labels = imported(task)
    np.testing.assert_allclose(np.exp(labels[row_id(5)][1]), answers()[5], atol=1e-3)
    with pytest.raises(DataError, match=r"row 1: there is no column 'view'.*'views.min_share: 1'.*0 to 1"):
        imported(task, VIEWS, Path("other"))


def test_rows_are_found_by_their_texts_too(task):
    rows = given(task)
    write([{**row, "text": f"text {i}", "id": None} for i, row in enumerate(rows)][::-1])
    np.testing.assert_allclose(np.exp(imported(task)[row_id(7)][0]), answers()[7], atol=1e-3)


def test_classes_are_told_apart_by_name_whatever_their_order(task):
    ids = task.train.ids.to_pylist()
    write([{"id": ids[i], "classes": ["c", "a", "b"], "probs": answers()[i][[2, 0, 1]].tolist()} for i in range(ROWS)])
    np.testing.assert_allclose(np.exp(imported(task)[row_id(9)][0]), answers()[9], atol=1e-3)
    write([{"id": ids[i], "c": p[2], "b": p[1], "a": p[0]} for i, p in enumerate(answers().tolist())])
    np.testing.assert_allclose(np.exp(imported(task, folder=Path("other"))[row_id(9)][0]), answers()[9], atol=1e-3)


LOGITS = np.random.default_rng(5).normal(size=(ROWS, 3)) * 4


FAULTS = {
    "classes that are others": (
        lambda task: [{"id": row["id"], "classes": ["a", "b", "d"], "probs": [0.2, 0.3, 0.5]} for row in given(task)],
        r"row 1: the classes are not those of the task: lacking c, not known d",
    ),
    "a column that is missing": (
        lambda task: [{key: value for key, value in row.items() if key != "b"} for row in given(task)],
        r"row 1: 1 of 3 classes have no column \(b\)",
    ),
    "sums": (
        lambda task: given(task, answers() * 0.9),
        r"row 1: the probabilities lie in .* and they sum to 0\.9, expected 1 .* is a class missing",
    ),
    "rows missing": (lambda task: given(task)[:-3], r"lack 3 of 96 training rows \(first: id 000000000000005d\)"),
    "rows doubled": (
        lambda task: [*given(task), given(task)[4]],
        r"row 97: id 0000000000000004 stands twice in the files",
    ),
    "unknown rows": (
        lambda task: [*given(task), {**given(task)[4], "id": "beef"}],
        r"have 1 rows that are not training rows \(first: id beef, data/raw/labels\.jsonl, row 97\)",
    ),
    "logits": (
        lambda task: given(task, LOGITS),
        r"row 1: the probabilities lie in -?\d.*; these are logits: apply a softmax",
    ),
    "logarithms": (
        lambda task: given(task, np.log(answers())),
        r"row 1: the probabilities lie in .* these are logarithms: set",
    ),
    "NaN": (
        lambda task: given(task, np.where(answers() > 0.9, np.nan, answers())),
        r"the number of class \d is NaN or infinite; expected a number",
    ),
    "texts of other rows": (
        lambda task: [{**row, "text": f"text {(i + 1) % ROWS}"} for i, row in enumerate(given(task))],
        r"row 1: its text is 'text 1', but the training row with this id reads 'text 0'",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_and_no_store(task, fault):
    rows, words = FAULTS[fault]
    write(rows(task))
    with pytest.raises(DataError, match=words) as caught:
        imported(task)
    assert "\n" not in str(caught.value)
    assert not Path("imported/manifest.json").exists()


LOG_FAULTS = {
    "base 10": (
        np.log10(answers()),
        r"row \d+: .* logarithms to base 10, expected natural ones: multiply them by 2\.302585",
    ),
    "base 2": (np.log2(answers()), r"these are logarithms to base 2"),
    "logits": (LOGITS - LOGITS.max(1, keepdims=True), r"sums to \d.*, expected 1 within 0\.01; these are logits"),
    "logits above 0": (LOGITS + 9, r"the log-probabilities lie in \d.* to \d.*; these are logits"),
    "probabilities": (answers(), r"these are probabilities: set"),
}


@pytest.mark.parametrize("fault", LOG_FAULTS)
def test_numbers_that_are_no_natural_logarithms_are_told_for_what_they_are(task, fault):
    values, words = LOG_FAULTS[fault]
    write(given(task, values))
    with pytest.raises(DataError, match=words):
        imported(task, values="log_probabilities")


def test_a_class_that_is_called_like_a_column_is_not_mixed_up(task):
    """The code of Indonesian is id."""
    task = replace(task, labels=["id", "b", "c"])
    ids = task.train.ids.to_pylist()
    rows = [{"id": ids[i], "b": p[1], "c": p[2]} for i, p in enumerate(answers().tolist())]
    write(rows)
    with pytest.raises(DataError, match=r"the column 'id' may be that of a class .* set 'id'"):
        imported(task)
    write([{"row": row["id"], "id": 1 - row["b"] - row["c"], "b": row["b"], "c": row["c"]} for row in rows])
    np.testing.assert_allclose(np.exp(imported(task, id="row")[row_id(3)][0]), answers()[3], atol=1e-3)
    own = teacher_store(task)
    assert {*next(class_rows(own, task, False, False))} == {"id", "text", "view", "classes", "probs"}


def test_a_probability_of_zero_stays_finite(task):
    values = np.eye(3)[np.arange(ROWS) % 3]
    write(given(task, values))
    assert torch.isfinite(torch.from_numpy(imported(task)[row_id(0)])).all()


def test_pictures_are_whole_where_no_view_changes_them():
    assert shows_whole_rows(ImageViews(count=3), ImageTask)
    assert not shows_whole_rows(ImageViews(count=3, shift=2), ImageTask)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("labels.csv", b"id,a,b\n1,0.5\n", r"labels\.csv, row 1: 2 fields, but the header has 3"),
        ("labels.csv", b"id,a,a\n", r"the header has the column 'a' twice"),
        ("labels.csv", b"id,a\n\xff,1\n", r"not readable as CSV in UTF-8"),
        ("labels.jsonl", b'{"id": 1}\n[1]\n', r"row 1: no column 'id' or 'text'|row 1: 3 of 3 classes have no column"),
        ("labels.jsonl", b'{"id": \n', r"row 1: not readable as JSON"),
        ("labels.jsonl", b"[1]\n", r"row 1: expected a JSON object, not list"),
        ("labels.parquet", b"PAR1 and no more", r"labels\.parquet: not readable as parquet"),
        ("labels.jsonl", b"", r"lack 96 of 96 training rows"),
    ],
)
def test_a_damaged_file_is_one_line(task, name, content, words):
    Path("data/raw", name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        imported(task, name=name)
