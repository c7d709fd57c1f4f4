"""The yardstick of language models without a neural network: n-grams of tokens, interpolated Kneser-Ney.

Chen & Goodman 1999, "An empirical study of smoothing techniques for language modeling", sec. 2.7, with one discount.
"""

from collections import Counter, defaultdict

import numpy as np

from stillhouse.data.blocks import BlockTable

DISCOUNT = 0.75


def sequences(table: BlockTable) -> list[list[int]]:
    """Every segment's tokens, the one that only predicts first."""
    found = []
    for block in range(len(table)):
        tokens = table.tokens[table.offsets[block] : table.offsets[block + 1]].tolist()
        start = 0
        for number in range(table.segment_offsets[block], table.segment_offsets[block + 1]):
            length = int(table.segment_lengths[number])
            found.append([*tokens[start : start + length], int(table.last[number])])
            start += length
    return found


class NgramModel:
    """Probabilities of the next token given up to `order` - 1 tokens before it."""

    def __init__(self, train: BlockTable, order: int, vocab_size: int):
        self.order, self.vocab_size = order, vocab_size
        texts = sequences(train)
        # Highest order: how often; lower ones: how many different tokens stand before it (continuation counts).
        counts: list[Counter] = [Counter() for _ in range(order)]
        for tokens in texts:
            for size in range(1, order + 1):
                counts[size - 1].update(zip(*(tokens[i:] for i in range(size)), strict=False))
        for size in range(1, order):
            counts[size - 1] = Counter(gram[1:] for gram in counts[size])
        self.counts = counts
        self.totals: list[dict] = []
        self.kinds: list[dict] = []
        for grams in counts:
            total: dict = defaultdict(int)
            kinds: dict = defaultdict(int)
            for gram, count in grams.items():
                total[gram[:-1]] += count
                kinds[gram[:-1]] += 1
            self.totals.append(total)
            self.kinds.append(kinds)

    @property
    def size(self) -> int:
        """Stored n-grams."""
        return sum(len(grams) for grams in self.counts)

    def probability(self, context: tuple[int, ...], token: int) -> float:
        """From the shortest context up: each order takes `DISCOUNT` off its counts and gives it to the one below."""
        value = 1.0 / self.vocab_size
        for size in range(1, min(self.order, len(context) + 1) + 1):
            before = context[len(context) - size + 1 :] if size > 1 else ()
            total = self.totals[size - 1].get(before, 0)
            if total:
                count = self.counts[size - 1].get((*before, token), 0)
                value = (max(count - DISCOUNT, 0.0) + DISCOUNT * self.kinds[size - 1][before] * value) / total
        return value

    def nll(self, table: BlockTable) -> np.ndarray:
        """Negative log-likelihood in nats of every predicted position, float64, in the table's order."""
        values = []
        for tokens in sequences(table):
            for i in range(1, len(tokens)):
                values.append(self.probability(tuple(tokens[max(0, i - self.order + 1) : i]), tokens[i]))
        return -np.log(np.array(values))
