"""Whether a classifier says the same of a text in a padded batch as alone; or it is refused.

    require_batch_invariance(model, task.facts, task.longest, ranks)      # once a model, before anything is paid for

Batches are padded behind the text, with a mask. Some architectures read the padding all the same: Fourier transforms mix it in,
convolutions see it at the end, others take the last position of the row for the end of the text. What such a model learns, and
is measured at, depends on which rows happen to stand beside each other, and a package that gets one text answers otherwise. So
the model itself is asked, with its own weights, about short random texts. Two passes of some four rows.

Weights that were just drawn are small, and hide what will matter once they are trained: those are asked at eight times
their size.

Shapes: S tokens of a text, C classes.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from transformers import PreTrainedModel

from stillhouse.core.errors import ParamsError
from stillhouse.data.tokenizer import TokenizerFacts
from stillhouse.runtime.distributed import Ranks
from stillhouse.runtime.model_types import note
from stillhouse.runtime.probe import Refused, as_found, buffers_untouched, distance, refused_faults, special_ids

TOLERANCE = 1e-4
"""Of the difference of a row's logits over their size. Rounding gives 1e-6 in small models and 1e-5 in large ones; a
convolution that sees the padding, in a model of new weights, 1e-3."""
NOISE = 10
"""Times so much as the same text differs in a batch of two: kernels of a GPU may round far more than that."""
MOST_NOISE = 1e-2
"""A model whose answers differ more than that each time is refused."""
SIZE = 8
"""Times so large as they were drawn are new weights asked."""
DRAWS = 2
"""Texts are drawn again if a model fails with the first ones: where experts are chosen, rounding may decide between two."""
REMEDY = "choose another architecture, such as bert, distilbert, roberta, deberta-v2 or modernbert"


class Changed(Refused):
    """Of a model that is no longer what it was, so that nothing can be asked again."""


def require_batch_invariance(model: PreTrainedModel, facts: TokenizerFacts, longest: int, ranks: Ranks) -> None:
    """Raises ParamsError on every rank, in one line, unless each text gets the logits in a padded batch that it gets alone.

    longest: tokens of the longest row that the model will see. That it was asked is noted in the model. Random numbers, mode
    and device are left as they were.
    """
    if getattr(model, "batch_invariant_to", 0) >= longest:
        return
    ranks.on_main(lambda: ask(model, facts, longest, ranks.device))
    note(model, batch_invariant_to=longest)


def ask(model: PreTrainedModel, facts: TokenizerFacts, longest: int, device: torch.device) -> None:
    reason = ""
    with as_found(model, device), torch.no_grad(), enlarged(model, SIZE if getattr(model, "weights_are_new", False) else 1):
        for seed in range(DRAWS):
            try:
                return attempt(model, facts, longest, seed, device)
            except Refused as refused:
                reason = reason or str(refused)
                if isinstance(refused, Changed):
                    break
    raise ParamsError(f"model {model.config.model_type} ({type(model).__name__}): {reason}; {REMEDY}")


@contextmanager
def enlarged(model: PreTrainedModel, size: int) -> Iterator[None]:
    """Matrices are `size` times what they are, a power of two, so that they are bit by bit the same afterwards."""
    matrices = [weight for weight in model.parameters() if weight.ndim > 1 and size > 1]
    for weight in matrices:
        weight.mul_(size)
    try:
        yield
    finally:
        for weight in matrices:
            weight.div_(size)


def attempt(model: PreTrainedModel, facts: TokenizerFacts, longest: int, seed: int, device: torch.device) -> None:
    """Raises Refused."""
    texts = draw(model, facts, longest, seed)
    with refused_faults("its own forward pass of a text fails: ", behind=""):
        alone = torch.cat([logits(model, text[None], None, device) for text in texts])
        again = logits(model, texts[0][None], None, device)
        twice = logits(model, torch.stack((texts[0], texts[0])), None, device)
    noise = float(distance(twice, again.expand_as(twice)).max())
    if noise > MOST_NOISE:
        raise Refused(f"it says something else of the same text each time, a difference of {noise:.1e}")
    allowed = max(TOLERANCE, NOISE * noise)
    if distance(again, alone[:1]).max() > allowed:
        raise Changed("it says something else of a text once it has seen shorter ones: its answers would depend on their order")
    ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=facts.pad_id)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(text) for text in texts], batch_first=True)
    with refused_faults("its forward pass of a padded batch fails: ", behind=""):
        together = logits(model, ids, mask, device)
    require_training_pass(model, texts, device)
    gap = distance(together, alone)
    worst = int(gap.argmax())
    if gap[worst] > allowed:
        raise Refused(
            f"a text of {len(texts[worst])} tokens gets other logits in a batch that is padded to {ids.shape[1]} than alone, a "
            f"difference of {float(gap[worst]):.1e} (allowed {allowed:.0e}): its answers would depend on the texts beside it"
        )


def require_training_pass(model: PreTrainedModel, texts: list[torch.Tensor], device: torch.device) -> None:
    """Raises Refused if the model scores texts of some length and does not train on them (Reformer)."""
    model.train()
    try:
        with buffers_untouched(model):
            for text in texts:
                with refused_faults(f"its training pass of a text of {len(text)} tokens fails: ", behind=""):
                    logits(model, text[None], None, device)
    finally:
        model.eval()


def draw(model: PreTrainedModel, facts: TokenizerFacts, longest: int, seed: int) -> list[torch.Tensor]:
    """Random texts, int64 (S,) each, with the tokenizer's tokens around them; the first has `longest` tokens."""
    generator = np.random.default_rng(seed)
    marks = special_ids(model.config) | {facts.pad_id, *facts.prefix, *facts.suffix}
    ids = np.array([token for token in range(facts.vocab_size) if token not in marks] or range(facts.vocab_size))
    most = max(1, longest - len(facts.prefix) - len(facts.suffix))
    lengths = dict.fromkeys((most, max(1, most // 2), min(3, most), 1))
    return [torch.tensor([*facts.prefix, *generator.choice(ids, length), *facts.suffix]) for length in lengths]


def logits(model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor | None, device: torch.device) -> torch.Tensor:
    """float32 (rows, C)."""
    given = {} if mask is None else {"attention_mask": mask.to(device)}
    return model(input_ids=ids.to(device), **given).logits.float().cpu()
