"""The gate and the registry, with real packages, DVC and git tags: a trained model against one of a single step."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flows.model_registry.outputs import PromotionError
from flows.model_registry.promotion import gate, promote
from flows.model_registry.versions import Version, promoted
from stillhouse.core.errors import ArtifactError
from stillhouse.core.params import load
from stillhouse.gate.decision import GateParams, decide
from stillhouse.modalities.text.export_model.text_tables import raw_texts
from stillhouse.modalities.text.gate.gate_texts import TextRules, answer, tokenised
from stillhouse.modalities.text.table.tokens import read_tokens
from tests.helpers.promoting import (
    LIMITS,
    PACKAGE,
    change_description,
    clone,
    command,
    hash_of,
    older,
    promoted_folder,
    runs,
    tags,
)
from tests.helpers.tiny_run import commit, shell

__all__ = ["clone", "runs"]


def test_the_first_promotion_tags_the_runs_own_commit(clone, tmp_path):
    said = command(clone, "short").stdout
    assert "nothing promoted before" in said
    assert "promoted: student@v0.0.1\nno DVC remote is configured" in said
    experiment = shell("git", "for-each-ref", "--format=%(objectname)", "refs/exps/*/*/short", folder=clone).stdout.strip()
    assert promoted(clone) == Version("student@v0.0.1", experiment)
    assert shell("git", "cat-file", "-t", "student@v0.0.1", folder=clone).stdout == "tag\n"
    message = shell("git", "tag", "--list", "--format=%(contents)", "student@v0.0.1", folder=clone).stdout
    assert message.startswith(f"student of run {experiment[:12]}\n\n")
    for words in (
        "test rows, nothing promoted before",
        "accuracy 0.",
        "macro_f1 0.",
        "calibration error 0.",
        "(at most 200,000)",
    ):
        assert words in message
    # The registry's own commands know it, and the checkout is as it was.
    assert "v0.0.1" in shell("gto", "show", "student", folder=clone).stdout
    shell("dvc", "artifacts", "get", str(clone), "student", "--out", str(tmp_path / "got"), folder=clone)
    assert (tmp_path / "got" / "model.onnx").is_file()
    assert shell("git", "status", "--short", folder=clone).stdout == ""
    assert len(shell("git", "worktree", "list", folder=clone).stdout.splitlines()) == 1


def test_the_gate_scores_as_the_pipeline_does(tiny_copy):
    figures = gate(tiny_copy, tiny_copy).figures
    student = json.loads(Path("data/evaluate/metrics.json").read_text())["new"]["student"]
    for name in ("accuracy", "macro_f1"):
        assert figures["metrics"][name]["candidate"] == pytest.approx(student[name], abs=1e-5)
    assert figures["calibration_error"] == pytest.approx(student["ece"], abs=1e-5)
    assert figures["bytes"] == sum(path.stat().st_size for path in PACKAGE.rglob("*") if path.is_file())
    assert figures["test_rows"] == len(read_tokens(Path("data/preprocess/new/test.arrow")))


@pytest.mark.slow
def test_an_equal_model_passes_and_gets_no_second_version(clone):
    command(clone, "HEAD")
    decision = gate(clone, clone)
    assert (decision.promoted, decision.against, decision.notes) == (True, "student@v0.0.1", [])
    for figures in decision.figures["metrics"].values():
        assert (figures["difference"], figures["low"], figures["high"]) == (0, 0, 0)
    assert promote(clone, "HEAD", decision) == "student@v0.0.1"
    assert tags(clone) == ["student@v0.0.1"]


@pytest.mark.slow
def test_a_better_model_takes_the_place_and_a_worse_one_is_refused_with_its_figures(clone):
    command(clone, "short")
    assert "promoted: student@v0.0.2" in command(clone, "HEAD").stdout
    reasons = command(clone, "short", code=1).stderr.splitlines()
    assert len(reasons) == 2
    for name, reason in zip(("accuracy", "macro_f1"), reasons, strict=True):
        figures = r"0\.\d{4} is worse than 0\.\d{4} of student@v0\.0\.2: -\d+\.\d points \(-\d+\.\d to -\d+\.\d\)"
        assert re.fullmatch(rf"refused: {name} {figures}, and gate\.tolerance allows -10\.0", reason), reason
    assert tags(clone) == ["student@v0.0.1", "student@v0.0.2"]
    # Taken back, the one before is the promoted one again.
    shell("gto", "deprecate", "student", "v0.0.2", folder=clone)
    assert promoted(clone) == Version("student@v0.0.1", hash_of(clone, "student@v0.0.1"))
    shell("gto", "deprecate", "student", "v0.0.1", folder=clone)
    assert promoted(clone) is None


def test_each_limit_is_named_with_both_values(clone):
    params = Path("params.yaml").read_text()
    for name, limit in LIMITS.items():
        assert f"{name}: {limit}\n" in params
        params = params.replace(f"{name}: {limit}\n", f"{name}: {1 if name == 'max_bytes' else '1.0e-6'}\n")
    Path("params.yaml").write_text(params)
    decision = gate(clone, clone)
    assert not decision.promoted
    assert [reason.split(" is ")[0] for reason in decision.reasons] == ["calibration error", "package", "latency"]
    assert decision.reasons[1] == f"package is {decision.figures['bytes']:,} bytes, above gate.max_bytes 1 bytes"
    assert "above gate.max_calibration_error 0.0000" in decision.reasons[0]
    assert " ms, above gate.max_latency_ms 0.00 ms" in decision.reasons[2]
    with pytest.raises(PromotionError, match="was refused: calibration error is"):
        promote(clone, "HEAD", decision)
    assert tags(clone) == []


@pytest.mark.slow
def test_a_class_that_the_promoted_model_does_not_know_counts_as_wrong_for_it(clone, tmp_path):
    folder = promoted_folder(tmp_path / "promoted")
    change_description(folder / "package", labels=["es", "pt", "sr", "nn"])
    decision = decide(load(GateParams), "student@v0.0.7", folder)
    test = read_tokens(Path("data/preprocess/new/test.arrow"))
    rows = test.labels == 3
    assert decision["notes"] == [
        f"student@v0.0.7 does not know zh_Hans: its answers to their {rows.sum()} test rows count as wrong",
        "nn of student@v0.0.7 is not a class any more: such an answer counts as wrong",
    ]
    # The same model but for zh_Hans: what it loses is exactly its right answers there.
    texts = raw_texts(Path("data/ingest/new.parquet"), test)
    answers = answer(PACKAGE, texts, TextRules.read(Path("params.yaml")), threads=1).argmax(axis=1)
    lost = (answers[rows] == 3).sum()
    assert lost > 0
    assert decision["metrics"]["accuracy"]["difference"] * len(rows) == pytest.approx(lost)


def test_a_package_that_says_nothing_of_texts_is_read_as_its_own_run_did(tiny_copy, tmp_path):
    """Those of promoted versions that are older than the rules in tokenizer.json: params.yaml has them."""
    test = read_tokens(Path("data/preprocess/new/test.arrow"))
    rules, texts = TextRules.read(Path("params.yaml")), raw_texts(Path("data/ingest/new.parquet"), test)
    package = older(promoted_folder(tmp_path / "promoted") / "package")
    for read in (PACKAGE, package):
        table, _ = tokenised(read, [f" {text}\u2003" for text in texts], rules)
        assert table.tokens.tolist() == test.tokens.tolist()
        assert table.offsets.tolist() == test.offsets.tolist()
    assert tokenised(package, texts, replace(rules, max_tokens=3))[0].lengths.max() == 3
    assert tokenised(package, texts, replace(rules, lowercase=True))[0].tokens.tolist() != test.tokens.tolist()
    np.testing.assert_allclose(answer(package, texts, rules, 1), answer(PACKAGE, texts, rules, 1), atol=1e-5)
    # As the gate: the same model in its older package is neither better nor worse.
    decision = decide(load(GateParams), "student@v0.0.7", tmp_path / "promoted")
    assert [figures["difference"] for figures in decision["metrics"].values()] == [0, 0]


def test_the_candidate_is_read_by_its_own_rules_and_not_by_params(tiny_copy):
    """What was trained in lower case is asked in lower case, whatever params.yaml says meanwhile."""
    test = read_tokens(Path("data/preprocess/new/test.arrow"))
    rules, texts = TextRules.read(Path("params.yaml")), raw_texts(Path("data/ingest/new.parquet"), test)
    expected = answer(PACKAGE, texts, rules, 1)
    np.testing.assert_array_equal(answer(PACKAGE, texts, replace(rules, lowercase=True, max_tokens=3), 1), expected)


def test_a_package_of_a_later_version_is_refused(tiny_copy):
    change_description(PACKAGE, format=2)
    with pytest.raises(ArtifactError, match=r"config\.json is of format 2, this version of Stillhouse reads 1; update it"):
        decide(load(GateParams), None, None)


@pytest.mark.slow
def test_another_cut_of_the_texts_is_said_because_rows_may_not_be_new_to_the_promoted_model(clone, tmp_path):
    folder = promoted_folder(tmp_path / "promoted")
    (folder / "params.yaml").write_text((folder / "params.yaml").read_text().replace("test_share: 0.15", "test_share: 0.1"))
    notes = decide(load(GateParams), "student@v0.0.7", folder)["notes"]
    assert notes == [
        "preprocess.split has changed since student@v0.0.7, which may have been trained on some of these test rows"
    ]


@pytest.mark.slow
def test_a_decision_holds_for_its_package_and_its_rival_alone(clone):
    decision = gate(clone, clone)
    experiment = shell("git", "for-each-ref", "--format=%(objectname)", "refs/exps/*/*/short", folder=clone).stdout.strip()
    with pytest.raises(PromotionError, match="holds another package than the one that passed the gate"):
        promote(clone, experiment, decision)
    with pytest.raises(PromotionError, match=r"compared with student@v0\.0\.9, and now no version is the promoted one"):
        promote(clone, "HEAD", replace(decision, against="student@v0.0.9"))
    assert promote(clone, "HEAD", decision) == "student@v0.0.1"
    with pytest.raises(PromotionError, match=r"compared with no version, and now student@v0\.0\.1 is the promoted one"):
        promote(clone, "HEAD", decision)


@pytest.mark.slow
def test_data_go_to_the_remote_and_the_promoted_package_comes_back_from_there(clone, tmp_path):
    shell("dvc", "remote", "add", "--quiet", "--default", "store", str(tmp_path / "store"), folder=clone)
    commit(clone, "a remote")
    # Data before the tag: where they cannot go, there is no version.
    (tmp_path / "store").write_text("a file stands where the remote should be")
    with pytest.raises(PromotionError, match=r"'dvc push' to remote 'store' failed: .*; no tag was made"):
        promote(clone, "HEAD", gate(clone, clone))
    (tmp_path / "store").unlink()
    assert tags(clone) == []
    assert "no DVC remote" not in command(clone, "short").stdout
    # The remote holds the promoted run and not the other one, and the cache is lost.
    shutil.rmtree(clone / ".dvc" / "cache")
    assert gate(clone, clone).against == "student@v0.0.1"
    with pytest.raises(PromotionError, match=r"are neither in the cache nor on the remote 'store'.*no tag was made"):
        promote(clone, "HEAD", gate(clone, clone))
    assert tags(clone) == ["student@v0.0.1"]


@pytest.mark.slow
def test_a_promoted_package_that_is_nowhere_is_said_with_what_to_do(clone):
    command(clone, "HEAD")
    shutil.rmtree(clone / ".dvc" / "cache")
    with pytest.raises(PromotionError) as caught:
        gate(clone, clone)
    message = str(caught.value)
    assert "data/export_model/package of student@v0.0.1 is neither in the DVC cache nor to be had from a remote" in message
    for words in ("No storage files available", "dvc remote add", "dvc push --all-tags", "gto deprecate student VERSION"):
        assert words in message
    assert "\n" not in message


@pytest.mark.slow
def test_a_commit_whose_results_are_of_other_parameters_is_no_finished_run(clone):
    params = Path("params.yaml")
    # The gate's own limits do not count: no result depends on them.
    params.write_text(params.read_text().replace("max_bytes: 200000", "max_bytes: 300000"))
    commit(clone, "another limit")
    assert "promoted: student@v0.0.1" in command(clone, "HEAD").stdout
    params.write_text(params.read_text().replace("steps: 10\n", "steps: 20\n"))
    commit(clone, "more steps, not run")
    error = command(clone, "HEAD", code=1).stderr
    assert error.startswith("error: promote: commit ")
    assert "is no finished run: finetune (params.yaml) changed since its results were made" in error


def test_an_unknown_run_is_refused_in_one_line(clone):
    error = command(clone, "masterr", code=1).stderr
    assert len(error.splitlines()) == 1
    assert "there is no revision 'masterr'" in error


@pytest.mark.slow
def test_a_damaged_package_is_one_line(clone, tmp_path):
    folder = promoted_folder(tmp_path / "promoted")
    (folder / "package" / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(ArtifactError, match=r"model\.onnx does not run: "):
        decide(load(GateParams), "student@v0.0.7", folder)
    change_description(PACKAGE, labels=["a", "b"])
    with pytest.raises(PromotionError, match="name different classes; run 'dvc repro export_model'"):
        gate(clone, clone)
