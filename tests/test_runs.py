"""`make runs`: every run of a clone beside the others, out of git's objects and DVC's cache; as a table, a page and JSON."""

import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from flows.history import differences, in_words, nearest_recipe
from flows.in_use import hold, let_go
from flows.rows import Row, rows_of
from flows.runs import changed, markdown, table_lines, wrapped, write_page
from tests.tiny_run import ROOT, shell
from tests.two_hosts import COMMITTER

SCORES = {"accuracy": 0.8, "accuracy_low": 0.75, "accuracy_high": 0.85, "macro_f1": 0.7, "parameters": 10, "bytes": 1_234_567}
NATS = {"nats_per_token": 3.0, "nats_per_token_low": 2.7, "nats_per_token_high": 3.3, "bits_per_byte": 1.0, "bytes": 50_000_000}
PARAMS = {"kind": "text_classification", "seed": 1, "train_student": {"distillation": {"temperature": 2.0, "weight": 0.7}}}


class Clone:
    """A repository with runs in it, as DVC and flows leave them; written without either, which is quicker."""

    def __init__(self, root: Path):
        self.root = root
        self.clock = 1_700_000_000
        root.mkdir()
        shell("git", "init", "--quiet", "--initial-branch", "main", folder=root)
        shell("dvc", "init", "--quiet", folder=root)
        (root / ".gitignore").write_text(".runs\ndata\nreports\n.dvc/tmp\n.dvc/cache\n")
        self.write("recipes/tiny.yaml", PARAMS | {"seed": 5})
        self.write("recipes/lm.yaml", PARAMS | {"kind": "causal_lm", "seed": 6})
        self.base = self.commit(PARAMS, shipped={**SCORES, "lead_over_scratch": 0.05})

    def write(self, name: str, tree: Any) -> None:
        (self.root / name).parent.mkdir(exist_ok=True)
        (self.root / name).write_text(json.dumps(tree, indent=1))

    def git(self, *words: str) -> str:
        self.clock += 100
        when = f"{self.clock} +0000"
        variables = {**COMMITTER, "GIT_AUTHOR_DATE": when, "GIT_COMMITTER_DATE": when}
        return shell("git", *words, folder=self.root, **variables).stdout.strip()

    def store(self, value: Any) -> str:
        """MD5 of a file that now lies in the cache."""
        data = json.dumps(value).encode()
        md5 = hashlib.md5(data).hexdigest()
        path = self.root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return md5

    def results(self, shipped: dict[str, float], latency: float = 0.5, seconds: float = 90) -> None:
        """A `dvc.lock` that records these scores."""
        metrics = {"new": {"student": shipped}, "source": {"student": {**shipped, "lead_over_baseline": 0.02}}}
        files = {
            "evaluate/metrics.json": metrics, "evaluate/timing.json": {"new_student_latency_ms": latency, "seconds": 4.0},
            "train_teacher/timing.json": {"seconds": seconds},
        }  # fmt: skip
        outs = [{"path": f"data/{name}", "hash": "md5", "md5": self.store(value)} for name, value in files.items()]
        self.write("dvc.lock", {"schema": "2.0", "stages": {"all": {"cmd": "x", "outs": outs}}})

    def commit(self, params: dict, shipped: dict[str, float]) -> str:
        self.write("params.yaml", params)
        self.results(shipped)
        self.git("add", "--all")
        self.git("commit", "--quiet", "-m", "a run")
        return self.git("rev-parse", "HEAD")

    def experiment(self, name: str, params: dict, shipped: dict[str, float] = SCORES, **files: str) -> str:
        """An experiment on HEAD; the checkout is left as it was."""
        base = self.git("rev-parse", "HEAD")
        for file, text in files.items():
            (self.root / file).write_text(text)
        made = self.commit(params, shipped)
        self.git("update-ref", f"refs/exps/{base[:2]}/{base[2:]}/{name}", made)
        self.git("reset", "--quiet", "--hard", base)
        return made

    def rows(self) -> dict[str, Row]:
        return {row.name: row for row in rows_of(self.root)}


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path / "clone")


def with_student(**values: float) -> dict:
    return {**PARAMS, "train_student": {"distillation": {**PARAMS["train_student"]["distillation"], **values}}}


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
    # A branch without results is no run.
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

    monkeypatch.setattr("flows.history.as_params", refuse)
    monkeypatch.setattr("flows.history.as_outputs", refuse)
    assert clone.rows() == before
    # Another clone's memory that is damaged costs time alone.
    monkeypatch.undo()
    (clone.root / ".git/stillhouse/history.json").write_text("{")
    assert clone.rows() == before


# ---- forms ----


def rows_for_forms(clone: Clone) -> list[Row]:
    clone.experiment("a-run-with-quite-a-long-name-that-says-what-it-is-about", with_student(temperature=4.0, weight=0.25))
    made = clone.experiment("odd", PARAMS | {"seed": 5})
    clone.git("tag", "-a", "-m", "x", "student@v1.2.3", made)
    clone.experiment("language", PARAMS | {"kind": "causal_lm", "seed": 6}, {**NATS, "lead_over_scratch": 0.3})
    return rows_of(clone.root)


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160, 200, 250])
def test_the_table_fits_every_terminal_and_hides_nothing_that_matters(clone, width):
    lines = table_lines(rows_for_forms(clone), width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert text.count("Classifiers") == text.count("Language models") == 1
    assert "0.8000" in text
    assert "1.0000" in text
    whole = re.sub(r"\s+", "", text)
    assert "train_student.distillation.temperature" in whole or width < 100
    if width >= 200:
        assert re.search(
            r"odd +recipe tiny +\S+ +saved +0\.8000 +0\.750-0\.850 +\+2\.0 +1\.23 MB +0\.50 +2 min +v1\.2\.3", text
        )


def test_lines_break_in_names_and_not_in_short_words():
    assert wrapped("train_student.distillation.temperature 2.0 -> 4", 24) == [
        "train_student.",
        "distillation.temperature",
        "2.0 -> 4",
    ]
    assert wrapped("a" * 30, 12) == ["a" * 12, "a" * 12, "a" * 6]
    assert wrapped("", 10) == [""]


class Cells(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


def test_the_page_stands_alone_and_links_to_the_reports_that_are_kept(clone):
    rows = rows_for_forms(clone)
    (clone.root / "reports").mkdir()
    (clone.root / "reports" / "odd.html").write_text("")
    page = write_page(rows_of(clone.root), clone.root).read_text()
    cells = Cells()
    cells.feed(page)
    assert cells.links == ["odd.html"]
    assert not re.search(r"<script|@import|url\(", page)
    for words in ("Runs of clone", "odd", "tiny", "train_student.distillation.temperature", "2.0 → 4.0", "v1.2.3", "1.0000"):
        assert words in " ".join(cells.words), words
    assert len(rows) == page.count("<tr>") - 2


def test_markdown_keeps_its_columns_whatever_a_name_holds(clone):
    clone.experiment("odd", {**PARAMS, "title": "a|b"})
    (clone.root / "reports").mkdir()
    (clone.root / "reports" / "odd.html").write_text("")
    lines = markdown(rows_of(clone.root), lambda report: f"http://127.0.0.1/{report}").splitlines()
    assert lines[0] == "## Classifiers"
    columns = lines[2].count("|")
    row = next(line for line in lines if "[odd](http://127.0.0.1/reports/odd.html)" in line)
    assert row.replace("\\|", "").count("|") == columns
    assert "title none -> a\\|b" in row


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
