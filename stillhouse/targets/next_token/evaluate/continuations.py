"""How models go on with the first tokens of test documents: something to read beside the figures."""

from collections.abc import Mapping

import pandas as pd
import torch
from tokenizers import Tokenizer
from torch import nn

from stillhouse.data.blocks import BlockTable
from stillhouse.data.tokenizer import TokenizerFacts
from stillhouse.modalities.blocks.rows.ngram_model import sequences
from stillhouse.models.positions import most_positions
from stillhouse.runtime.model_types import as_pretrained

TEMPERATURE = 0.8


@torch.no_grad()
def continuations(
    models: Mapping[str, nn.Module], test: BlockTable, tokenizer: Tokenizer, facts: TokenizerFacts, count: int, tokens: int
) -> pd.DataFrame:
    """Columns `prompt`, `actual` and one per model: `tokens` tokens behind prompts of as many, drawn at temperature 0.8.

    The draws of a prompt are a function of its number: every model is given the same luck.
    """
    start = len(facts.begin)
    long_enough = [text for text in sequences(test) if text[:start] == facts.begin and len(text) >= start + 2 * tokens]
    step = max(1, len(long_enough) // count)
    rows = []
    for number, text in enumerate(long_enough[::step][:count]):
        prompt, actual = text[start : start + tokens], text[start + tokens : start + 2 * tokens]
        row = {"prompt": tokenizer.decode(prompt), "actual": tokenizer.decode(actual)}
        for name, model in models.items():
            generator = torch.Generator().manual_seed(number)
            ids = torch.tensor([text[: start + tokens]])
            for _ in range(min(tokens, positions_left(model, ids))):
                logits = model(input_ids=ids.to(as_pretrained(model).device), use_cache=False).logits[0, -1].float().cpu()
                drawn = torch.multinomial((logits / TEMPERATURE).softmax(-1), 1, generator=generator)
                ids = torch.cat((ids, drawn[None]), dim=1)
                if int(drawn) == facts.eos_id:
                    break
            row[name] = tokenizer.decode(ids[0, start + tokens :].tolist())
        rows.append(row)
    return pd.DataFrame(rows, columns=["prompt", "actual", *models])


def positions_left(model: nn.Module, ids: torch.Tensor) -> int:
    limit = most_positions(model)
    return 10**9 if limit is None else limit - ids.shape[1]
