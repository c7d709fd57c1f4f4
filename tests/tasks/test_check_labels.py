"""Blocks that import labels are refused at once where they cannot be right."""

import json
from pathlib import Path

import pytest

from stillhouse.core.params import read_yaml
from tests.helpers.tiny_run import ROOT

SOURCE = {"kind": "import", "files": "labels.jsonl", "model": "large", "date": "2026-11-30"}


@pytest.fixture
def check(project, check_here):
    """`tasks.check` of the tiny recipe with other blocks: what it says on stderr."""

    def run(source: dict, row: dict | None = None, **blocks) -> str:
        if row is not None:
            (project.raw / "labels.jsonl").write_text(json.dumps(row) + "\n")
        export = project.params["export_soft_labels"] | {"source": source}
        project.write_params(export_soft_labels=export, **blocks)
        return check_here(Path("params.yaml"))[1]

    return run


def test_labels_of_whole_rows_need_whole_views(check, project):
    row = {"id": "1", "de": 1.0}
    assert "data/raw/labels.jsonl: there is no column 'view', so the labels are of whole rows" in check(SOURCE, row)
    assert check(SOURCE, row | {"view": 0}) == ""
    assert check(SOURCE, row, views=project.params["views"] | {"min_share": 1.0}) == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"files": "none.csv"}, "names data/raw/none.csv, and there is no such file"),
        ({"prompt": "prompt.txt"}, "names data/raw/prompt.txt, and there is no such file"),
        ({"files": "../labels.csv"}, "files names files below data/raw, where DVC sees them change; is '../labels.csv'"),
        ({"files": "labels.txt"}, "files has 'labels.txt'; expected a name that ends in .csv, .jsonl, .parquet"),
        ({"files": []}, "files is empty"),
        ({"date": "yesterday"}, "date is 'yesterday'; expected a day such as 2026-11-30"),
        ({"model": " "}, "model is empty"),
        ({"classes": ["a", "a"]}, "classes has a name twice"),
        ({"id": "text"}, "id, text and view must be names of different columns"),
        ({"compression": "x.yaml"}, "'export_soft_labels.source.compression' is a parameter of kind causal_lm"),
    ],
)
def test_a_wrong_source_is_one_line(check, changes, words):
    said = check(SOURCE | changes, {"id": "1", "view": 0})
    assert words in said
    assert said.count("\n") == 1


def test_a_date_without_quotes_is_refused_before_dvc_sees_it(check, project, check_here):
    check(SOURCE, {"id": "1", "view": 0})
    path = Path("params.yaml")
    path.write_text(path.read_text().replace('"2026-11-30"', "2026-11-30"))
    assert "'export_soft_labels.source.date' is 2026-11-30 without quotes, which DVC does not take" in check_here(path)[1]


def test_labels_from_elsewhere_and_a_teacher_of_ones_own_exclude_each_other(check, project):
    distillation = project.params["train_student"]["distillation"] | {"teacher": "online"}
    said = check(SOURCE, {"id": "1", "view": 0}, train_student=project.params["train_student"] | {"distillation": distillation})
    assert "'export_soft_labels.source' imports labels; use teacher: store" in said
    export = project.params["export_soft_labels"]
    project.params["export_soft_labels"] = export | {"mixture": [{"model": "data/raw/other", "share": 0.5}]}
    assert "mixture runs teachers, and source imports labels instead" in check(SOURCE, {"id": "1", "view": 0})


def test_likeliest_ids_are_not_taken_for_draws(project, check_here):
    params = read_yaml(ROOT / "recipes" / "tiny_lm.yaml")
    params["export_soft_labels"]["source"] = SOURCE
    Path("params.yaml").write_text(json.dumps(params))
    assert "sampler.method is threshold, which draws from whole distributions" in check_here(Path("params.yaml"))[1]
    params["export_soft_labels"]["sampler"]["method"] = "topk_tail"
    (project.raw / "labels.jsonl").write_text('{"input_ids": [1, 2]}\n')
    Path("params.yaml").write_text(json.dumps(params))
    assert check_here(Path("params.yaml"))[1] == ""
