"""A command in a document is a promise: the README's run here, in a clone, word for word."""

import re
import shlex
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stillhouse.core.params import build
from stillhouse.distillation.config import DistillationParams
from stillhouse.distillation.signals import given_by, require_signals
from tests.helpers.tiny_run import ROOT, shell

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CHANGELOG.md"]


def commands(path: Path) -> list[str]:
    """Lines of the ```sh blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", path.read_text(), flags=re.S)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip()]


LONG = (
    "make data FILE=train.csv LABEL=category",
    "make distill RECIPE=tiny",
    "make distill RECIPE=image",
    "make distill RECIPE=multi_label",
)
"""What makes a run of its own necessary; the second `make distill` too, which is then another's."""


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["short", "whole"])
def test_the_readme_works_word_for_word(tiny_copy, whole):
    """Everything but `make test`, which is what runs here; the tiny recipe stands for the default one.

    The environment is the one that is installed: making it anew takes minutes, and every run in CI does it. In short, nothing
    is trained: `test_new_task` and `test_data` have own data, and `test_recipe` the recipe.
    """
    (tiny_copy / ".venv").symlink_to(ROOT / ".venv")
    (tiny_copy / "train.csv").write_text("text,category\n" + "".join(f"text {i} {c},{c}\n" for c in "ab" for i in range(50)))
    try:
        for line in commands(ROOT / "README.md"):
            if line == "make test" or (not whole and line in LONG):
                continue
            words = shlex.split(line)
            if words[0] == "make":
                words[1:1] = ["--assume-old=.venv/.ready"]
            done = shell(*words, folder=tiny_copy)
            if line == "make distill":
                assert "Report: data/report/index.html" in done.stdout
    finally:
        # Whatever fails, the service does not outlive the test.
        shell("python", "-m", "flows.service", "down", folder=tiny_copy)
    assert (tiny_copy / "data/raw/train.csv.dvc").is_file() == whole
    # A worker that outlives its server asks for it for ten seconds before it ends.
    stopped = re.findall(r"stopped: (\w+) ", (tiny_copy / ".prefect/supervisord.log").read_text())
    assert stopped[-1] == "server", stopped


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_every_file_that_a_document_names_exists(path):
    for name in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
        assert (path.parent / name).exists(), f"{path.name} links to {name}"


def test_the_stages_of_the_readme_are_those_of_the_pipeline():
    from stillhouse.core.params import STAGES

    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "README.md").read_text(), flags=re.M)
    assert tuple(rows) == STAGES


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_no_document_sends_to_a_page_that_is_blank_without_internet(path):
    """`dvc plots` fetches its scripts from a CDN; that it does may be said."""
    told = [line for line in commands(path) if line.startswith("dvc plots")]
    assert told == []
    assert "dvc plots" not in path.read_text() or path.name in ("design.md", "CHANGELOG.md")


def test_the_terms_of_the_readme_are_taken():
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    tree = YAML(typ="safe").load(block)["train_student"]["distillation"]
    settings = build(DistillationParams, tree, "train_student.distillation")
    require_signals(settings, given_by(settings, None), None)
    assert [term.name for term in settings.all_terms] == ["forward_kl", "cross_entropy", "feature_mse"]
