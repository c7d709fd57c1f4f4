"""What is said of a finished run, at the end of `make distill` and in Prefect, whatever kind of model it made."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.flow_run.publish import changes_table, figures, metrics_page
from flows.results.described import described
from flows.results.summary_table import summary_lines, whole_summary
from stillhouse.core.errors import ArtifactError
from tests.helpers.report_pages import import_labels_in
from tests.helpers.tiny_run import commit, shell
from tests.reporting import test_report, test_report_language


@pytest.fixture
def language(tmp_path) -> Path:
    return test_report_language.write_outputs(tmp_path)


@pytest.fixture
def classifiers(tmp_path) -> Path:
    return test_report.write_outputs(tmp_path)


def cells(lines: list[str], start: str) -> list[list[str]]:
    return [line.split() for line in lines if line.strip().startswith(start)]


def test_summary_of_classifiers_tells_accuracy_and_points(classifiers):
    lines = summary_lines(classifiers)
    assert lines[0].split()[:5] == ["Target", "task", "(fine-tuned)", "accuracy", "95"], "the shipped model's task stands first"
    assert cells(lines, "student")[1] == ["student", "0.8500", "0.850-0.850", "0.8500", "40,000", "160,000", "0.50"]
    assert cells(lines, "linear")[1][-2:] == ["-", "0.50"]
    assert lines[-1] == "Gain over baseline: +25.0 points (+21.0 to +29.0), 83% of the gap to the teacher"


def test_summary_of_language_models_tells_nats_bits_and_what_was_forgotten(language):
    lines = summary_lines(language)
    assert cells(lines, "student")[1] == ["student", "3.4000", "3.350-3.450", "1.1333", "0.3210", "40,000", "160,000"]
    assert cells(lines, "ngram")[0] == ["ngram", "2.8000", "2.750-2.850", "0.9333", "-", "222,222", "-"]
    assert lines[-2:] == [
        "Fine-tuning: gained +1.250 nats per token (+1.200 to +1.300) on the target task, "
        "forgot +0.500 nats per token (+0.450 to +0.550) on the old one",
        "Gain over baseline: +0.200 nats per token (+0.150 to +0.250), 40% of the gap to the teacher",
    ]
    # Columns stand below their headings.
    assert len({len(line) for line in lines[:4]}) == 1


def test_summary_says_whose_labels_were_imported(classifiers):
    assert not [line for line in summary_lines(classifiers) if "imported" in line]
    import_labels_in(classifiers)
    assert summary_lines(classifiers)[-1] == (
        "Soft labels: imported, of a <large> model, made on 2026-11-30; not of the teacher above"
    )


def test_summary_without_a_gap_says_nothing_of_it(tmp_path):
    folder = test_report_language.write_outputs(tmp_path, source=test_report_language.SOURCE | {"teacher": 4.0})
    assert "gap" not in summary_lines(folder)[-1]


def test_summary_before_a_run_is_one_error(tmp_path):
    with pytest.raises(ArtifactError, match=r"data/evaluate/metrics\.json is missing"):
        summary_lines(tmp_path)


def run_in(folder: Path, root: Path | None = None) -> SimpleNamespace:
    """What `metrics_page` reads of a run."""
    return SimpleNamespace(name="quiet-otter", folder=folder, root=root or folder)


def repository(folder: Path) -> Path:
    shell("git", "init", "--quiet", folder=folder)
    shell("git", "add", "params.yaml", folder=folder)
    shell("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "-m", "a run", folder=folder)
    return folder


def promote_by_hand(folder: Path, *annotation: str) -> None:
    """The tag that a promotion sets. Without `annotation` it is annotated, as the registry's tags are."""
    annotation = annotation or ("-a", "-m", "promoted")
    shell("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "tag", "student@v0.0.1", *annotation, folder=folder)


def test_metrics_page_shows_what_the_kind_has(language):
    page = metrics_page(run_in(repository(language)))
    heading = "| model | nats_per_token | bits_per_byte | perplexity | accuracy | ece | parameters | bytes |"
    assert heading in page
    assert "| ngram | 4.0000 | 1.3333 | 54.5982 | - | - | 222,222 | - |" in page
    assert "| old_nats_per_token | forgotten |" in page
    assert "No model has been promoted yet." in page


def test_metrics_page_of_classifiers_is_as_it_was(classifiers):
    page = metrics_page(run_in(repository(classifiers)))
    assert "| model | accuracy | macro_f1 | ece | parameters | bytes |" in page


def test_changes_against_the_promoted_model_are_those_of_the_shown_metrics():
    old = {"new": {"student": {"nats_per_token": 2.4, "nats_per_token_low": 1, "bytes": 3}, "scratch": {"nats_per_token": 9}}}
    new = {"new": {"student": {"nats_per_token": 2.2, "nats_per_token_low": 2, "bytes": 3}}}
    lines = changes_table("student@v0.0.1", figures(old), figures(new))
    assert lines[0] == "## Against student@v0.0.1, the last promoted version"
    assert lines[4:] == ["| new.student.nats_per_token | 2.4000 | 2.2000 |"]


def test_metrics_page_compares_no_two_kinds(language):
    folder = repository(language)
    promote_by_hand(folder)
    params = folder / "params.yaml"
    params.write_text(params.read_text().replace("kind: causal_lm", "kind: text_classification"))
    page = metrics_page(run_in(folder))
    said = (
        "Not compared with student@v0.0.1, the last promoted version: it is of kind causal_lm, this run of text_classification."
    )
    assert page.endswith(said)


def test_metrics_page_knows_that_a_plain_tag_promotes_nothing(language):
    folder = repository(language)
    promote_by_hand(folder, "HEAD")
    assert "its tag is not annotated" in metrics_page(run_in(folder))


def test_metrics_that_are_not_in_the_cache_are_said(language):
    folder = repository(language)
    shell("dvc", "init", "--quiet", folder=folder)
    promote_by_hand(folder)
    assert metrics_page(run_in(folder)).endswith(
        "metrics are not in this clone's DVC cache; 'dvc fetch --all-tags' brings them."
    )


def test_the_summary_says_which_run_recipe_and_commit_it_is_of(language):
    """The recipe by its parameters, whatever name the run was given."""
    shell("git", "init", "--quiet", folder=language)
    shell("dvc", "init", "--quiet", folder=language)
    params = language / "params.yaml"
    (language / "recipes").mkdir()
    (language / "recipes" / "small.yaml").write_text(params.read_text())
    (language / "recipes" / "other.yaml").write_text(params.read_text().replace("seed: 1\n", "seed: 7\n"))
    (language / ".gitignore").write_text("data\n.dvc/tmp\n")
    commit(language, "a run")
    short = shell("git", "rev-parse", "HEAD", folder=language).stdout[:7]
    name = language.name
    assert described(language) == f"Checkout {name}: recipe small; commit {short}"
    assert described(language, "quiet-otter") == f"Run quiet-otter: recipe small; commit {short}"
    params.write_text(params.read_text().replace("seed: 1\n", "seed: 3\n"))
    (language / "code.py").write_text("")
    expected = f"Checkout {name}: recipe small, seed 1 -> 3; commit {short}, with uncommitted code.py"
    assert whole_summary(language).splitlines()[0] == expected
    params.write_text(params.read_text().replace("seed: 3\n", "seed: 7\n"))
    assert described(language).startswith(f"Checkout {name}: recipe other; commit {short}")
