"""The report of causal language models holds the figures it was given, shows any text as text, and tells the truth."""

import json
import math
import re
from html import unescape
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from stillhouse.core.artifacts import write_json
from stillhouse.core.errors import ArtifactError
from stillhouse.targets.next_token.report.language_findings import figure, in_words
from tests.helpers.report_pages import ROOT, Balance, headlines, import_labels_in, page_of, words_of, write_common

SOURCE = {"teacher": 3.1, "student": 3.4, "baseline": 3.6, "ngram": 4.0}
NEW = {"teacher": 2.0, "student": 2.2, "scratch": 2.9, "ngram": 2.8}
AFTER = {"old_nats_per_token": 3.9, "forgotten": 0.5, "gained": 1.25}
TEXT = "\n\tdef f(x):\n\n    return x"


def write_outputs(
    folder: Path,
    source: dict[str, float] = SOURCE,
    new: dict[str, float] = NEW,
    after: dict[str, float] = AFTER,
    margin: float = 0.05,
    text: str = TEXT,
) -> Path:
    """What the stages before `report` leave in `folder`, with the nats per token of each model; half of every interval is
    `margin`. after: what fine-tuning did to student and teacher."""
    data = write_common(folder, ROOT / "recipes" / "tiny_lm.yaml")
    counts = {
        "documents_in": 1000,
        "train_documents": 800,
        "train_tokens": 654_321,
        "test_tokens": 12_345,
        "empty_share": 0.0004,
    }
    write_json(data / "preprocess" / "statistics.json", {"source": counts, "new": counts})
    metrics: dict[str, dict[str, dict[str, Any]]] = {}
    for task, nats in (("source", source), ("new", new)):
        metrics[task] = {name: scores_of(name, value, margin) for name, value in nats.items()}
        student = metrics[task]["student"]
        for rival in nats.keys() - {"student"}:
            student |= with_ends(f"lead_over_{rival}", nats[rival] - nats["student"], margin)
        rival = "baseline" if task == "source" else "scratch"
        if (gap := nats[rival] - nats["teacher"]) > 0:
            student["gap_closed"] = (nats[rival] - nats["student"]) / gap
    for name in ("student", "teacher"):
        old = {"old_nats_per_token": after["old_nats_per_token"]}
        changes = [with_ends(key, after[key], margin) for key in ("forgotten", "gained")]
        metrics["new"][name] |= old | changes[0] | changes[1]
    metrics["new"]["scratch"]["old_nats_per_token"] = 5.0
    write_json(data / "evaluate" / "metrics.json", metrics)
    speed = {f"source_{name}_{key}": v for name in source for key, v in (("latency_ms", 0.5), ("tokens_per_second", 90_000))}
    write_json(data / "evaluate" / "timing.json", {"seconds": 3.0, **speed, "source_teacher_tokens_per_second": 30_000})
    for task, rival in (("source", "baseline"), ("new", "scratch")):
        said = {"prompt": text, "actual": text, "teacher": text, "student": "NA", rival: ""}
        pd.DataFrame([said]).to_csv(data / "evaluate" / "tables" / f"continuations_{task}.csv", index=False)
    figures = {"rows": 500, "positions": 654_321, "vocabulary": 400, "ids_per_token": 17.25, "bytes_per_token": 18.925}
    write_json(data / "export_soft_labels" / "metrics.json", figures | {"mass_on_next_token": 0.456, "megabytes": 12.38})
    manifest = data / "export_soft_labels" / "soft_labels" / "manifest.json"
    sampler = {"method": "threshold", "samples": 20}
    write_json(manifest, {"store": "c" * 64, "form": "sampled", "sampler": sampler})
    shipped = {"bytes": 1000, "positions_compared": 640, "same_answer": 0.99, "largest_difference": 1e-6}
    write_json(data / "export_model" / "metrics.json", shipped)
    return folder


def with_ends(name: str, value: float, margin: float) -> dict[str, float]:
    return {name: value, f"{name}_low": value - margin, f"{name}_high": value + margin}


def scores_of(model: str, nats: float, margin: float) -> dict[str, float]:
    shared = with_ends("nats_per_token", nats, margin) | {"bits_per_byte": nats / 3, "perplexity": math.exp(nats)}
    if model == "ngram":
        return shared | {"parameters": 222_222}
    parameters = 5_000_000 if model == "teacher" else 40_000
    more = {"accuracy": 0.321, "ece": 0.042, "agreement": 0.876, "kl_from_teacher": 0.123}
    return shared | more | {"parameters": parameters, "bytes": 4 * parameters}


def test_page_fetches_nothing_and_is_well_formed(tmp_path, monkeypatch):
    page = page_of(write_outputs(tmp_path), monkeypatch)
    parser = Balance()
    parser.feed(page)
    assert not parser.open
    assert not parser.attributes & {"src", "href", "xlink:href", "srcset", "onclick", "onload"}
    assert not re.search(r"<script|<link|@import|url\(", page)


def test_page_holds_the_figures_of_the_metrics(tmp_path, monkeypatch):
    words = words_of(page_of(write_outputs(tmp_path), monkeypatch))
    scores = json.loads((tmp_path / "data/evaluate/metrics.json").read_text())
    for row in (*scores["source"].values(), *scores["new"].values()):
        nats = row["nats_per_token"]
        assert f"{nats:.3f} {nats - 0.05:.3f} to {nats + 0.05:.3f} {nats / 3:.3f} {math.exp(nats):,.1f}" in words
    for text in ("32.1 %", "0.042", "87.6 % KL 0.123", "5,000,000 20 MB", "40,000 0.16 MB", "222,222", "0.50 ms", "90,000"):
        assert text in words
    for text in ("654,321", "17.25", "12.4 MB", "45.6 %", "0.04 %", "20 draws for each token", "99.00 %", "8 min 45 s"):
        assert text in words
    assert "train_teacher.training.optimizer.learning_rate" in words
    assert "c" * 64 in words


def test_headline_names_what_the_teacher_bought(tmp_path, monkeypatch):
    page = page_of(write_outputs(tmp_path), monkeypatch)
    said = headlines(page)
    assert said.startswith("The teacher made the student 0.200 nats per token better.")
    assert "That is 0.200 nats per token better (paired 95 % interval 0.150 to 0.250)." in words_of(page)
    assert "It closes 40 % of the gap to the teacher, which needs 3.100 nats per token." in words_of(page)
    assert "Against the teacher, the student lost 0.300 nats per token." in said
    assert "The student is 125 times smaller than the teacher and 3.0 times faster." in said
    assert "On the target domain, starting from the student is worth 0.700 nats per token." in said
    assert "Fine-tuning gained 1.250 nats per token on the target domain and forgot 0.500 nats per token of the old." in said
    assert "The student is ahead of n-grams on both tasks." in said


def test_headline_tells_that_the_student_is_worse(tmp_path, monkeypatch):
    folder = write_outputs(tmp_path, source=SOURCE | {"student": 3.8}, new=NEW | {"student": 3.0})
    said = headlines(page_of(folder, monkeypatch))
    assert said.startswith("The teacher made the student 0.200 nats per token worse.")
    assert "starting from the student costs 0.100 nats per token" in said
    assert "Counting n-grams beats the student on the target task." in said
    assert "better" not in said


def test_headline_calls_a_lead_within_chance_nothing(tmp_path, monkeypatch):
    page = page_of(write_outputs(tmp_path, source=SOURCE | {"student": 3.61}), monkeypatch)
    assert headlines(page).startswith("The teacher bought nothing that can be shown.")
    assert "0.010 nats per token worse (paired 95 % interval −0.040 to 0.060), which includes 0" in words_of(page)
    assert "not different from 0" in words_of(page)


def test_page_says_so_when_there_was_no_gap_to_close(tmp_path, monkeypatch):
    words = words_of(page_of(write_outputs(tmp_path, source=SOURCE | {"teacher": 3.7}), monkeypatch))
    assert "The teacher itself, at 3.700 nats per token, is no better than that: there was no gap to close." in words
    assert "Against the teacher, the student gained 0.300 nats per token" in words


@pytest.mark.parametrize(
    ("forgotten", "gained", "said"),
    [
        (
            -0.3,
            0.4,
            "Fine-tuning gained 0.400 nats per token on the target domain, and 0.300 nats per token on the old one as well.",
        ),
        (0.01, 0.4, "Fine-tuning gained 0.400 nats per token on the target domain and forgot nothing that can be shown."),
        (0.3, 0.01, "Fine-tuning gained nothing that can be shown and forgot 0.300 nats per token of the old."),
        (0.3, -0.4, "Fine-tuning made the student worse on the target domain and forgot 0.300 nats per token of the old."),
    ],
)
def test_headline_tells_what_fine_tuning_gained_and_forgot(tmp_path, monkeypatch, forgotten, gained, said):
    folder = write_outputs(tmp_path, after=AFTER | {"forgotten": forgotten, "gained": gained})
    assert said in headlines(page_of(folder, monkeypatch))


def test_samples_are_escaped_and_keep_their_white_space(tmp_path, monkeypatch):
    page = page_of(write_outputs(tmp_path, text=f"<script>{TEXT}</script> & שלום"), monkeypatch)
    assert "<script" not in page
    # Twice as prompt and as what follows, and once as the teacher's, on each task.
    assert page.count(f'dir="auto">&lt;script&gt;{TEXT}&lt;/script&gt; &amp; שלום</div>') == 6
    assert page.count('dir="auto">NA</div>') == 2
    assert words_of(page).count("ends the text here") == 2


def test_control_characters_of_samples_are_shown_and_never_reach_the_browser(tmp_path, monkeypatch):
    """A terminal's escape, a null, a lone carriage return, and an override that would turn the page's own words round."""
    page = page_of(write_outputs(tmp_path, text="a\x1b[31mb\x00c\rd\x7fe\x85f\u202eg\u2066h\ti\nj"), monkeypatch)
    assert page.count("a␛[31mb␀c␍d␡e⟨U+0085⟩f⟨U+202E⟩g⟨U+2066⟩h\ti\nj</div>") == 6
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page)


def test_page_shows_losses_that_mean_the_same_for_every_model(tmp_path, monkeypatch):
    """The student's training loss is another quantity than the others': on validation text all are nats of the same tokens."""
    page = page_of(write_outputs(tmp_path), monkeypatch)
    for heading in ("Source task", "Fine-tuning on the target task"):
        assert f"{heading}: nats per token of validation text" in page
        for chart in ("validation loss", "validation accuracy", "training loss"):
            assert page.count(f'aria-label="Learning curve: {chart}, {heading.lower()} (') == 1


def test_table_tells_what_fine_tuning_did_to_each_model(tmp_path, monkeypatch):
    words = words_of(page_of(write_outputs(tmp_path), monkeypatch))
    assert "Teacher 1.250 1.200 to 1.300 0.500 0.450 to 0.550 3.100 3.900 2.000" in words
    # Nothing was there before that could be forgotten.
    assert "From scratch – – – 5.000 2.900" in words


def test_page_does_without_ngrams_speed_and_samples(tmp_path, monkeypatch):
    source, new = ({name: value for name, value in nats.items() if name != "ngram"} for nats in (SOURCE, NEW))
    folder = write_outputs(tmp_path, source=source, new=new)
    write_json(folder / "data/evaluate/timing.json", {"seconds": 1.0})
    for path in (folder / "data/evaluate/tables").glob("continuations_*.csv"):
        path.write_text(path.read_text().splitlines()[0] + "\n")
    page = page_of(folder, monkeypatch)
    assert "n-grams" not in headlines(page)
    assert "The student is 125 times smaller than the teacher." in headlines(page)
    assert "No test document is long enough for a prompt." in words_of(page)
    assert "<td>–</td>" in page


@pytest.mark.parametrize("form", ["topk", "topk_tail"])
def test_page_says_which_beliefs_were_kept(tmp_path, monkeypatch, form):
    path = write_outputs(tmp_path) / "data/export_soft_labels/soft_labels/manifest.json"
    write_json(path, {"form": form, "sampler": {"method": form, "samples": 12}})
    assert f"the 12 strongest are stored for each token: method “{form}”." in words_of(page_of(tmp_path, monkeypatch))


def test_page_says_that_residual_draws_are_the_teachers_distribution_on_average(tmp_path, monkeypatch):
    path = write_outputs(tmp_path) / "data/export_soft_labels/soft_labels/manifest.json"
    write_json(path, {"form": "residual", "sampler": {"method": "residual", "samples": 12, "bases": 64}})
    words = words_of(page_of(tmp_path, monkeypatch))
    assert "which of 64 typical distributions they resemble, and a part of the difference, drawn so that on average" in words
    assert "strongest" not in words


def test_page_says_that_an_online_student_read_no_labels(tmp_path, monkeypatch):
    params = write_outputs(tmp_path) / "params.yaml"
    said = "This student did not read them: it asked the teacher anew in every step."
    assert said not in words_of(page_of(tmp_path, monkeypatch))
    params.write_text(params.read_text().replace("weight: 0.8}", "weight: 0.8, teacher: online}"))
    assert said in words_of(page_of(tmp_path, monkeypatch))


def test_figures_of_soft_labels_may_come_and_go(tmp_path, monkeypatch):
    write_json(write_outputs(tmp_path) / "data/export_soft_labels/metrics.json", {"positions": 77, "entropy_of_bases": 1.5})
    words = words_of(page_of(tmp_path, monkeypatch))
    assert "Tokens with a soft label 77" in words
    assert "Entropy of bases 1.5" in words


def test_same_inputs_give_the_same_page(tmp_path, monkeypatch):
    write_outputs(tmp_path)
    assert page_of(tmp_path, monkeypatch) == page_of(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    "name", ["evaluate/metrics.json", "evaluate/tables/continuations_new.csv", "export_soft_labels/soft_labels/manifest.json"]
)
def test_missing_output_is_named(tmp_path, monkeypatch, name):
    (write_outputs(tmp_path) / "data" / name).unlink()
    with pytest.raises(ArtifactError, match=f"data/{name} is missing"):
        page_of(tmp_path, monkeypatch)


def test_words_for_figures():
    assert [figure(1.23456), figure(-0.1), figure(0.0), figure(0.00012)] == ["1.235", "−0.100", "0.000", "0.0001"]
    # A loss is told as a positive number, and so is its interval.
    said = in_words({"x": -0.2, "x_low": -0.3, "x_high": -0.1}, "x", "more", "less").replace("\u00a0", " ")
    assert said == "0.200 nats per token less (paired 95 % interval 0.100 to 0.300)"


def test_page_says_whose_labels_were_imported(tmp_path, monkeypatch):
    folder = write_outputs(tmp_path)
    assert "imported" not in words_of(page_of(folder, monkeypatch))
    import_labels_in(folder)
    words = words_of(page_of(folder, monkeypatch))
    assert "not those of the teacher above: they were imported, of a <large> model, made on 2026-11-30." in unescape(words)
