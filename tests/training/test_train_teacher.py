"""Stage `train_teacher`, as the tiny recipe ran it."""

import json

import numpy as np
import pandas as pd
import torch
from transformers import AutoModelForSequenceClassification

from stillhouse.core.artifacts import digest_file
from stillhouse.modalities.text.rows.text_task import read_task


def test_teacher_loads_with_transformers_from_safetensors_alone(tiny):
    folder = tiny / "data" / "train_teacher"
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model")
    assert sorted(model.config.label2id) == json.loads((tiny / "data/preprocess/source/labels.json").read_text())
    assert json.loads((folder / "manifest.json").read_text())["weights"] == digest_file(folder / "model/model.safetensors")


def test_learning_curve_has_no_gap_and_no_double_point(tiny):
    curve = pd.read_csv(tiny / "data/train_teacher/learning_curve.csv")
    assert curve.loc[curve["split"] == "train", "step"].tolist() == [10, 20, 30, 40]
    assert curve.loc[curve["split"] == "validation", "step"].tolist() == [20, 40]
    assert np.isfinite(curve["loss"]).all()


def test_teacher_never_saw_a_withheld_label(tiny):
    task = read_task(tiny / "data/preprocess/source")
    assert (task.train.labels < 0).any()
    assert (task.labelled().labels >= 0).all()
    assert len(task.labelled()) < len(task.train)


def test_outputs_name_no_clock_host_or_world_size(tiny):
    for path in (tiny / "data").rglob("manifest.json"):
        text = path.read_text()
        for word in ("seconds", "time", "host", "world", str(tiny)):
            assert word not in text, f"{path} speaks of {word}"


def test_ngrams_reach_only_backwards_and_ignore_padding():
    from stillhouse.models.ngram_encoder import NgramEncoderConfig
    from stillhouse.models.own_encoder import NgramEmbeddings

    embeddings = NgramEmbeddings(NgramEncoderConfig(vocab_size=30, hidden_size=8, ngram_sizes=[3], ngram_buckets=1000))
    ids = torch.tensor([[5, 6, 7, 8]])
    longer = torch.tensor([[5, 6, 7, 8, 0, 0]])
    assert torch.equal(embeddings.hash_ngrams(ids, 3), embeddings.hash_ngrams(longer, 3)[:, :4])
    changed = torch.tensor([[9, 6, 7, 8]])
    same = embeddings.hash_ngrams(ids, 3) == embeddings.hash_ngrams(changed, 3)
    assert same.tolist() == [[False, False, False, True]]
