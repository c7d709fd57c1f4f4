"""A small GGUF file, written byte by byte as its specification says (ggml, docs/gguf.md): a language model that transformers
reads without the package `gguf`."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Lfm2Config, Lfm2ForCausalLM
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


def write_language_model(path: Path, licence: str | None = "mit") -> Lfm2ForCausalLM:
    """Write a model of two layers, one of whose matrices is quantised; returns it, with the weights that the file has."""
    letters = [*bytes_to_unicode().values()]
    tokens = [*letters, "he", "<|end|>", "<|pad|>"]
    torch.manual_seed(3)
    config = Lfm2Config(
        vocab_size=len(tokens), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False, conv_L_cache=3,
        max_position_embeddings=64, eos_token_id=len(tokens) - 2, pad_token_id=len(tokens) - 1, bos_token_id=None,
        tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    )  # fmt: skip
    model = Lfm2ForCausalLM(config).eval()
    weights = {name: value.detach().numpy() for name, value in model.state_dict().items() if name != "lm_head.weight"}
    quantised, values = quantise(weights["model.layers.0.feed_forward.w1.weight"])
    with torch.no_grad():
        model.model.layers[0].feed_forward.w1.weight.copy_(torch.from_numpy(values))
    tensors = {}
    for name, value in weights.items():
        # llama.cpp drops the middle axis of the kernel.
        tensors[theirs(name)] = (F32, value.squeeze(1) if name.endswith("conv.conv.weight") else value, value.tobytes())
    tensors["blk.0.ffn_gate.weight"] = (Q8_0, values, quantised)
    metadata = {
        "general.architecture": "lfm2", "general.name": "Small", "lfm2.context_length": 64, "lfm2.embedding_length": 32,
        "lfm2.feed_forward_length": 64, "lfm2.block_count": 2, "lfm2.attention.head_count": 4,
        "lfm2.attention.head_count_kv": [0, 2], "lfm2.attention.layer_norm_rms_epsilon": float(config.norm_eps),
        "lfm2.shortconv.l_cache": 3, "lfm2.rope.freq_base": 1e4, "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "lfm2",
        "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": ["h e"],
        "tokenizer.ggml.token_type": [1] * (len(tokens) - 2) + [3, 3],
        "tokenizer.ggml.eos_token_id": len(tokens) - 2, "tokenizer.ggml.padding_token_id": len(tokens) - 1,
        **({} if licence is None else {"general.license": licence}),
    }  # fmt: skip
    path.write_bytes(packed(metadata, tensors))
    return model


def theirs(name: str) -> str:
    for ours, other in NAMES.items():
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
