"""Inputs of the fused head and loss that several test files share; every kind of target, and every divergence it can give.

Legend: as in `stillhouse/losses/teacher_targets.py`.
"""

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from stillhouse.losses.dense import IGNORED
from stillhouse.losses.teacher_targets import DenseTargets, LossSums, SparseTargets, Targets, TeacherHead

P, H, V, D = 23, 7, 31, 5
FORMS = ("sampled", "topk", "topk_tail")


def sparse(form: str, positions: int = P, vocabulary: int = V, seed: int = 1) -> SparseTargets:
    """0 to 5 of the likeliest ids of a random teacher at each position, none at positions 3 and 4."""
    generator = torch.Generator().manual_seed(seed)
    probs = (torch.randn(positions, vocabulary, generator=generator) * 2).softmax(-1)
    counts = torch.randint(0, 6, (positions,), generator=generator)
    counts[3:5] = 0
    offsets = torch.cat((torch.zeros(1, dtype=torch.int64), counts.cumsum(0)))
    ids = torch.cat([row.topk(int(count)).indices.sort().values for row, count in zip(probs, counts, strict=True)])
    owners = torch.arange(positions).repeat_interleave(counts)
    values = probs[owners, ids]
    tail = 1 - torch.zeros(positions).index_add(0, owners, values) if form == "topk_tail" else None
    # Samples need not sum to 1.
    return SparseTargets(offsets, ids, values * 1.3 if form == "sampled" else values, tail, form)


def inputs(dtype: torch.dtype = torch.float32, positions: int = P, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Hidden states, head, bias with gradients, and labels of which two are missing."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((positions, H), (V, H), (V,))
    tensors = [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]
    labels = torch.randint(0, V, (positions,), generator=generator)
    labels[5:7] = IGNORED
    return *tensors, labels


def teacher(kind: str, dtype: torch.dtype = torch.float32, positions: int = P) -> Targets:
    generator = torch.Generator().manual_seed(2)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    match kind:
        case "dense":
            return DenseTargets(draw(positions, V) * 2)
        case "online, larger":
            return TeacherHead(draw(positions, D), draw(V + 4, D), draw(V + 4))
        case "online, smaller":
            return TeacherHead(draw(positions, D), draw(V - 4, D))
        case "online, padded":
            return TeacherHead(draw(positions, D), draw(V + 4, D), vocabulary=V - 2)
        case _:
            return sparse(kind, positions)


CASES = [
    *[(form, "forward_kl") for form in FORMS],
    *[("topk_tail", name) for name in ("reverse_kl", "jsd")],
    *[(kind, name) for kind in ("dense", "online, larger") for name in ("forward_kl", "reverse_kl", "jsd")],
    *[(kind, name) for kind in ("online, smaller", "online, padded") for name in ("forward_kl", "jsd")],
]


def gradients(sums: LossSums, tensors: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    return list(torch.autograd.grad(sums.total, tensors))


def assert_close(ours: list[torch.Tensor], theirs: list[torch.Tensor], tolerance: float) -> None:
    """Largest difference over the largest value, tensor by tensor."""
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine - other).abs().max() <= tolerance * other.abs().max().clamp_min(1e-12)


def decoder(kind: str = "llama", **options) -> PreTrainedModel:
    """A decoder of transformers with a few thousand weights, always the same."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": V}
    if kind not in ("gpt2", "gpt_neox"):
        sizes |= {"num_key_value_heads": 2}
    if kind == "gemma2":
        sizes |= {"head_dim": 8}
    config = AutoConfig.for_model(kind, **sizes, pad_token_id=0, bos_token_id=1, eos_token_id=2, **options)
    return AutoModelForCausalLM.from_config(config)
