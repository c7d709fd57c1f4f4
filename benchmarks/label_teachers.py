"""Teachers for the benchmarks of soft labels: a committed generator, and a language model that was trained."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from benchmarks.common import say
from stillhouse.core.errors import ArtifactError

SPREAD = 0.35
"""Standard deviation of the logarithm of a position's Zipf exponent: some positions are nearly certain, some nearly flat."""
DRAWS, IDS = 50, 12.0
"""What the generator is calibrated to: distinct ids among so many multinomial draws, as the RS-KD paper has them at 3B."""


class ZipfTeacher:
    """Log-probabilities -s log(rank) with an exponent s per position, and the ids of the ranks shuffled at each position."""

    def __init__(self, vocab: int, seed: int):
        self.vocab, self._random = vocab, np.random.default_rng(seed)
        self._log_ranks = np.log(np.arange(1, vocab + 1))
        low, high = 0.5, 4.0
        for _ in range(30):
            self.exponent = (low + high) / 2
            low, high = (self.exponent, high) if self._mean_ids() > IDS else (low, self.exponent)

    def _mean_ids(self) -> float:
        """Expected distinct ids among multinomial draws, by quadrature over the exponents."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(25)
        ids = []
        for exponent in self.exponent * np.exp(SPREAD * nodes):
            probs = np.exp(-exponent * self._log_ranks)
            ids.append(-np.expm1(DRAWS * np.log1p(-np.minimum(probs / probs.sum(), 1 - 1e-15))).sum())
        return float(np.dot(weights, ids) / weights.sum())

    def log_probs(self, positions: int) -> torch.Tensor:
        """float32 (positions, vocab)."""
        exponents = self.exponent * np.exp(SPREAD * self._random.standard_normal(positions))
        result = np.empty((positions, self.vocab), dtype=np.float32)
        for place, exponent in enumerate(exponents):
            result[place, self._random.permutation(self.vocab)] = -exponent * self._log_ranks
        return torch.log_softmax(torch.from_numpy(result), -1)


@dataclass(frozen=True)
class TrainedTeacher:
    model: PreTrainedModel
    tokens_RT: torch.Tensor
    """int64: blocks of held-out text."""

    @torch.no_grad()
    def log_probs(self, row: int) -> torch.Tensor:
        """float32 (T, V) of one block."""
        return torch.log_softmax(self.model(input_ids=self.tokens_RT[row : row + 1]).logits[0].float(), -1)


def read_teacher(folder: Path | None, positions: int) -> TrainedTeacher | None:
    """The language model in `folder` (or `folder/model`), or that of `data/train_teacher` if it is one; else None.

    Its text are the validation paragraphs of the Victorian novels, in blocks of `positions` tokens.
    Raises ArtifactError if a folder was named and holds none, or if the text is not there.
    """
    for place in [folder / "model", folder] if folder else [Path("data/train_teacher/model")]:
        config = place / "config.json"
        if config.is_file() and "ForCausalLM" in config.read_text():
            break
    else:
        if folder:
            raise ArtifactError(f"{folder} holds no causal language model; --teacher names a folder with config.json in it")
        return None
    near = [place, place.parent / "tokenizer", Path("data/preprocess/processor")]
    tokenizer = next((path for path in near if (path / "tokenizer.json").is_file()), None)
    if tokenizer is None:
        raise ArtifactError(f"no tokenizer.json beside {place}; put the teacher's tokenizer into {near[1]}")
    data = Path(os.environ.get("STILLHOUSE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    text = data / "lm" / "victorian_novels" / "validation.parquet"
    if not text.is_file():
        raise ArtifactError(f"{text} is missing; STILLHOUSE_TEST_DATA names the folder with the real data sets")
    say(f"teacher: {place}, text: validation paragraphs of the Victorian novels")
    read = AutoTokenizer.from_pretrained(tokenizer, split_special_tokens=True)
    ids = read(pd.read_parquet(text)["text"].tolist())["input_ids"]
    flat = torch.tensor([i for part in ids for i in part])
    model = AutoModelForCausalLM.from_pretrained(place).eval()
    return TrainedTeacher(model, flat[: len(flat) // positions * positions].reshape(-1, positions))
