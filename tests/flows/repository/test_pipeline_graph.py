"""dvc.yaml as a graph, and what a run asks of it."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from flows.distill import parse_override
from flows.execution.repro import in_run_cache
from flows.repository.pipeline import read_pipeline
from flows.run.pipeline_run import Request, open_run, override
from stillhouse.core import identity
from stillhouse.core.errors import ParamsError, StillhouseError
from stillhouse.core.params import STAGES
from tests.helpers.tiny_run import ROOT, apply, environment, shell

PIPELINE = """
stages:
  last: {cmd: c, deps: [data/first, data/second/x], outs: [data/last/z]}
  first: {cmd: a, deps: [code.py], params: [seed], outs: [data/first/one, data/first/two]}
  second: {cmd: b, meta: {pool: torchrun}, deps: [code.py], outs: [{data/second: {cache: false}}]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    (tmp_path / "params.yaml").write_text("seed: 1\nother: 2\n")
    (tmp_path / "code.py").write_text("1")
    return tmp_path


def test_order_pools_and_upstream_come_from_dvc_yaml(folder):
    stages = read_pipeline(folder).stages
    assert list(stages) == ["first", "second", "last"]
    assert stages["last"].upstream == ("first", "second")
    assert (stages["second"].pool, stages["second"].dispatched) == ("torchrun", True)
    assert not stages["first"].dispatched


def test_the_real_pipeline_is_in_order_and_whole():
    pipeline = read_pipeline(ROOT)
    assert sorted(pipeline.stages) == sorted(STAGES)
    assert pipeline.needed_for(["train_student"]) == [
        name
        for name in pipeline.stages
        if name in ("ingest", "preprocess", "train_teacher", "export_soft_labels", "train_student")
    ]
    assert pipeline.needed_for([]) == list(pipeline.stages)


def test_versions_follow_code_command_and_own_parameters(folder):
    before = {name: read_pipeline(folder).version(name) for name in ("first", "second")}
    (folder / "params.yaml").write_text("seed: 1\nother: 3\n")
    assert read_pipeline(folder).version("first") == before["first"]
    (folder / "params.yaml").write_text("seed: 2\nother: 3\n")
    assert read_pipeline(folder).version("first") != before["first"]
    assert read_pipeline(folder).version("second") == before["second"]
    (folder / "code.py").write_text("2")
    assert read_pipeline(folder).version("second") != before["second"]


def test_keys_follow_the_recorded_inputs(folder):
    lock = "schema: '2.0'\nstages:\n  first:\n    cmd: a\n    outs:\n    - {path: data/first/one, md5: %s}\n"
    (folder / "dvc.lock").write_text(lock % "aa")
    one = read_pipeline(folder).key("last")
    assert read_pipeline(folder).key("last") == one
    (folder / "dvc.lock").write_text(lock % "bb")
    assert read_pipeline(folder).key("last") != one


def test_how_often_a_training_is_kept_is_no_part_of_its_key_and_all_else_is(folder):
    def key(training: dict) -> str:
        return identity.key(identity.ingredients(folder, "a", {"student": {"training": training}, "seed": 1}, []))

    before = key({"steps": 3, "checkpoint": {"every_steps": 5}})
    assert key({"steps": 3, "checkpoint": {"every_steps": 6}}) == before == key({"steps": 3})
    assert key({"steps": 4, "checkpoint": {"every_steps": 5}}) != before


def test_python_caches_do_not_count(folder):
    (folder / "package").mkdir()
    (folder / "package" / "a.py").write_text("1")
    (folder / "dvc.yaml").write_text(PIPELINE.replace("code.py", "package"))
    before = read_pipeline(folder).version("first")
    (folder / "package" / "__pycache__").mkdir()
    (folder / "package" / "__pycache__" / "a.pyc").write_text("x")
    assert read_pipeline(folder).version("first") == before


def test_a_circle_is_refused(folder):
    (folder / "dvc.yaml").write_text("stages:\n  a: {cmd: a, deps: [y], outs: [x]}\n  b: {cmd: b, deps: [x], outs: [y]}\n")
    with pytest.raises(ParamsError, match="depend on each other in a circle: "):
        read_pipeline(folder)


def test_an_unknown_stage_names_the_nearest(folder):
    with pytest.raises(ParamsError, match=re.escape("targets: 'frist' is not a stage of dvc.yaml; did you mean 'first'?")):
        read_pipeline(folder).check_names(["frist"], "targets")


def test_overrides_reach_down_into_blocks():
    tree = {"a": {"b": {"c": 1}}, "d": 2}
    override(tree, "a.b.c", 3)
    override(tree, "d", None)
    override(tree, "a.e", [1])
    assert tree == {"a": {"b": {"c": 3}, "e": [1]}, "d": None}
    with pytest.raises(ParamsError, match=r"'d\.x': 'd' is a value, not a block"):
        override({"d": 2}, "d.x", 1)
    with pytest.raises(ParamsError, match=r"'a\.\.b' is not a key"):
        override({}, "a..b", 1)


# ---- runs without a server, in a clone ----


def distill(*words: str, folder: Path, check: bool = True):
    return shell("python", "-m", "flows.distill", *words, folder=folder, check=check)


BAD_REQUESTS = [
    (Request(overrides={"train_student.distillation.temprature": 4}), "temprature'; did you mean 'temperature'?"),
    (Request(overrides={"train_student.distillation.temperature": "hot"}), "temperature' is 'hot' (str), expected"),
    (Request(overrides={"train_studnet.distillation.weight": 1}), "parameter 'train_studnet'; did you mean 'train_student'?"),
    (Request(targets=["train_studnet"]), "targets: 'train_studnet' is not a stage of dvc.yaml; did you mean 'train_student'?"),
    (Request(force=["everything"]), "force: 'everything' is not a stage of dvc.yaml"),
    (Request(recipe="tinny"), "there is no recipe 'tinny' (recipes/tinny.yaml); did you mean 'tiny'?"),
    (Request(rev="mian"), "there is no revision 'mian'"),
    (Request(recipe="../params"), "there is no recipe '../params' (recipes/../params.yaml)"),
    (Request(targets=["ingest"], force=["report"]), "force: 'report' is not run for targets ingest; name it there too"),
    (Request(overrides={"train_student.distillation.temperature": {"a": 1}}), "params.yaml: "),
]  # fmt: skip


def test_bad_requests_are_refused_and_leave_nothing(tiny_copy):
    for request, message in BAD_REQUESTS:
        with pytest.raises(StillhouseError, match=re.escape(message)):
            open_run(tiny_copy, "bad", request)
        assert not list((tiny_copy / ".runs").glob("*")), message
    assert len(shell("git", "worktree", "list", folder=tiny_copy).stdout.splitlines()) == 1


@pytest.mark.parametrize("name", ["a b", "a/b", "../a", ".a", "a..b", "a.lock", "", "-a", "a" * 101, "ä", "a\nb", "a~1"])
def test_a_name_that_git_or_the_disk_would_not_take_is_refused(tiny_copy, name):
    with pytest.raises(ParamsError, match="cannot name its experiment; use at most 100 letters"):
        open_run(tiny_copy, name, Request())
    assert not (tiny_copy / ".runs").exists()


@pytest.mark.slow
def test_runs_of_the_same_name_keep_an_experiment_each(tiny_copy):
    for number in (1, 2, 3):
        done = distill("--name", "same", "--override", f"report.title=Number {number}", folder=tiny_copy)
        name = "same" if number == 1 else f"same-{number}"
        assert f"experiment {name}; executed: report" in done.stdout
    for number, name in enumerate(("same", "same-2", "same-3"), 1):
        assert (tiny_copy / "reports" / f"{name}.html").is_file()
        apply(name, tiny_copy)
        assert f"title: Number {number}" in (tiny_copy / "params.yaml").read_text()


@pytest.mark.parametrize("text", ["seed=[1", "seed={", "seed=a: b: c", "seed=@"])
def test_an_override_that_is_not_yaml_is_one_line(text):
    with pytest.raises(ParamsError, match=rf"^--override '{re.escape(text)}': .* is not YAML; expected a number"):
        parse_override(text)


def test_a_bad_request_is_one_line_and_no_traceback(tiny_copy):
    done = distill("--override", "seed", folder=tiny_copy, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "error: distill: --override 'seed' has no '='; expected, for example, train_student.distillation.temperature=4"
    )


def test_outside_a_repository_it_says_so(tmp_path):
    done = shell("python", "-m", "flows.distill", folder=tmp_path, check=False, PYTHONPATH=str(ROOT))
    assert done.returncode == 1
    assert "is not in a git repository; run the command in a clone of the project" in done.stderr


def test_a_run_is_an_experiment_and_the_checkout_stays_as_it_was(tiny_copy):
    (tiny_copy / "notes.txt").write_text("not committed")
    before = shell("git", "status", "--porcelain", folder=tiny_copy).stdout
    done = distill("--override", "report.title=Another", "--name", "titled", folder=tiny_copy)
    assert "experiment titled; executed: report" in done.stdout
    assert "titled" in shell("dvc", "exp", "list", "--name-only", folder=tiny_copy).stdout
    assert shell("git", "status", "--porcelain", folder=tiny_copy).stdout == before
    assert not list((tiny_copy / ".runs").glob("*"))
    apply("titled", tiny_copy)
    assert "title: Another" in (tiny_copy / "params.yaml").read_text()
    assert shell("dvc", "status", "--json", folder=tiny_copy).stdout.strip() == "{}"


@pytest.mark.slow
def test_a_run_with_targets_is_not_saved_and_falsifies_nothing(tiny_copy):
    """`dvc exp save` after a partial run would bind old outputs to new inputs; a full repro must run what is stale."""
    done = distill("--target", "ingest", "--override", "ingest.source.max_rows=280", folder=tiny_copy)
    assert "such a run is not saved" in done.stdout
    assert shell("dvc", "exp", "list", "--name-only", folder=tiny_copy).stdout.split() == []
    params = tiny_copy / "params.yaml"
    params.write_text(params.read_text().replace("max_rows: 300", "max_rows: 280"))
    ran = shell("dvc", "repro", "preprocess", folder=tiny_copy).stdout
    assert "Stage 'ingest' is cached - skipping run" in ran
    assert "Running stage 'preprocess'" in ran


@pytest.mark.slow
def test_a_forced_stage_that_gives_the_same_runs_nothing_after_it(tiny_copy):
    done = distill("--force", "ingest", "--name", "again", folder=tiny_copy)
    assert "ingest: executed" in done.stdout
    assert "preprocess: cached" in done.stdout
    assert "train_teacher: cached" in done.stdout


def test_a_failed_run_says_why_and_keeps_its_workspace(tiny_copy):
    code = tiny_copy / "tasks" / "report.py"
    code.write_text(code.read_text().replace("-> None:\n", "-> None:\n    raise ValueError('no report today')\n", 1))
    done = distill(folder=tiny_copy, check=False)
    assert done.returncode == 1
    kept = list((tiny_copy / ".runs").glob("*/dvc.yaml"))
    assert len(kept) == 1
    assert done.stderr == f"error: distill: report: ValueError: no report today; the workspace is kept in {kept[0].parent}\n"
    assert shell("dvc", "exp", "list", "--name-only", folder=tiny_copy).stdout.split() == []


@pytest.mark.slow
def test_two_runs_that_need_the_same_stage_train_it_once(tiny_copy):
    words = ["python", "-m", "flows.distill", "--target", "train_baseline", "--override", "train_baseline.label_smoothing=0.05"]
    runs = [
        subprocess.Popen([*words, "--name", name], cwd=tiny_copy, env=environment(tiny_copy), stdout=subprocess.PIPE, text=True)
        for name in ("one", "two")
    ]
    said = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    ends = sorted(line for text in said for line in text.splitlines() if line.startswith("train_baseline: "))
    assert ends == ["train_baseline: cached", "train_baseline: executed"]


@pytest.mark.slow
def test_a_stage_that_takes_longer_than_its_limit_is_ended(tiny_copy):
    pipeline = tiny_copy / "dvc.yaml"
    entry = "    cmd: python -m tasks.report\n    meta: {pool: cpu}"
    assert entry in pipeline.read_text()
    pipeline.write_text(pipeline.read_text().replace(entry, entry.replace("cpu}", "cpu, timeout_seconds: 0.1}")))
    # A limit is not an input: nothing runs again because of it.
    assert "executed: nothing" in distill(folder=tiny_copy).stdout
    done = distill("--override", "report.title=Slow", folder=tiny_copy, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: distill: report was stopped: it took longer than 0.1 seconds; the workspace is kept")
    pipeline.write_text(pipeline.read_text().replace("timeout_seconds: 0.1", "timeout_seconds: soon"))
    done = distill(folder=tiny_copy, check=False)
    assert done.stderr.endswith("dvc.yaml: report: meta.timeout_seconds is 'soon', expected a number of seconds above 0\n")


@pytest.mark.slow
def test_another_revision_runs_without_the_checkouts_changes(tiny_copy):
    params = tiny_copy / "params.yaml"
    good = params.read_text()
    params.write_text(good.replace("title: Tiny recipe", "title: Uncommitted"))
    distill("--rev", "HEAD", "--name", "committed", folder=tiny_copy)
    shutil.copyfile(params, tiny_copy / "kept.yaml")
    params.write_text(good)
    (tiny_copy / "kept.yaml").unlink()
    apply("committed", tiny_copy)
    assert "Uncommitted" not in params.read_text()


def test_the_run_cache_is_asked_under_the_inputs_of_now(tiny_copy, tmp_path, monkeypatch):
    """`dvc repro --dry` says "is cached" of every changed stage; a run that believed it would train in its own process."""
    # A flow's process is not in its workspace.
    monkeypatch.chdir(tmp_path)
    assert in_run_cache(tiny_copy, "report")
    params = tiny_copy / "params.yaml"
    good = params.read_text()
    params.write_text(good.replace("title: Tiny recipe", "title: Another"))
    assert not in_run_cache(tiny_copy, "report")
    shell("dvc", "repro", "--single-item", "report", folder=tiny_copy)
    params.write_text(good)
    shell("dvc", "repro", "--single-item", "report", folder=tiny_copy)
    params.write_text(good.replace("title: Tiny recipe", "title: Another"))
    assert in_run_cache(tiny_copy, "report")
