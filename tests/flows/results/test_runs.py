"""`make runs`: every run of a clone beside the others, out of git's objects and DVC's cache; the command itself."""

import json
import re

import pytest

from flows.repository.in_use import hold, let_go
from flows.results.history import differences, in_words, nearest_recipe
from flows.results.rows import rows_of
from flows.results.run_tables import changed, table_lines
from tests.helpers.clone_of_runs import NATS, PARAMS, SCORES, with_student
from tests.helpers.tiny_run import ROOT, shell
from tests.helpers.two_hosts import COMMITTER


def test_a_saved_run_tells_what_was_changed_and_what_came_of_it(clone):
    made = clone.experiment("hotter", with_student(temperature=4.0), {**SCORES, "lead_over_scratch": 0.125})
    (clone.root / "reports").mkdir()
    (clone.root / "reports/hotter.html").write_text("")
    row = clone.rows()["hotter"]
    assert (row.state, row.commit, row.kind, row.recipe) == ("saved", made, "text_classification", "params.yaml")
    assert row.changes == [("train_student.distillation.temperature", 2.0, 4.0)]
    assert changed(row) == ["train_student.distillation.temperature 2.0 -> 4.0"]
    assert row.scores == {**SCORES, "gain_over_scratch": 0.125, "gain_over_baseline": 0.02}
    assert (row.gain, row.latency_ms, row.seconds) == (0.125, 0.5, 94.0)
    assert (row.report, row.versions, row.files) == ("reports/hotter.html", [], [])


def test_runs_of_recipes_are_told_by_their_recipe(clone):
    clone.experiment("plain", PARAMS)
    clone.experiment("small", PARAMS | {"seed": 5})
    clone.experiment("small-and-hot", with_student(temperature=8) | {"seed": 5})
    clone.experiment("language", PARAMS | {"kind": "causal_lm", "seed": 6}, {**NATS, "lead_over_scratch": 0.3})
    rows = clone.rows()
    assert [changed(rows[name]) for name in ("plain", "small", "small-and-hot", "language")] == [
        ["-"], ["recipe tiny"], ["recipe tiny", "train_student.distillation.temperature 2.0 -> 8"], ["recipe lm"],
    ]  # fmt: skip
    row = rows["language"]
    assert (row.kind, row.scores["bits_per_byte"], row.gain) == ("causal_lm", 1.0, pytest.approx(0.1))
    assert (row.scores["bits_per_byte_low"], row.scores["bits_per_byte_high"]) == (0.9, 1.1)


def test_code_that_was_changed_is_named_and_results_are_not(clone):
    clone.experiment("other-code", PARAMS, **{"train.py": "x", "loss.py": "y", "a.py": "z"})
    row = clone.rows()["other-code"]
    assert row.files == ["a.py", "loss.py", "train.py"]
    assert changed(row) == ["files: a.py, loss.py and 1 more"]


def test_the_newest_run_stands_first_and_commits_with_results_stand_among_them(clone):
    for name in ("first", "second"):
        clone.experiment(name, PARAMS)
    clone.git("branch", "side")
    clone.commit(PARAMS | {"seed": 5}, SCORES)
    rows = rows_of(clone.root)
    assert [row.name for row in rows] == ["main", "second", "first", "side"]
    assert [row.state for row in rows] == ["committed", "saved", "saved", "committed"]
    assert changed(rows[0]) == ["recipe tiny"]
    # A branch without results is not a run.
    (clone.root / "dvc.lock").unlink()
    clone.git("commit", "--quiet", "--all", "-m", "no results")
    assert [row.name for row in rows_of(clone.root)] == ["second", "first", "side"]


def test_promoted_versions_stand_at_their_runs_and_those_taken_back_say_so(clone):
    runs = [clone.experiment(name, PARAMS | {"seed": seed}) for seed, name in enumerate(["a", "b", "c"], start=10)]
    for number, run in enumerate(runs[:2], start=1):
        clone.git("tag", "-a", "-m", "x", f"student@v0.0.{number}", run)
    clone.git("tag", "-a", "-m", "x", "student@v0.0.2!", runs[1])
    # Not annotated: the registry knows nothing of it.
    clone.git("tag", "student@v0.0.3", runs[2])
    rows = clone.rows()
    assert [rows[name].versions for name in "abc"] == [["v0.0.1"], ["v0.0.2 (taken back)"], []]
    # The version stays when its experiment is removed.
    clone.git(
        "update-ref", "-d", next(ref for ref in clone.git("for-each-ref", "--format=%(refname)").split() if ref.endswith("/a"))
    )
    assert clone.rows()[runs[0][:7]].versions == ["v0.0.1"]


def test_runs_that_go_on_and_runs_that_failed_are_told_from_each_other(clone):
    folder = clone.root / ".runs" / "broken-abcdefgh"
    clone.git("worktree", "add", "--quiet", "--detach", str(folder))
    (folder / "params.yaml").write_text(json.dumps(with_student(weight=0.9)))
    row = clone.rows()["broken"]
    assert (row.state, row.place, row.scores) == ("failed, kept", ".runs/broken-abcdefgh", {})
    assert changed(row) == ["train_student.distillation.weight 0.7 -> 0.9"]
    hold(folder)
    try:
        assert clone.rows()["broken"].state == "running"
    finally:
        let_go(folder)
    # It was saved after all, and ended before it was removed.
    clone.experiment("broken", with_student(weight=0.9))
    assert [row.state for row in rows_of(clone.root) if row.name == "broken"] == ["saved"]


def test_results_of_the_checkout_that_are_not_committed_are_a_row(clone):
    assert "checkout" not in clone.rows()
    clone.write("params.yaml", with_student(weight=0.1))
    clone.results({**SCORES, "accuracy": 0.9})
    row = clone.rows()["checkout"]
    assert (row.state, row.scores["accuracy"], row.commit) == ("not committed", 0.9, None)
    assert changed(row) == ["train_student.distillation.weight 0.7 -> 0.1"]


@pytest.mark.parametrize("change", ["missing", "damaged"])
def test_results_that_the_cache_does_not_hold_are_not_made_up(clone, change):
    clone.experiment("lost", PARAMS, {**SCORES, "accuracy": 0.123})
    (path,) = (p for p in clone.root.glob(".dvc/cache/files/md5/*/*") if b"0.123" in p.read_bytes())
    path.unlink() if change == "missing" else path.write_bytes(path.read_bytes().replace(b"0.123", b"0.999"))
    row = clone.rows()["lost"]
    assert (row.scores, row.seconds, row.latency_ms) == ({}, None, None)
    lines = [line for line in table_lines([row], 120) if line.startswith("lost")]
    assert re.fullmatch(r"lost +- +\S+ +saved", lines[0]), lines


def test_damaged_parameters_and_lock_files_of_a_commit_cost_its_row_alone(clone):
    clone.experiment("good", PARAMS)
    (clone.root / "dvc.lock").write_text("stages: [1")
    (clone.root / "params.yaml").write_text("kind: [")
    clone.git("commit", "--quiet", "--all", "-m", "broken")
    assert list(clone.rows()) == ["good"]


def test_what_was_parsed_is_not_parsed_again(clone, monkeypatch):
    clone.experiment("run", with_student(temperature=3.0))
    before = clone.rows()

    def refuse(data: bytes) -> None:
        raise AssertionError(data)

    monkeypatch.setattr("flows.results.history.as_params", refuse)
    monkeypatch.setattr("flows.results.history.as_outputs", refuse)
    assert clone.rows() == before
    # Another clone's memory that is damaged costs time alone.
    monkeypatch.undo()
    (clone.root / ".git/stillhouse/history.json").write_text("{")
    assert clone.rows() == before


# ---- the command ----


def test_the_command_prints_a_table_or_json(clone):
    clone.experiment("hotter", with_student(temperature=4.0))
    variables = {"PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    done = shell("python", "-m", "flows.runs", folder=clone.root, **variables)
    assert done.stdout.splitlines()[0] == "Classifiers"
    assert done.stdout.endswith("\nPage: reports/runs.html\n")
    assert (clone.root / "reports/runs.html").is_file()
    (newest,) = json.loads(shell("python", "-m", "flows.runs", "--json", "--last", "1", folder=clone.root, **variables).stdout)
    assert newest["name"] == "hotter"
    assert newest["changes"] == [{"parameter": "train_student.distillation.temperature", "before": 2.0, "after": 4.0}]
    assert newest["scores"]["accuracy"] == 0.8
    assert newest["when"].endswith("+00:00")


def test_before_the_first_run_the_command_says_how_to_make_one(tmp_path):
    shell("git", "init", "--quiet", folder=tmp_path)
    shell("dvc", "init", "--quiet", folder=tmp_path)
    (tmp_path / "a").write_text("")
    shell("git", "add", "a", folder=tmp_path)
    shell("git", "commit", "--quiet", "-m", "a", folder=tmp_path, **COMMITTER)
    done = shell("python", "-m", "flows.runs", folder=tmp_path, PYTHONPATH=str(ROOT))
    assert done.stdout == "no runs yet: 'make distill' makes one, and 'make distill RECIPE=tiny' another beside it\n"


# ---- parameters ----


def test_the_recipe_that_differs_least_is_the_one_and_of_equals_what_the_run_started_from():
    recipes = {"a": {"x": 1, "y": {"z": 2, "w": 3}}, "b": {"x": 1, "y": {"z": 2, "w": 4}}}
    assert nearest_recipe({"x": 1, "y": {"z": 2, "w": 4}}, recipes, {"x": 5}) == ("b", [])
    both = {"x": 1, "y": {"z": 2, "w": 9}}
    assert nearest_recipe(both, recipes, recipes["b"]) == ("b", [("y.w", 4, 9)])
    assert nearest_recipe(both, recipes, {"x": 1, "y": {"z": 2, "w": 5}}) == ("params.yaml", [("y.w", 5, 9)])


def test_differences_tell_what_came_and_what_went_and_long_values_are_cut():
    assert differences({"a": {"b": 1}, "c": 2}, {"a": {"b": [1, 2]}, "d": "x"}) == [
        ("a.b", 1, [1, 2]),
        ("c", 2, None),
        ("d", None, "x"),
    ]
    assert in_words(("a.b", None, "x" * 99)) == f"a.b none -> {'x' * 37}..."
    assert in_words(("a", True, {"k": "ä"})) == 'a true -> {"k": "ä"}'
