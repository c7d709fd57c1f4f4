#!/usr/bin/env bash
# transformers 5.23.0 (torch 2.13.0, CPU): a Youtu model that is saved and loaded is another model.
#
# YoutuPreTrainedModel._init_weights empties the padding token's row by `init.zeros_(module.weight.data[module.padding_idx])`.
# transformers' `init` functions leave tensors alone that were just read from a file, by a flag on the tensor; `.data[...]` is a new
# tensor without it. So `from_pretrained` empties the row that it has read, without a word. With tied embeddings (the default) the row
# is the output layer's too: after a training its logit is not 0, and the loaded model gives every token another probability.
# Llama, as a control, comes back as it was.
#
# Seen: llama: 0 rows differ, logits by 0.0e+00; youtu: 1 row differs, log-probabilities by 1e-2 and more.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import torch
from transformers import AutoConfig, AutoModelForCausalLM, logging

logging.set_verbosity_error()
SIZES = dict(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
    max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=1, tie_word_embeddings=True,
)
MORE = {"llama": {}, "youtu": dict(q_lora_rank=16, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8, head_dim=8)}
ids = torch.arange(2, 20)[None]
found = {}
for name, more in MORE.items():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **SIZES, **more)).eval()
    with torch.no_grad():
        # What a step of any optimiser does to a row of a tied output layer.
        model.get_input_embeddings().weight[0] = torch.randn(32) * 0.1
    model.save_pretrained(name)
    loaded = AutoModelForCausalLM.from_pretrained(name).eval()
    one, other = model.get_input_embeddings().weight, loaded.get_input_embeddings().weight
    rows = int((one != other).any(1).sum())
    with torch.no_grad():
        gap = float((model(ids).logits.log_softmax(-1) - loaded(ids).logits.log_softmax(-1)).abs().max())
    found[name] = (rows, gap)
    print(f"{name}: {rows} rows of the embeddings differ after loading, log-probabilities by {gap:.1e}")
sys.exit(not (found["llama"] == (0, 0.0) and found["youtu"][0] == 1 and found["youtu"][1] > 1e-3))
PYTHON
