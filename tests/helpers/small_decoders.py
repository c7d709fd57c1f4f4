"""Small language models of any architecture, and their loss by plain transformers: what the tests of decoders share."""

from dataclasses import replace
from pathlib import Path

import torch
import transformers
from torch.nn import functional as F
from transformers import AutoConfig

from stillhouse.data.tokenizer import TokenizerFacts
from stillhouse.gate.small_models import VOCABULARY, merged, small_options
from stillhouse.modalities.blocks.rows import block_task
from stillhouse.modalities.blocks.rows.ngram_model import sequences
from stillhouse.models.config import ModelParams
from stillhouse.models.reading import Reading
from tests.training.test_language_model import ALONE, make_task

PAD = 0
FACTS = TokenizerFacts(vocab_size=VOCABULARY, pad_id=PAD, prefix=[], suffix=[], digest="tokenizer", eos_id=1)
SILENT = ("dropout", "attention_dropout", "embd_pdrop", "attn_pdrop", "resid_pdrop")


def lm_task(folder: Path) -> block_task.BlockTask:
    """Blocks of 16 positions, most of them with several documents."""
    return replace(make_task(folder, 40), facts=FACTS)


def small(task, architecture: str, seed: int = 3, **options) -> transformers.PreTrainedModel:
    quiet = {key: 0.0 for key in SILENT if hasattr(AutoConfig.for_model(architecture), key)}
    config = merged(merged(small_options(architecture), quiet), options)
    return block_task.build(ModelParams(architecture=architecture, config=config), task, seed)


def reading(task, architecture: str, **options) -> tuple[transformers.PreTrainedModel, Reading]:
    model = small(task, architecture, **options)
    block_task.verify_model(model, task, ALONE)
    return model, model.reading


@torch.no_grad()
def loss_alone(model, table) -> float:
    """Nats a token by transformers' own forward pass, each piece of a document by itself."""
    nats, count = 0.0, 0
    for ids in sequences(table):
        tokens = torch.tensor([ids])
        logits = model.eval()(input_ids=tokens[:, :-1], use_cache=False).logits[0].float()
        nats += float(F.cross_entropy(logits, tokens[0, 1:], reduction="sum"))
        count += len(ids) - 1
    return nats / count
