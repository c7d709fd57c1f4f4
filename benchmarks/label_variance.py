"""How far stored soft labels lie from the teacher's distribution, and that they do so without bias.

    python -m benchmarks.label_variance [--teacher FOLDER] [--quick]

Everything is decoded from records as a store holds them, rounding of values included; N = 50. The teacher is the language
model of `--teacher` or `data/train_teacher`, on held-out text, or without one a generated teacher with 2,048 ids.

* `bias_z_max`: over many seeds, the largest |z| of (mean stored value - teacher's probability), over ids that vary
  enough and over random sums of all ids; `bias_z_limit` is what it must stay under at a false alarm rate of 0.1 % for the
  whole test (Sidak). The same test on top-k is printed and must fail.
* `variance_over_multinomial`, `bytes_over_multinomial`: squared error of threshold samples summed over ids, and their bytes,
  over those of multinomial samples in the same container; medians of alternating rounds. `residual_...`: the same for
  residuals with 64 bases that were fitted on other text.
* `gradient_cosine`: between the gradients that a student's parameters get from stored labels and from the teacher's full
  distribution, over one batch of 4,096 tokens, with no other difference; median over rounds.
"""

import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import norm
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.common import arguments, finish, machine, say
from benchmarks.label_teachers import ZipfTeacher, read_teacher
from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.hashing import text_keys
from stillhouse.soft_labels.format.records import Coding, Entries, decode, encode
from stillhouse.soft_labels.format.sampler import Sampler
from stillhouse.soft_labels.format.values import Grid
from stillhouse.soft_labels.produce.bases import Bases, fit_bases
from stillhouse.soft_labels.produce.sampling import draw, uniforms

SEED, POSITIONS, SAMPLES = 1, 256, 50
FALSE_ALARM = 1e-3
OFTEN = 100
"""Seeds times the variance of a value, in steps between the values it can take: from there on its mean is normal enough."""
SUMS = 32
"""Random sums of the errors of all ids at all positions: they also see the ids that are too rare for a test of their own."""


def stored(log_probs_PV: torch.Tensor, sampler: Sampler, bases: Bases | None) -> tuple[np.ndarray, float]:
    """Targets as a reader has them, float32 (P, V), and bytes per position of their records."""
    positions, vocab = log_probs_PV.shape
    keys = text_keys(["row"])
    drawn = draw(log_probs_PV, sampler, uniforms(np.repeat(keys, positions), np.arange(positions), sampler), bases=bases)
    coding = Coding(positions, vocab, Grid.of(sampler), (sampler.bases - 1).bit_length() if sampler.bases else 0)
    entries = Entries(drawn.offsets, drawn.ids, drawn.values, drawn.tail, drawn.codes)
    records, _ = encode(coding, keys, sampler.seed, entries, np.full((1, positions), -1))
    found = decode(coding, records)
    target_PV = np.zeros((positions, vocab), dtype=np.float32)
    target_PV[np.repeat(np.arange(positions), np.diff(found.offsets)), found.ids] = found.values
    if bases is not None:
        target_PV += bases.values_KV.astype(np.float32)[found.codes]
    return target_PV, len(records[0]) / positions


def deviation(probs_PV: np.ndarray, sampler: Sampler, bases: Bases | None) -> tuple[np.ndarray, np.ndarray]:
    """Standard deviation of each stored value, (P, V), and its distance between the two (or more) values it can take."""
    step = np.full_like(probs_PV, 1 / sampler.samples)
    if sampler.method == "multinomial":
        return np.sqrt(probs_PV * (1 - probs_PV) / sampler.samples), step
    size_PV = probs_PV
    if bases is not None:
        codes_P = bases.choose(torch.from_numpy(probs_PV).float()).numpy()
        size_PV = np.abs(probs_PV - bases.values_KV.astype(np.float64)[codes_P])
    grid = np.concatenate([[0, 1 / sampler.samples], Grid.of(sampler).table]).astype(np.float64)
    above = np.clip(np.searchsorted(grid, size_PV, side="right"), 1, len(grid) - 1)
    low, high = grid[above - 1], grid[above]
    return np.sqrt(np.maximum((size_PV - low) * (high - size_PV), 0)), high - low


def z_test(log_probs_PV: torch.Tensor, sampler: Sampler, bases: Bases | None, seeds: int) -> tuple[float, float]:
    """Largest |z|, and what it stays under unless there is a bias or a false alarm."""
    probs_PV = log_probs_PV.exp().double().numpy()
    spread, step = deviation(probs_PV, replace(sampler, method="threshold") if not sampler.unbiased else sampler, bases)
    often = seeds * (spread / step) ** 2 > OFTEN
    random = np.random.default_rng(SEED)
    signs_EK = random.choice(np.array([-1, 1], dtype=np.float32), (probs_PV.size, SUMS))
    sums, mixed = np.zeros_like(probs_PV), np.zeros((seeds, SUMS))
    for seed in range(seeds):
        off = stored(log_probs_PV, replace(sampler, seed=seed), bases)[0] - probs_PV
        sums += off
        mixed[seed] = off.astype(np.float32).reshape(-1) @ signs_EK
    z = [np.abs(sums / seeds)[often] / (spread[often] / np.sqrt(seeds)), np.abs(mixed.mean(0)) * np.sqrt(seeds)]
    # Top-k does not vary at all; what is left of its difference then is its bias.
    z[1] /= np.maximum(mixed.std(0, ddof=1), 1e-4)
    count = int(often.sum()) + SUMS
    say(f"{sampler.method:12} {int(often.sum()):,} ids and {SUMS} random sums, {seeds:,} seeds")
    return float(np.concatenate(z).max()), float(norm.isf(-np.expm1(np.log1p(-FALSE_ALARM) / count) / 2))


class Student:
    """A small language model, and the gradient that targets give to its parameters."""

    def __init__(self, tokens_RT: torch.Tensor, vocab: int, steps: int):
        torch.manual_seed(SEED)
        shape = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
        self.model = LlamaForCausalLM(
            LlamaConfig(vocab_size=vocab, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, **shape)
        )
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-3)
        for step in range(steps):
            rows = torch.arange(step * 4, step * 4 + 4) % len(tokens_RT)
            self.model(input_ids=tokens_RT[rows], labels=tokens_RT[rows]).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    def gradient(self, tokens_RT: torch.Tensor, target_PV: torch.Tensor) -> torch.Tensor:
        """Of the forward KL's two terms that depend on the student: log-partition less targets times logits."""
        self.model.zero_grad()
        logits_PV = self.model(input_ids=tokens_RT).logits.flatten(0, 1)
        (torch.logsumexp(logits_PV, -1).sum() - (target_PV * logits_PV).sum()).backward()
        return torch.cat([p.grad.flatten() for p in self.model.parameters() if p.grad is not None])


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--teacher", type=Path, help="folder of a trained causal language model with its tokenizer")
    options = parser.parse_args()
    with one_line_errors("label_variance"):
        quick = options.quick
        rows, rounds, seeds = (2, 1, 30) if quick else (16, 5, 1500)
        say(f"{machine()}; seed {SEED}, {rows} rows of {POSITIONS} positions, N = {SAMPLES}, {rounds} rounds")
        trained = read_teacher(options.teacher, POSITIONS)
        if trained is not None:
            tokens_RT = trained.tokens_RT
            log_probs = [trained.log_probs(row) for row in range(rows)]
            fitted = torch.cat([trained.log_probs(row) for row in range(rows, 3 * rows)])
        else:
            say("no trained language model: generated teacher with 2,048 ids; its ids are shuffled, so bases are of no use")
            generated = ZipfTeacher(2048, SEED)
            log_probs = [generated.log_probs(POSITIONS) for _ in range(rows)]
            fitted = generated.log_probs(2 * rows * POSITIONS)
            tokens_RT = torch.randint(0, 2048, (3 * rows, POSITIONS), generator=torch.Generator().manual_seed(SEED))
        residual = Sampler("residual", SAMPLES, bases=64)
        bases = fit_bases(fitted.exp(), residual)
        samplers = {method: Sampler(method, SAMPLES) for method in ("multinomial", "threshold", "systematic")}
        samplers["residual"] = residual
        vocab = log_probs[0].shape[1]
        entropy = statistics.fmean(float(-(one.exp() * one).sum(-1).mean()) for one in log_probs)
        say(f"vocabulary {vocab:,}, entropy {entropy:.2f} nats")

        worst, limits = {}, {}
        for method in ("threshold", "residual", "multinomial", "topk"):
            sampler = samplers.get(method) or Sampler("topk", 27)
            few = log_probs[0][:: POSITIONS // 16]
            worst[method], limits[method] = z_test(
                few, sampler, bases if sampler.bases else None, seeds if sampler.unbiased else 3
            )
            verdict = "as it must be" if (worst[method] < limits[method]) == sampler.unbiased else "WRONG"
            finding = "unbiased" if worst[method] < limits[method] else "biased"
            say(f"{method:12} largest |z| {worst[method]:12.2f}, limit {limits[method]:.2f}: {finding}, {verdict}")

        student = Student(tokens_RT[rows:], vocab, steps=2 if quick else 150)
        probs_PV = torch.cat(log_probs).exp()
        full = student.gradient(tokens_RT[:rows], probs_PV)
        error: dict[str, list[float]] = {method: [] for method in samplers}
        size: dict[str, list[float]] = {method: [] for method in samplers}
        cosine: dict[str, list[float]] = {method: [] for method in samplers}
        for number in range(rounds):
            for method, sampler in samplers.items():
                seeded = [replace(sampler, seed=number * 1000 + row) for row in range(rows)]
                both = [stored(one, s, bases if s.bases else None) for one, s in zip(log_probs, seeded, strict=True)]
                target_PV = torch.from_numpy(np.concatenate([target for target, _ in both]))
                error[method].append(float((target_PV - probs_PV).square().sum(-1).mean()))
                size[method].append(statistics.fmean(size for _, size in both))
                gradient = student.gradient(tokens_RT[:rows], target_PV)
                cosine[method].append(float(torch.nn.functional.cosine_similarity(gradient, full, dim=0)))
            shown = ", ".join(f"{method} {errors[-1]:.6f}" for method, errors in error.items())
            say(f"round {number + 1}/{rounds}: squared error {shown}")
        ratios = {}
        for method in samplers:
            pairs = {"variance": error, "bytes": size}
            for name, values in pairs.items():
                ratios[name, method] = statistics.median(
                    a / b for a, b in zip(values[method], values["multinomial"], strict=True)
                )
            say(
                f"{method:12} variance x{ratios['variance', method]:.3f}, bytes x{ratios['bytes', method]:.3f} "
                f"({statistics.median(size[method]):.1f} a token), gradient cosine {statistics.median(cosine[method]):.4f}"
            )
        finish(
            bias_z_max=worst["threshold"],
            bias_z_limit=limits["threshold"],
            topk_z_max=worst["topk"],
            variance_over_multinomial=ratios["variance", "threshold"],
            bytes_over_multinomial=ratios["bytes", "threshold"],
            gradient_cosine=statistics.median(cosine["threshold"]),
            residual_bias_z_max=worst["residual"],
            residual_variance_over_multinomial=ratios["variance", "residual"],
            residual_bytes_over_multinomial=ratios["bytes", "residual"],
            residual_gradient_cosine=statistics.median(cosine["residual"]),
            multinomial_gradient_cosine=statistics.median(cosine["multinomial"]),
        )


if __name__ == "__main__":
    main()
