"""Options that make a small model of any architecture: some ten thousand weights, which are there in milliseconds.

    options = small_options("qwen3_next")       # for AutoConfig.for_model, or `model.config` of a recipe

For trials of what an architecture does, where its weights do not matter. Most go by the name of the option; `MORE` holds what
some architectures want beside that.
"""

from typing import Any

from transformers import AutoConfig

VOCABULARY = 64
POSITIONS = 128

_NAMES = {
    1: """
        n_group topk_group num_expert_group n_shared_experts moe_num_shared_experts num_shared_experts mamba_n_groups n_groups
        mamba_ngroups
    """,
    2: """
        num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_decoder_layers num_encoder_layers depth
        num_blocks num_key_value_heads num_kv_heads linear_num_value_heads linear_num_key_heads linear_num_heads n_mamba_heads
        num_experts_per_tok num_experts_per_token moe_topk moe_k moe_top_k index_n_heads indexer_n_heads
    """,
    4: """
        num_attention_heads n_head n_heads num_heads attention_heads decoder_attention_heads encoder_attention_heads
        num_decoder_attention_heads num_encoder_attention_heads num_experts num_local_experts n_routed_experts moe_num_experts
        mamba_n_heads mamba_num_heads rotary_dim time_step_rank
    """,
    8: """
        head_dim kv_channels dim_head d_head attention_head_size qk_nope_head_dim qk_rope_head_dim v_head_dim
        linear_key_head_dim linear_value_head_dim linear_head_dim mamba_d_state ssm_state_size state_size
    """,
    16: """
        moe_intermediate_size shared_expert_intermediate_size expert_ffn_hidden_size moe_shared_expert_intermediate_size
        shared_intermediate_size shared_experts_intermediate_size q_lora_rank kv_lora_rank qk_head_dim mamba_d_head
        mamba_head_dim mamba_headdim index_head_dim pronunciation_embed_dim shape_embed_dim chunk_size
    """,
    32: """
        hidden_size d_model n_embd emb_dim embedding_dim embed_dim embedding_size hidden_dim hidden_size_global
        word_embed_proj_dim lru_width attention_hidden_size
    """,
    48: """
        intermediate_size ffn_dim decoder_ffn_dim encoder_ffn_dim n_inner dff d_inner ffn_hidden_size dim_ff feed_forward_size
        dense_intermediate_size intermediate_size_mlp
    """,
    # The inner size of Falcon-H1's mamba: its heads times their size.
    4 * 16: "mamba_d_ssm",
    1000: "ngram_vocab_size_base",
}
SIZES = {
    **{name: size for size, names in _NAMES.items() for name in names.split()},
    **dict.fromkeys(("vocab_size", "decoder_vocab_size"), VOCABULARY),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_target_positions"), POSITIONS),
}
"""Option to its size."""

_LATENT_ATTENTION = (
    "axk1", "axk2", "bailing_hybrid", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa", "hy_v4",
    "kimi_linear", "longcat_flash", "minicpm3", "youtu",
)  # fmt: skip
"""Every head has keys of its own, and `head_dim` is the rotated part's."""
_ROTARY = {"rope_type": "default", "rope_theta": 1e4}
_PER_LAYER = {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8, "per_layer_config": {}}
_NGRAMS = {
    "num_hidden_layers": 2, "layer_types": ["linear_attention", "indexed_attention"], "indexer_n_heads": 2,
    "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 2048, "indexer_compress_ratio": 4, "ple_layer_ids": [1],
    "ple_embed_dim": 32, "split_ngram_parts": 1,
}  # fmt: skip
_NOTE = {"num_key_value_heads": 4, "head_dim": 16, "per_layer_config": {}}
_ADAPTER = dict.fromkeys(("adapter_in_dim", "adapter_out_dim", "adapter_input_size"), 32)
_SHARED_LAYERS = {
    "attention_head_dim": 16, "attention_hidden_size": 64, "num_hidden_layers": 4,
    "layer_types": ["mamba", "hybrid", "mamba", "hybrid"],
}  # fmt: skip
_GEMMA3N = {
    "num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 2,
    "intermediate_size": 48, "activation_sparsity_pattern": [0.0] * 4, "laurel_rank": 8,
}  # fmt: skip
_REFORMER = {
    "is_decoder": True, "attn_layers": ["local", "local"], "axial_pos_embds": False, "num_hidden_layers": 2,
    "local_attn_chunk_length": 16,
}  # fmt: skip

MORE: dict[str, dict[str, Any]] = {
    **{name: {"head_dim": 8, "num_key_value_heads": 4} for name in _LATENT_ATTENTION},
    "bamba": {"attn_layer_indices": [1]},
    "big_bird": {"attention_type": "original_full"},
    "bigbird_pegasus": {"attention_type": "original_full"},
    "blt": {"encoder_hash_byte_group_vocab": 100},
    "cohere_compass_text": {"rope_parameters": {"full_attention": _ROTARY, "sliding_attention": _ROTARY}},
    "dbrx": {"attn_config": {"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8.0}},
    "dots3_note": {"text_config": _NOTE, "vision_config": _ADAPTER, "audio_config": _ADAPTER},
    "dots3_note_text": _NOTE,
    "esmc": {"num_key_value_heads": 4},
    "gemma3n_text": _PER_LAYER | _GEMMA3N,
    "gemma4": {"text_config": _PER_LAYER},
    "gemma4_text": _PER_LAYER,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2, "num_hidden_layers": 4},
    "lilt": {"hidden_size": 48},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "qwen4_exp": {"text_config": _NGRAMS},
    "qwen4_exp_text": _NGRAMS,
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": _REFORMER,
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "zamba": _SHARED_LAYERS,
    "zamba2": _SHARED_LAYERS | {"n_mamba_heads": 4, "hybrid_layer_ids": [1, 3]},
    "zaya": {"num_experts_per_tok": 1},
}


def small_options(architecture: str) -> dict[str, Any]:
    """Options of that architecture's config. Raises what its config raises if its defaults do not even hold."""
    return merged(sizes_in(AutoConfig.for_model(architecture).to_dict()), MORE.get(architecture, {}))


def sizes_in(options: dict[str, Any]) -> dict[str, Any]:
    """Small values for the options that are sizes, in parts such as `text_config` too. Each kind of layer is kept once."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        if name in SIZES and not isinstance(value, bool) and isinstance(value, int | None):
            found[name] = SIZES[name]
        elif name.endswith("_config") and isinstance(value, dict):
            found[name] = sizes_in(value)
    kinds = {
        name: list(dict.fromkeys(options[name]))
        for name in ("layer_types", "mlp_layer_types")
        if isinstance(options.get(name), list) and options[name]
    }
    if kinds and "num_hidden_layers" in found:
        count = found["num_hidden_layers"] = max(2, *(len(values) for values in kinds.values()))
        found |= {name: [values[i % len(values)] for i in range(count)] for name, values in kinds.items()}
    return found


def merged(options: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """`more` over `options`, part by part."""
    both = {**options, **more}
    for name, value in more.items():
        if name.endswith("_config") and name != "per_layer_config" and isinstance(options.get(name), dict):
            both[name] = merged(options[name], value)
    return both
