"""The pipeline under DVC: what runs again, what is restored, what a second machine executes."""

import json
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stillhouse.core.artifacts import digest_folder
from stillhouse.core.params import STAGES
from tests.helpers.tiny_run import apply, shell


def executed(output: str) -> list[str]:
    """Stages whose command DVC ran, in order."""
    return [stage for stage in STAGES if f"Running stage '{stage}'" in output]


def lock(folder: Path) -> dict:
    return YAML(typ="safe").load((folder / "dvc.lock").read_text())["stages"]


def test_all_ten_stages_ran(tiny):
    assert sorted(lock(tiny)) == sorted(STAGES)


def test_repro_again_executes_nothing(tiny_copy):
    assert executed(shell("dvc", "repro", folder=tiny_copy).stdout) == []


def test_a_change_of_the_student_runs_it_and_what_follows(tiny_copy):
    params = tiny_copy / "params.yaml"
    params.write_text(params.read_text().replace("temperature: 2.0", "temperature: 3.0"))
    stale = json.loads(shell("dvc", "status", "--json", folder=tiny_copy).stdout)
    assert "train_student" in stale
    upstream = {"ingest", "preprocess", "train_teacher", "export_soft_labels", "train_baseline"}
    assert not upstream & set(stale), stale
    ran = executed(shell("dvc", "repro", "train_student", folder=tiny_copy).stdout)
    assert ran == ["train_student"]


def test_deleted_data_come_back_from_the_cache(tiny_copy):
    before = digest_folder(tiny_copy / "data")
    for stage in STAGES:
        shutil.rmtree(tiny_copy / "data" / stage)
    assert executed(shell("dvc", "repro", folder=tiny_copy).stdout) == []
    assert digest_folder(tiny_copy / "data") == before


def test_a_second_clone_that_shares_the_cache_executes_nothing(tiny, tmp_path):
    clone = tmp_path / "second"
    shell("git", "clone", "--quiet", str(tiny), str(clone), folder=tiny)
    shell("dvc", "cache", "dir", "--local", str(tiny / ".dvc" / "cache"), folder=clone)
    # Without a lock file: everything has to come from the run-cache.
    assert not (clone / "dvc.lock").exists()
    assert executed(shell("dvc", "repro", folder=clone).stdout) == []
    assert (clone / "dvc.lock").read_bytes() == (tiny / "dvc.lock").read_bytes()


def test_metrics_plots_and_dag_say_something(tiny_copy):
    metrics = json.loads(shell("dvc", "metrics", "show", "--json", folder=tiny_copy).stdout)
    shown = metrics[""]["data"]
    assert list(shown) == ["data/evaluate/summary.json"]
    assert shown["data/evaluate/summary.json"]["data"]["macro_f1"] > 0
    assert max(map(len, shell("dvc", "metrics", "show", folder=tiny_copy).stdout.splitlines())) < 160
    plots = shell("dvc", "plots", "show", "--out", "plots", folder=tiny_copy)
    assert (tiny_copy / "plots" / "index.html").is_file(), plots.stdout
    page = (tiny_copy / "plots" / "index.html").read_text()
    for title in ("Learning curves", "Confusion of the shipped model", "Calibration"):
        assert title in page
    assert "train_student" in shell("dvc", "dag", "--mermaid", folder=tiny_copy).stdout


def test_a_failed_stage_keeps_the_last_good_outputs_in_reach(tiny_copy):
    """DVC empties a stage's place before it runs: the line says how to get the last good outputs back, and it works."""
    before = digest_folder(tiny_copy / "data" / "train_student")
    lock_before = (tiny_copy / "dvc.lock").read_bytes()
    params = tiny_copy / "params.yaml"
    good = params.read_text()
    params.write_text(good.replace("temperature: 2.0", "temperature: -1"))
    done = shell("dvc", "repro", "train_student", folder=tiny_copy, check=False)
    assert done.returncode != 0
    assert (
        "error: train_student: params.yaml: 'train_student.distillation': temperature must lie in [0.01, 100], is -1"
        in done.stderr
    )
    assert "'dvc checkout' brings them back" in done.stderr
    assert "Traceback" not in done.stderr
    params.write_text(good)
    shell("dvc", "checkout", folder=tiny_copy)
    assert digest_folder(tiny_copy / "data" / "train_student") == before
    assert (tiny_copy / "dvc.lock").read_bytes() == lock_before


@pytest.mark.slow
def test_own_data_by_editing_params_alone(tiny_copy, tmp_path):
    """`make data`, an edit of params.yaml, `dvc repro` as far as preprocess."""
    rows = [f'"text number {i} {word}, said twice ""{word}""",{word}' for word in ("red", "green") for i in range(60)]
    (tmp_path / "own.csv").write_text("sentence,colour\n" + "\n".join(rows) + "\n")
    said = shell("python", "-m", "flows.data", str(tmp_path / "own.csv"), "--keep-params", folder=tiny_copy).stdout
    assert said == "data/raw/own.csv: tracked by DVC; params.yaml stays as it is\n"
    params = tiny_copy / "params.yaml"
    own = "source: {kind: files, train: own.csv, text: sentence, label: colour}"
    params.write_text("\n".join(own.join(["  ", ""]) if "task: languages" in x else x for x in params.read_text().splitlines()))
    assert executed(shell("dvc", "repro", "preprocess", folder=tiny_copy).stdout) == ["ingest", "preprocess"]
    labels = json.loads((tiny_copy / "data/preprocess/source/labels.json").read_text())
    assert labels == ["green", "red"]
    assert shell("git", "check-ignore", "data/raw/own.csv", folder=tiny_copy).returncode == 0
    assert shell("git", "check-ignore", "data/raw/own.csv.dvc", folder=tiny_copy, check=False).returncode == 1
    # The same name with other rows is another input.
    (tmp_path / "own.csv").write_text("sentence,colour\n" + "\n".join(rows[:-1]) + "\n")
    shell("python", "-m", "flows.data", str(tmp_path / "own.csv"), folder=tiny_copy)
    assert executed(shell("dvc", "repro", "ingest", folder=tiny_copy).stdout) == ["ingest"]


@pytest.mark.slow
def test_a_recipe_runs_in_a_workspace_of_its_own_and_is_saved_as_an_experiment(tiny_copy):
    """The checkout is dirty, and stays as it is; the run takes everything from the shared cache."""
    (tiny_copy / "notes.txt").write_text("not committed")
    before = digest_folder(tiny_copy / "data")
    # Another recipe than the params.yaml that lies there, which is cheap to run: only the report differs.
    recipe = (tiny_copy / "recipes" / "tiny.yaml").read_text().replace("title: Tiny recipe", "title: Another title")
    (tiny_copy / "recipes" / "titled.yaml").write_text(recipe)
    done = shell("python", "-m", "flows.distill", "--recipe", "titled", folder=tiny_copy)
    assert "Gain over baseline" in done.stdout
    line = next(line for line in done.stdout.splitlines() if line.startswith("experiment titled-"))
    assert "; executed: report " in line
    name = line.split()[1].rstrip(";")
    assert "Another title" in (tiny_copy / "reports" / f"{name}.html").read_text()
    assert name in shell("dvc", "exp", "list", "--name-only", folder=tiny_copy).stdout
    assert digest_folder(tiny_copy / "data") == before
    assert len(shell("git", "worktree", "list", folder=tiny_copy).stdout.splitlines()) == 1
    apply(name, tiny_copy)
    assert "Another title" in (tiny_copy / "params.yaml").read_text()
    assert executed(shell("dvc", "repro", folder=tiny_copy).stdout) == []


def test_an_unknown_recipe_names_the_nearest(tiny_copy):
    done = shell("python", "-m", "flows.recipe", "tinny", folder=tiny_copy, check=False)
    assert done.returncode == 1
    assert "there is no recipe 'tinny' (recipes/tinny.yaml); did you mean 'tiny'?" in done.stderr


@pytest.mark.parametrize("recipe", sorted(p.stem for p in (Path(__file__).parents[3] / "recipes").glob("*.yaml")))
def test_every_recipe_is_valid(recipe, check_here, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[3])
    assert check_here(Path("recipes") / f"{recipe}.yaml") == (0, "")
