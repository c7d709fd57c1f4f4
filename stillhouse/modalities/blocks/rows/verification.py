"""Whether what the pipeline computes with a causal language model is what transformers computes with it; or it is refused.

    reading = verify(model, table, pad_id, ranks)       # once a model; before anything is trained, exported or scored with it

Of some hundred and ninety architectures no list says what their attention does with packed blocks, or what becomes of their
logits, and options change it. So the model itself is asked, with its own weights, about short random texts:

* no position changes when later tokens change, or are not there;
* what comes out of blocks packed as `BlockCollator` packs them (a whole one, and one of several texts with unused positions)
  is what transformers' own forward pass gives for each text alone;
* logits are a matrix product of hidden states, perhaps scaled or capped, and the model's own loss is their cross-entropy
  (`modalities.blocks.rows.head_probe`).

The first way of reading (`models.reading`) that passes is taken, ours first: it is the fastest. A pass of some eight blocks.

Shapes: T positions of a block, S tokens of a text, P positions of a batch, H hidden size, V vocabulary.
"""

import sys
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from transformers import PreTrainedModel

from stillhouse.core.errors import ParamsError
from stillhouse.data.block_batches import BlockCollator
from stillhouse.data.blocks import BlockTable
from stillhouse.modalities.blocks.rows.head_probe import options_of, read_head
from stillhouse.models.reading import Reading, head_given, head_of, hidden_states, last_states, reading_of
from stillhouse.runtime.distributed import Ranks
from stillhouse.runtime.model_types import note
from stillhouse.runtime.probe import (
    FAULTS,
    KNOWN,
    Choices,
    ProbeTexts,
    Refused,
    as_found,
    distance,
    numpy_untouched,
    refused_faults,
)

TOLERANCE = 1e-4
"""Of the difference of hidden states over their size, at the worst position. Rounding gives 1e-6 in small models and 1e-5 in
large ones; a convolution that sees the last token of the text before, in a model of random weights, 5e-4."""
NOISE = 10
"""Times so much as the same text differs in a batch of two: kernels of a GPU may round far more than that."""
MOST_NOISE = 1e-3
HEAD_TOKENS = 8
DRAWS = 2
"""Texts are drawn again if a model fails with the first ones: where experts are chosen, rounding may decide between two."""


def verify(model: PreTrainedModel, table: BlockTable, pad_id: int, ranks: Ranks) -> Reading:
    """How the model reads blocks as wide as those of `table`; also noted in the model, and not looked for again.

    Random numbers, mode and device are left as they were. Raises ParamsError on every rank, in one line, if there is no way
    in which it reads them as it reads each text alone.
    """
    known = getattr(model, "reading", None)
    if known is None or known.block_tokens < table.block_tokens:
        first = int(table.tokens[0]) if len(table.tokens) else pad_id
        known = ranks.on_main(lambda: Verification(model, table.block_tokens, pad_id, first, ranks.device).run())
        note(model, reading=known)
        if ranks.is_main:
            say_if_unusual(model, known)
    return known


SAID: set[str] = set()


def say_if_unusual(model: PreTrainedModel, reading: Reading) -> None:
    """A line for what takes longer, once a process."""
    if reading.attention != "rows":
        return
    line = (
        f"note: {model.config.model_type} is read one document a row: in a packed block its documents would see each other; "
        "this takes longer than packed blocks do"
    )
    if line not in SAID:
        SAID.add(line)
        print(line, file=sys.stderr, flush=True)


@dataclass
class Verification:
    """One model, asked on `device`."""

    model: PreTrainedModel
    width: int
    pad_id: int
    first: int
    device: torch.device
    tolerance: float = TOLERANCE

    def run(self) -> Reading:
        model, reason = self.model, ""
        with as_found(model, self.device), torch.no_grad():
            try:
                for seed in range(DRAWS):
                    try:
                        return self.attempt(seed)
                    except Refused as refused:
                        reason = reason or str(refused)
            finally:
                vars(model).pop("reading", None)
        raise ParamsError(f"model {model.config.model_type} ({type(model).__name__}): {reason}")

    def attempt(self, seed: int) -> Reading:
        """Raises Refused."""
        layer = self.model.get_output_embeddings()
        if layer is None or not isinstance(getattr(layer, "weight", None), torch.Tensor):
            raise Refused(f"it has no output layer that can be told from its body; {KNOWN}")
        texts = ProbeTexts.draw(self.model.config, len(layer.weight), self.width, self.pad_id, self.first, seed)
        beginning = texts.long[:HEAD_TOKENS]
        self.own(beginning)
        reading = read_head(self.model, layer, beginning[None].to(self.device), self.width)
        with Choices() as of_long:
            alone = [self.own(texts.long)]
        with Choices() as of_short:
            alone += [self.own(text) for text in texts.short]
        self.tolerance = max(TOLERANCE, NOISE * self.noise(texts.short[0], alone[1]))
        self.require_all_tokens(of_long, of_short)
        self.require_causal(texts, alone[0], alone[1])
        middle = len(texts.short) // 2
        reading = replace(reading, states=self.which_states(texts.short[middle], alone[1 + middle]))
        found = []
        for attention in ("mask", "positions", "rows"):
            trial = replace(reading, attention=attention)
            try:
                with refused_faults():
                    worst = self.gap(trial, texts, alone)
            except Refused as refused:
                found.append(str(refused))
                continue
            if worst <= self.tolerance:
                return trial
            found.append(f"a difference of {worst:.1e}")
        raise Refused(
            f"a text gets other hidden states beside others than alone, even in a row of its own that is filled up behind its "
            f"end ({found[-1]}, allowed {self.tolerance:.0e}): other rows or the length of the longest decide; {self.remedy()}"
        )

    def own(self, text: torch.Tensor) -> torch.Tensor:
        """(S, H): what the head is given in transformers' own forward pass of one text. Raises Refused."""
        with refused_faults(f"its own forward pass of a text of {len(text)} tokens fails: "), head_given(self.model) as kept:
            self.model(input_ids=text[None].to(self.device), use_cache=False)
        if len(kept) != 1 or kept[0].shape[:-1].numel() != len(text):
            shapes = ", ".join(str(tuple(states.shape)) for states in kept) or "never called"
            raise Refused(f"its head is not called once with a state a token ({shapes}, for {len(text)} tokens); {KNOWN}")
        return kept[0].reshape(len(text), -1)

    def noise(self, text: torch.Tensor, alone: torch.Tensor) -> float:
        """How much the same text differs in a batch of two. Raises Refused if that is more than rounding."""
        with refused_faults("its own forward pass of two texts fails: "), head_given(self.model) as kept:
            self.model(input_ids=torch.stack((text, text)).to(self.device), use_cache=False)
            both = kept[0].reshape(2, len(text), -1)
        worst = float(max(distance(both[0], alone).max(), distance(both[1], alone).max()))
        if worst > MOST_NOISE:
            raise Refused(f"it says something else of the same text each time, a difference of {worst:.1e}; {KNOWN}")
        return worst

    def require_causal(self, texts: ProbeTexts, long: torch.Tensor, begin: torch.Tensor) -> None:
        """Raises Refused if a position of the long text depends on tokens behind it, or on their being there."""
        length = len(begin)
        altered = self.own(texts.altered)[:length]
        for other, what in ((altered, "other tokens"), (begin, "no tokens")):
            gap = distance(other, long[:length])
            if gap.max() > self.tolerance:
                raise Refused(
                    f"with {what} behind position {length - 1} of a text of {self.width}, position {int(gap.argmax())} changes "
                    f"by {float(gap.max()):.1e} (allowed {self.tolerance:.0e}): it sees the future; {self.remedy()}"
                )

    def require_all_tokens(self, of_long: "Choices", of_short: "Choices") -> None:
        """Raises Refused if the model chooses among the tokens of a text as long as a block.

        Scores are often equal (those that a ReLU has emptied), and which of them is chosen then depends on how many there are.
        """
        known = {size for size, _ in of_short.made}
        few = [(size, chosen) for size, chosen in of_long.made if chosen < size and size not in known]
        if few:
            raise Refused(
                f"it chooses {few[0][1]} among {few[0][0]} tokens or blocks of tokens of a text of {self.width}, and which of "
                f"equal ones depends on the length of the text; {self.remedy()}"
            )

    def which_states(self, text: torch.Tensor, alone: torch.Tensor) -> Literal["body", "head"]:
        """Whether the body's last hidden states are what the head is given."""
        if self.model.base_model is self.model:
            return "head"
        try:
            states = last_states(self.model, Reading(self.width), {"input_ids": text[None].to(self.device)})
            return "body" if distance(states[0], alone).max() <= self.tolerance else "head"
        except FAULTS:
            return "head"

    def gap(self, reading: Reading, texts: ProbeTexts, alone: list[torch.Tensor]) -> float:
        """The largest difference of a position in packed blocks to the same position in its text alone."""
        model, collate = self.model, BlockCollator(texts.table(), self.pad_id)
        # Compared before the scale, which is the head's.
        note(model, reading=replace(reading, scale=1.0))
        worst = 0.0
        # A batch of whole blocks alone has no mask.
        for rows, expected in ((np.array([0, 1]), alone), (np.array([0]), alone[:1])):
            hidden = hidden_states(model, collate(rows).to(self.device)).view(len(rows), self.width, -1)
            begin = [0, 0, *np.cumsum([len(text) for text in texts.short])[:-1]]
            for number, states in enumerate(expected):
                place = slice(int(begin[number]), int(begin[number]) + len(states))
                worst = max(worst, float(distance(hidden[min(number, 1), place], states).max()))
        return worst

    def remedy(self) -> str:
        config = self.model.config
        for key in ("is_decoder", "causal"):
            if getattr(config, key, None) is False:
                return f"set {key}: true in its config, or choose another architecture"
        more = options_of(config, SPARSE_OPTIONS, ", or raise ", " to preprocess.block_tokens")
        return f"choose another architecture{more}; {KNOWN}"


SPARSE_OPTIONS = ("index_topk", "indexer_budget")


def require_training_pass(model: PreTrainedModel, pad_id: int) -> None:
    """Raises ParamsError if the model reads blocks to be scored and not to be trained (Reformer, of some lengths)."""
    width, was_training = reading_of(model).block_tokens, model.training
    texts = ProbeTexts.draw(model.config, len(head_of(model).weight), width, pad_id, pad_id, seed=0)
    batch = BlockCollator(texts.table(), pad_id)(np.arange(2)).to(next(model.parameters()).device)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), numpy_untouched(), refused_faults():
            hidden_states(model.train(), batch)
    except Refused as refused:
        raise ParamsError(
            f"model {model.config.model_type} ({type(model).__name__}) reads blocks of {width} tokens in evaluation and not in "
            f"training: {refused}"
        ) from None
    finally:
        model.train(was_training)


def note_idle_weights(model: PreTrainedModel, table: BlockTable, pad_id: int) -> None:
    """Find out whether some weights get no gradient from a batch of text, which ddp has to know."""
    reading, was_training = reading_of(model), model.training
    model.eval()
    batch = BlockCollator(table, pad_id)(np.arange(1)).to(next(model.parameters()).device)
    head = head_of(model)
    head.logits(hidden_states(model, batch)[:1]).sum().backward()
    idle = any(weight.requires_grad and weight.grad is None for weight in model.parameters())
    model.zero_grad(set_to_none=True)
    model.train(was_training)
    note(model, reading=replace(reading, idle=idle))
