"""Small GGUF files of language models, written byte by byte as the specification says (ggml, docs/gguf.md).

transformers reads LFM2 without the package `gguf`, and Llama, as most architectures, with it.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Lfm2Config, Lfm2ForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

F32, Q8_0, BLOCK, ALIGNMENT = 0, 8, 32, 32
NAMES = {
    "model.embed_tokens": "token_embd", "model.embedding_norm": "token_embd_norm", "model.layers": "blk", "lm_head": "output",
    "operator_norm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_output", "self_attn.q_layernorm": "attn_q_norm", "self_attn.k_layernorm": "attn_k_norm",
    "feed_forward.w1": "ffn_gate", "feed_forward.w3": "ffn_up", "feed_forward.w2": "ffn_down",
    "conv.in_proj": "shortconv.in_proj", "conv.out_proj": "shortconv.out_proj", "conv.conv": "shortconv.conv",
}  # fmt: skip
"""transformers' names of the parts of an LFM2 to those of llama.cpp."""
LLAMA_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "model.layers": "blk", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
TOKENS = [*bytes_to_unicode().values(), "he", "<|end|>", "<|pad|>"]
TOKENIZER = {
    "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "lfm2", "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.merges": ["h e"], "tokenizer.ggml.token_type": [1] * (len(TOKENS) - 2) + [3, 3],
    "tokenizer.ggml.eos_token_id": len(TOKENS) - 2, "tokenizer.ggml.padding_token_id": len(TOKENS) - 1,
}  # fmt: skip
SIZES = {
    "vocab_size": len(TOKENS), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "eos_token_id": len(TOKENS) - 2, "pad_token_id": len(TOKENS) - 1,
    "bos_token_id": None, "tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}  # fmt: skip


def sizes(architecture: str, head_count_kv: int | list[int], norm_eps: float) -> dict[str, Any]:
    """The same in a file's metadata."""
    known = {
        "context_length": 64, "embedding_length": 32, "feed_forward_length": 64, "block_count": 2, "attention.head_count": 4,
        "attention.head_count_kv": head_count_kv, "attention.layer_norm_rms_epsilon": norm_eps, "rope.freq_base": 1e4,
    }  # fmt: skip
    return {"general.architecture": architecture, **{f"{architecture}.{key}": value for key, value in known.items()}}


def write_language_model(path: Path, licence: str | None = "mit") -> Lfm2ForCausalLM:
    """Write a model of two layers, one of whose matrices is quantised; returns it, with the weights that the file has."""
    torch.manual_seed(3)
    config = Lfm2Config(**SIZES, layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False, conv_L_cache=3)
    model = Lfm2ForCausalLM(config).eval()
    weights = {name: value.detach().numpy() for name, value in model.state_dict().items() if name != "lm_head.weight"}
    quantised, values = quantise(weights["model.layers.0.feed_forward.w1.weight"])
    with torch.no_grad():
        model.model.layers[0].feed_forward.w1.weight.copy_(torch.from_numpy(values))
    tensors = {}
    for name, value in weights.items():
        # llama.cpp drops the middle axis of the kernel.
        tensors[theirs(name, NAMES)] = (F32, value.squeeze(1) if name.endswith("conv.conv.weight") else value, value.tobytes())
    tensors["blk.0.ffn_gate.weight"] = (Q8_0, values, quantised)
    metadata = sizes("lfm2", [0, 2], float(config.norm_eps)) | {
        "lfm2.shortconv.l_cache": 3,
        "general.name": "Small",
        **TOKENIZER,
    }
    if licence is not None:
        metadata["general.license"] = licence
    path.write_bytes(packed(metadata, tensors))
    return model


def write_llama(path: Path) -> LlamaForCausalLM:
    """Write a Llama of float32 weights; returns it."""
    torch.manual_seed(4)
    config = LlamaConfig(**SIZES)
    model = LlamaForCausalLM(config).eval()
    tensors = {}
    for name, weight in model.state_dict().items():
        value, heads = weight.numpy(), {"q": 4, "k": 2}.get(name.partition("self_attn.")[2][:1], 0)
        if heads:
            # llama.cpp rotates neighbours, transformers the two halves of a head.
            value = value.reshape(heads, 2, -1, 32).swapaxes(1, 2).reshape(value.shape)
        if name != "lm_head.weight":
            tensors[theirs(name, LLAMA_NAMES)] = (F32, value, value.tobytes())
    metadata = sizes("llama", 2, float(config.rms_norm_eps)) | {"llama.vocab_size": len(TOKENS), **TOKENIZER}
    path.write_bytes(packed(metadata, tensors))
    return model


def theirs(name: str, names: dict[str, str]) -> str:
    for ours, other in names.items():
        name = name.replace(ours, other)
    return name


def quantise(matrix: np.ndarray) -> tuple[bytes, np.ndarray]:
    """A matrix as blocks of Q8_0 (a float16 scale and 32 bytes), and what these mean."""
    blocks = matrix.reshape(-1, BLOCK)
    scales = (np.abs(blocks).max(1) / 127).astype(np.float16)
    numbers = np.rint(blocks / scales.astype(np.float32)[:, None]).astype(np.int8)
    data = b"".join(scale.tobytes() + row.tobytes() for scale, row in zip(scales, numbers, strict=True))
    return data, (numbers * scales.astype(np.float32)[:, None]).astype(np.float32).reshape(matrix.shape)


def packed(metadata: dict[str, Any], tensors: dict[str, tuple[int, np.ndarray, bytes]]) -> bytes:
    head = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    for key, value in metadata.items():
        head += [text(key), *typed(value)]
    offset, data = 0, []
    for name, (kind, value, content) in tensors.items():
        head += [text(name), struct.pack("<I", value.ndim), struct.pack(f"<{value.ndim}Q", *reversed(value.shape))]
        head.append(struct.pack("<IQ", kind, offset))
        data.append(aligned(content))
        offset += len(data[-1])
    return aligned(b"".join(head)) + b"".join(data)


def aligned(content: bytes) -> bytes:
    return content + b"\0" * (-len(content) % ALIGNMENT)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def typed(value: Any) -> Iterator[bytes]:
    """A value behind the number of its type."""
    if isinstance(value, list):
        yield struct.pack("<IIQ", 9, 8 if isinstance(value[0], str) else 4, len(value))
        yield from (text(each) if isinstance(each, str) else struct.pack("<I", each) for each in value)
    elif isinstance(value, str):
        yield struct.pack("<I", 8) + text(value)
    else:
        yield struct.pack("<If", 6, value) if isinstance(value, float) else struct.pack("<II", 4, value)
