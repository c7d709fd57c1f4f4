"""`python -m tasks.check`: what can be seen in about a second is said before anything runs."""

import copy
import gzip
import json
import subprocess
import sys
from typing import Any

import openpyxl
import pandas as pd
import pytest

from tasks import check
from tests.helpers.ingesting import GOOD
from tests.helpers.tiny_run import shell
from tests.helpers.tiny_tokenizers import write_words

MANY = "text,label\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(400))


@pytest.fixture
def checked(project, monkeypatch, capsys):
    """Runs the check with other values at dotted keys; returns what it says, on stdout or as its one error line."""

    def run(*arguments: str, **values: Any) -> str:
        tree = copy.deepcopy(project.params)
        for key, value in values.items():
            *path, last = key.split("__")
            block = tree
            for name in path:
                block = block[name]
            block[last] = value
        project.write_params(**tree)
        monkeypatch.setattr(sys, "argv", ["check", *arguments])
        code = None
        try:
            check.main()
        except SystemExit as ended:
            code = ended.code
        out, error = capsys.readouterr()
        if code is None:
            return out
        assert (code, error.count("\n"), error[:14]) == (1, 1, "error: check: ")
        return error[14:].rstrip("\n")

    return run


def files(**keys) -> dict[str, Any]:
    return {"kind": "files", **keys}


# ---- own data ----


def test_own_data_that_are_there_are_accepted(project, checked):
    (project.raw / "a.csv").write_text(MANY)
    (project.raw / "b.csv.gz").write_bytes(gzip.compress(MANY.encode()))
    (project.raw / "set" / "x").mkdir(parents=True)
    (project.raw / "set" / "x" / "1.txt").write_text("a text")
    (project.raw / "c.json").write_text(json.dumps([{"text": "x", "label": "a"}] * 40))
    pd.DataFrame({"text": ["x"] * 40}, index=pd.RangeIndex(40, name="label")).to_parquet(project.raw / "d.parquet")
    book = openpyxl.Workbook()
    for row in (["text", "label"], ["text", "a"], ["label", "b"]):
        book.active.append(row)
    book.save(project.raw / "e.xlsx")
    names = ["a.csv", "b.csv.gz", "set", "c.json", "d.parquet", "e.xlsx"]
    assert checked(ingest__source=files(train=names), ingest__new=files(train="set")) == (
        "params.yaml: all blocks are valid\n"
    ), "what only the whole file tells is for ingest"


@pytest.mark.parametrize(
    ("name", "content", "keys", "message"),
    [
        (
            "a.csv",
            GOOD,
            {"train": "b.csv"},
            "data/raw/b.csv does not exist; add it with 'make data FILE=path/to/b.csv'; did you",
        ),
        (
            "a.csv",
            GOOD,
            {"train": "../a.csv"},
            "../a.csv is not below data/raw; run 'make data FILE=../a.csv' and name the file",
        ),
        (
            "a.csv",
            GOOD,
            {"train": "x/*.csv"},
            "data/raw/x/*.csv fits no file; expected a pattern of files in data/raw, such as",
        ),
        ("a.csv", GOOD, {"test": "b.csv"}, "data/raw/b.csv does not exist; add it"),
        ("a.csv", GOOD, {"label": "lable"}, "data/raw/a.csv has no column 'lable' (parameter 'label'); did you mean 'label'?"),
        (
            "a.csv",
            "text;label\nx;a\n",
            {},
            "data/raw/a.csv is separated by ';', not by ',' (its first line is 'text;label'); set",
        ),
        (
            "a.csv",
            "good,pos\nbad,neg\nfine,pos\n",
            {},
            "data/raw/a.csv has no header: its first row ('good', 'pos') is like the ",
        ),
        ("a.csv", "", {}, "data/raw/a.csv is empty (0 bytes); expected a table with columns 'text' and 'label'"),
        ("a.csv", "text,label,text\n", {}, "data/raw/a.csv has column 'text' (parameter 'text') more than once; rename or"),
        (
            "a.jsonl",
            '{"text": "x", "lable": "a"}\n',
            {},
            "data/raw/a.jsonl has no column 'label' (parameter 'label'); did you mea",
        ),
        ("a.txt", "a text", {}, "data/raw/a.txt ends in '.txt', expected one of .csv, "),
        ("a.parquet", "no parquet", {}, "data/raw/a.parquet cannot be read as parquet: "),
    ],
)
def test_own_data_that_are_not_as_the_parameters_say_are_refused(project, checked, name, content, keys, message):
    (project.raw / name).write_text(content)
    said = checked(ingest__source=files(**{"train": name} | keys))
    assert said.startswith(f"'ingest.source': {message}")


def test_the_new_task_and_the_files_of_a_cloze_test_are_looked_at_too(project, checked):
    (project.raw / "a.csv").write_text(GOOD)
    said = checked(ingest__source={"kind": "cloze", "files": ["a.csv"], "text": "body"})
    assert said == "'ingest.source': data/raw/a.csv has no column 'body' (parameter 'text'); known: label, text"
    said = checked(ingest__new={"kind": "cloze", "files": ["a.csv", "b.csv"]})
    assert said.startswith("'ingest.new': data/raw/b.csv does not exist")
    said = checked(ingest__new={"kind": "hub", "dataset": "data/raw/pets"})
    assert said.startswith("'ingest.new': data/raw/pets is not a folder; put the data set's files there")


def test_a_file_without_labels_is_none_where_rows_may_be_without_one(project, checked):
    (project.raw / "a.csv").write_text(MANY)
    (project.raw / "b.csv").write_text("text\nx\n")
    assert "'ingest.source': data/raw/b.csv has no column 'label'" in checked(ingest__source=files(train=["a.csv", "b.csv"]))
    source = files(train=["a.csv", "b.csv"], unlabelled=True)
    assert checked(ingest__source=source) == "params.yaml: all blocks are valid\n"


def test_data_of_another_file_than_params_yaml_need_not_be_there(project, checked):
    (project.folder / "other.yaml").write_text(
        json.dumps({**project.params, "ingest": {"source": files(train="b.csv"), "new": files(train="b.csv")}})
    )
    assert checked("other.yaml") == (
        "note: 'ingest.source': data/raw/b.csv does not exist; add it with 'make data FILE=path/to/b.csv'\n"
        "other.yaml: all blocks are valid\n"
    )


# ---- sizes ----


def test_a_batch_of_more_rows_than_there_are_is_said(project, checked):
    (project.raw / "a.csv").write_text("text,label\n" + "x,a\ny,b\n" * 12)
    said = checked(ingest__source=files(train="a.csv"))
    assert said == (
        "note: 'train_teacher.training.batch_size' is 32, and there are at most 26 training rows: each step shows all of them, "
        "some more than once; 6 or less would learn more in as many steps\n"
        "note: 'student.training.batch_size' is 32, and there are at most 26 training rows: each step shows all of them, some "
        "more than once; 6 or less would learn more in as many steps\n"
        "params.yaml: all blocks are valid\n"
    )


def test_a_warm_up_that_takes_most_of_a_training_is_said(project, checked):
    said = checked(student__training__schedule={"name": "cosine", "warmup_steps": 15})
    assert "note: 'student.training.schedule.warmup_steps' is 15 of 20 steps: the learning rate rises for most of the" in said


# ---- layers that terms compare ----


def comparing(layers: list[list[int]]) -> dict[str, Any]:
    feature = {"name": "feature_mse", "weight": 0.1, "layers": layers}
    return {"teacher": "online", "terms": [{"name": "forward_kl", "weight": 0.9}, feature]}


@pytest.mark.parametrize(
    ("student_layers", "pair", "message"),
    [
        (1, [0, 2], "2 of the teacher, which has 2 layers (ngram_encoder); name one from 0, the lowest, to 1, or from -1, the"),
        (1, [-2, 0], "-2 of the student, which has 1 layer (ngram_encoder); name 0"),
        (0, [0, 0], "0 of the student, which has no stack of layers (ngram_encoder); leave the term out, or choose another"),
    ],
)
def test_layers_that_there_are_not_are_refused_before_a_teacher_is_trained(project, checked, student_layers, pair, message):
    (project.raw / "a.csv").write_text(MANY)
    project.params["student"]["model"]["config"]["num_hidden_layers"] = student_layers
    project.params["train_teacher"]["model"]["config"]["num_hidden_layers"] = 2
    said = checked(ingest__source=files(train="a.csv"), train_student__distillation=comparing([pair]))
    assert said.startswith(f"'train_student.distillation.terms.1.layers' names layer {message}")


def test_layers_that_there_are_and_those_of_a_pretrained_model_are_accepted(project, checked):
    (project.raw / "a.csv").write_text(MANY)
    project.params["train_teacher"]["model"]["config"]["num_hidden_layers"] = 2
    source, folder = files(train="a.csv"), {"pretrained": f"owner/model@{'a' * 40}"}
    said = checked(ingest__source=source, train_student__distillation=comparing([[0, 1], [-1, -2]]))
    assert said.endswith("params.yaml: all blocks are valid\n")
    # How many it has, only its folder says.
    project.params["train_teacher"]["model"] = folder
    said = checked(ingest__source=source, train_student__distillation=comparing([[0, 30]]), preprocess__tokenizer=folder)
    assert said.endswith("params.yaml: all blocks are valid\n")


def test_layers_of_an_architecture_of_transformers_are_counted_too(project, checked):
    (project.raw / "a.csv").write_text(MANY)
    small = {"dim": 16, "hidden_dim": 32, "n_heads": 2, "n_layers": 3}
    project.params["train_teacher"]["model"] = {"architecture": "distilbert", "config": small}
    said = checked(ingest__source=files(train="a.csv"), train_student__distillation=comparing([[0, 3]]))
    assert "names layer 3 of the teacher, which has 3 layers (distilbert)" in said


# ---- folders of models ----


@pytest.mark.parametrize("key", ["train_teacher__model", "student__model", "preprocess__tokenizer", "finetune__start"])
def test_folders_of_models_and_tokenizers_must_be_there_and_in_the_repository(project, checked, tmp_path, key):
    file = "tokenizer.json" if "tokenizer" in key else "config.json"
    name = key.replace("__", ".") + ("" if "start" in key else ".pretrained")

    more: dict[str, Any] = {}

    def said(folder: str) -> str:
        return checked(**more | {key: folder if "start" in key else {"pretrained": folder}})

    assert said("models/bert") == (
        f"'{name}' is 'models/bert': there is no such folder, and a hub id needs its commit: 'owner/model@<40 hex digits>'"
    )
    assert said("owner/model@main").startswith(
        f"'{name}' is 'owner/model@main': there is no such folder, and a hub id needs its"
    )
    assert said("data/raw/models/bert").endswith("there is no such model; 'make model FROM=... NAME=bert' puts one there")
    (project.folder / "models" / "bert").mkdir(parents=True)
    assert said("models/bert") == f"'{name}' is 'models/bert', a folder without {file}; expected one written by save_pretrained"
    (project.folder / "models" / "bert" / "config.json").write_text('{"model_type": "ngram_encoder"}')
    if file == "config.json":
        assert "models/bert has no model.safetensors; expected a folder as save_pre" in said("models/bert")
    (project.folder / "models" / "bert" / "model.safetensors").touch()
    write_words(project.folder / "models" / "bert")
    more["preprocess__tokenizer"] = {"pretrained": "models/bert"}
    assert said("models/bert") == "params.yaml: all blocks are valid\n"
    assert said(str(project.folder / "models" / "bert")) == "params.yaml: all blocks are valid\n"
    assert said(f"owner/model@{'a' * 40}").endswith("params.yaml: all blocks are valid\n")
    (tmp_path / "elsewhere").mkdir()
    for outside in (str(tmp_path / "elsewhere"), "../elsewhere"):
        assert said(outside) == (
            f"'{name}' is '{outside}', which lies outside of the repository: DVC does not see it change, and other hosts do "
            f"not have it; 'make {'data FILE' if 'tokenizer' in key else 'model FROM'}={outside}' puts it into data/raw"
        )


def test_the_teachers_of_a_mixture_are_looked_for(project, checked):
    said = checked(export_soft_labels__mixture=[{"model": "data/raw/more", "share": 0.5}])
    assert said.startswith("'export_soft_labels.mixture.0.model' is 'data/raw/more': there is no such folder")


def test_a_folder_that_git_ignores_is_found_in_the_checkout_of_a_run(project, checked, monkeypatch):
    root, workspace = project.folder, project.folder / ".runs" / "run-1"
    (root / "models" / "bert").mkdir(parents=True)
    (root / "models" / "bert" / "config.json").write_text('{"model_type": "ngram_encoder"}')
    (root / "models" / "bert" / "model.safetensors").touch()
    write_words(root / "models" / "bert")
    shell("git", "init", "--quiet", str(root), folder=root)
    shell("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--allow-empty", "-qm", "x", folder=root)
    shell("git", "worktree", "add", "--quiet", "--detach", str(workspace), folder=root)
    project.folder = workspace
    monkeypatch.chdir(workspace)
    bert = {"pretrained": "models/bert"}
    assert checked(train_teacher__model=bert, preprocess__tokenizer=bert) == "params.yaml: all blocks are valid\n"
    assert "there is no such folder" in checked(train_teacher__model={"pretrained": "models/other"})


def test_the_check_of_own_data_imports_nothing_heavy(project):
    (project.raw / "a.csv").write_text(MANY)
    project.write_params(ingest={"source": files(train="a.csv"), "new": files(train="a.csv")})
    code = (
        "import sys; from tasks.check import main; main(); "
        "print({'torch', 'transformers', 'datasets', 'openpyxl'} & set(sys.modules))"
    )
    environment = {"PYTHONPATH": str(check.__file__).removesuffix("/tasks/check.py"), "PATH": "/usr/bin:/bin"}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=project.folder, env=environment, capture_output=True, text=True)
    assert done.stdout.endswith("valid\nset()\n"), done.stderr + done.stdout


def test_a_target_task_with_the_data_of_the_source_task_is_noticed(project, checked):
    (project.raw / "rows.csv").write_text(MANY)
    source = files(train="rows.csv")
    for new, noticed in ((source, True), (None, False), ({"kind": "sample", "task": "varieties"}, False)):
        said = checked(ingest__source=source, ingest__new=new)
        assert ("reads the same data as 'ingest.source'" in said) == noticed
        assert ("10 rows of each class" in said) == noticed
