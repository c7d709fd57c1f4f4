#!/usr/bin/env bash
# transformers 5.23.0 with torch 2.13.0: one short batch turns BigBird's block-sparse attention into full attention for good. A
# forward pass over a text too short for the pattern calls set_attention_type("original_full") on the model itself, and nothing
# turns it back: every longer text afterwards is read with full attention, so what the model answers depends on what it was asked
# before. One would expect the short text alone to be read that way; the log says so once, of that text.
# A model that was saved after training on texts of any length and loaded again is sparse again.
# Output seen:
#   long text, fresh model:         block_sparse
#   after one short text:           original_full
#   same long text, same answer:    False
#   loaded again, as at first:      True
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0
"$place/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0
cd "$place"
cat > look.py <<'PY'
import sys

import torch
from transformers import BigBirdConfig, BigBirdForSequenceClassification, logging

logging.set_verbosity_error()
torch.manual_seed(0)
config = BigBirdConfig(
    vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, block_size=4,
    num_random_blocks=1, max_position_embeddings=128, attention_type="block_sparse", sep_token_id=1, initializer_range=0.2,
)
model = BigBirdForSequenceClassification(config).eval()
model.save_pretrained("model")
long, short = torch.randint(3, 64, (1, 96)), torch.randint(3, 64, (1, 8))
with torch.no_grad():
    before, kind = model(long).logits, model.bert.attention_type
    model(short)
    after, later = model(long).logits, model.bert.attention_type
    again = BigBirdForSequenceClassification.from_pretrained("model").eval()(long).logits
print("long text, fresh model:        ", kind)
print("after one short text:          ", later)
print("same long text, same answer:   ", torch.allclose(before, after, rtol=1e-3))
print("loaded again, as at first:     ", torch.equal(before, again))
sys.exit(not ((kind, later) == ("block_sparse", "original_full") and not torch.allclose(before, after, rtol=1e-3) and torch.equal(before, again)))
PY
"$place/venv/bin/python" look.py
