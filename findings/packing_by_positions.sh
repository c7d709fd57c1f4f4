#!/usr/bin/env bash
# transformers 5.23.0 (torch 2.13.0, CPU): several documents in one row, told apart by position_ids that begin at 0 in each, are kept
# apart by some decoders, and silently not by others.
#
# The masks of most decoders (`create_causal_mask`) recognise such positions, and padding-free collators rely on it. But GPT-OSS
# makes its masks without passing positions on, and in hybrid models (Qwen3-Next, LFM2, Jamba) the attention layers of a model keep the
# documents apart while its layers with a state or a convolution run over them: half of one model is packed, half is not. Nothing is
# said in either case.
#
# Seen: change of the second document's logits, over their spread, when the first document is another one:
# llama 0.0e+00, mistral 0.0e+00, gpt_oss, qwen3_next, lfm2 and jamba between 1e-4 and 1e+0.
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
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=128, pad_token_id=0, bos_token_id=1, eos_token_id=1,
)
MORE = {
    "llama": {},
    "mistral": dict(sliding_window=8),
    "gpt_oss": dict(head_dim=8, num_local_experts=4, num_experts_per_tok=2, layer_types=["sliding_attention", "full_attention"], sliding_window=8),
    "qwen3_next": dict(
        head_dim=8, layer_types=["linear_attention", "full_attention"], linear_num_value_heads=2, linear_num_key_heads=2,
        linear_key_head_dim=8, linear_value_head_dim=8, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
    ),
    "lfm2": dict(layer_types=["conv", "full_attention"]),
    "jamba": dict(attn_layer_period=2, attn_layer_offset=1, num_experts=2, num_experts_per_tok=1, mamba_d_state=8),
}
generator = torch.Generator().manual_seed(1)
one, other, second = (torch.randint(2, 64, (n,), generator=generator) for n in (20, 20, 30))
positions = torch.cat((torch.arange(20), torch.arange(30)))[None]
found = {}
for name, more in MORE.items():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **{**SIZES, **more})).eval()
    with torch.no_grad():
        said = [
            model(input_ids=torch.cat((first, second))[None], position_ids=positions, use_cache=False).logits[0, 20:]
            for first in (one, other)
        ]
    found[name] = float((said[0] - said[1]).abs().max() / said[0].std())
    print(f"{name:11s} the first document changes the second one's logits by {found[name]:.1e}")
apart, mixed = [found[name] for name in ("llama", "mistral")], [found[name] for name in ("gpt_oss", "qwen3_next", "lfm2", "jamba")]
sys.exit(not (max(apart) < 1e-6 and min(mixed) > 1e-5))
PYTHON
