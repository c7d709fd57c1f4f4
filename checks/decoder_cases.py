"""What `checks.decoders` tries: every architecture of `AutoModelForCausalLM`, small, and options that change one."""

from typing import Any

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from checks.architectures import Case

ENCODERS = (
    "bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert", "rembert",
    "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta", "xlm-roberta-xl", "xmod",
)  # fmt: skip
"""They see both ways unless they are told to be decoders."""
SWITCHES = {**{name: {"is_decoder": True} for name in ENCODERS}, "xlm": {"causal": True}}

ALL = [Case(name, SWITCHES.get(name, {})) for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES]


def rotary(kind: str, original: int, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4, "original_max_position_embeddings": original, **more}}


VARIANTS = [
    Case(name, options, is_variant=True)
    for name, options in (
        ("bert", {"is_decoder": False}),
        ("roberta", {"is_decoder": False}),
        ("xlm", {"causal": False}),
        ("llama", {"tie_word_embeddings": True}),
        ("llama", rotary("dynamic", 16, factor=2.0)),
        ("llama", rotary("yarn", 64, factor=2.0)),
        ("phi3", rotary("longrope", 16, short_factor=[1.0] * 4, long_factor=[4.0] * 4)),
        ("mistral", {"sliding_window": None}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
        ("granite", {"logits_scaling": 8.0, "residual_multiplier": 0.5, "embedding_multiplier": 3.0}),
        ("cohere", {"logit_scale": 0.3}),
        ("gemma2", {"final_logit_softcapping": 0.5}),
        ("gemma2", {"final_logit_softcapping": None}),
        ("falcon", {"alibi": True}),
        ("falcon", {"multi_query": False, "new_decoder_architecture": True}),
        ("gpt2", {"reorder_and_upcast_attn": True, "scale_attn_by_inverse_layer_idx": True}),
        ("opt", {"do_layer_norm_before": False}),
        ("mixtral", {"output_router_logits": True}),
        ("qwen3_moe", {"output_router_logits": True}),
        ("bamba", {"z_loss_coefficient": 0.1}),
        ("deepseek_v32", {"index_topk": 8}),
        ("reformer", {"attn_layers": ["lsh", "local"], "lsh_attn_chunk_length": 16}),
        ("big_bird", {"is_decoder": True, "attention_type": "block_sparse", "block_size": 4, "num_random_blocks": 1}),
    )
]
QUICK_NAMES = {
    "llama", "gemma2", "granite", "qwen3_next", "bart", "bert (is_decoder: true)", "bert (is_decoder: false)", "xlnet",
}  # fmt: skip
QUICK = [case for case in ALL + VARIANTS if case.name in QUICK_NAMES]
