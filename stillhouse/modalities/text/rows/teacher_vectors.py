"""A student whose token vectors begin as what its teacher makes of each token's text alone.

As model2vec does (van Dongen & Tulkens 2024, https://github.com/MinishLab/model2vec): every token of the student's tokenizer is
read by the teacher as a text of its own, and the principal components of the answers are its first vector. Frequent tokens
count for more in the components, by how often they occur in the training rows.

Shapes: V tokens of the student's vocabulary, H size of its vectors, D size of the teacher's states.
"""

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedModel

from stillhouse.core.errors import ParamsError
from stillhouse.data.tokenizer import load_tokenizer
from stillhouse.data.views import WHOLE_ROWS
from stillhouse.modalities.text.rows.text_batches import Collator
from stillhouse.modalities.text.rows.text_task import TextTask
from stillhouse.modalities.text.table.tokens import table_of_rows
from stillhouse.models.head import head
from stillhouse.runtime.distributed import Ranks
from stillhouse.runtime.model_types import on_device

BATCH = 256
RARE = 1e-3
"""The constant of smooth inverse frequency: a token of this share of the text has half of a rare one's weight."""


def start_from_teacher(
    student: PreTrainedModel, task: TextTask, teacher: PreTrainedModel, teacher_task: TextTask, ranks: Ranks
) -> None:
    """Replace the student's random token vectors. Raises ParamsError if they are longer than the teacher's states."""
    vectors = student.get_input_embeddings()
    if not isinstance(vectors, nn.Embedding):
        raise ParamsError(
            f"train_student.start: {type(student).__name__} has no table of token vectors that could start from the teacher; "
            "set it to null"
        )
    texts = texts_of_tokens(load_tokenizer(task.folder.parent / "processor"), task)
    known = np.flatnonzero([bool(text) for text in texts])
    states_KD = states_of([texts[token] for token in known], teacher, teacher_task, ranks)
    counts_V = np.bincount(task.train.tokens, minlength=len(texts)).astype(np.float64)
    size = vectors.embedding_dim
    if size > states_KD.shape[1]:
        raise ParamsError(
            f"train_student.start: the student's vectors have {size} numbers and the teacher's states {states_KD.shape[1]}; "
            "lower student.model.config.hidden_size to at most that, or set start to null"
        )
    first_KH = principal_components(states_KD, counts_V[known] + 1, size)
    with torch.no_grad():
        # As long as the random ones, for which the rates are.
        spread = vectors.weight.std()
        vectors.weight[known] = torch.from_numpy(first_KH / first_KH.std()).to(vectors.weight) * spread
        importance = getattr(getattr(student, "embeddings", None), "importance", None)
        if isinstance(importance, nn.Embedding):
            shares_V = counts_V / max(counts_V.sum(), 1)
            importance.weight[: len(texts), 0] = torch.from_numpy(np.log(RARE / (RARE + shares_V))).to(importance.weight)


def texts_of_tokens(tokenizer: Tokenizer, task: TextTask) -> list[str]:
    """What each token stands for, by id; "" for special tokens, parts of characters, and ids that there are not."""
    special = {*task.facts.prefix, *task.facts.suffix, task.facts.pad_id}
    special |= {number for number, added in tokenizer.get_added_tokens_decoder().items() if added.special}
    texts = []
    for number in range(task.facts.vocab_size):
        piece = tokenizer.id_to_token(number)
        text = "" if piece is None or number in special else tokenizer.decode([number], skip_special_tokens=False)
        text = text.strip().removeprefix("##")
        texts.append("" if "\ufffd" in text else text)
    return texts


@torch.no_grad()
def states_of(texts: list[str], teacher: PreTrainedModel, task: TextTask, ranks: Ranks) -> np.ndarray:
    """float64 (K, D): what the teacher's head is given of each text."""
    tokenizer = load_tokenizer(task.folder.parent / "processor")
    rows = [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
    table = table_of_rows(rows, np.full(len(rows), -1), task.train.room)
    collate = Collator(table, task.facts, WHOLE_ROWS, seed=0)
    seen: list[torch.Tensor] = []
    _, last = head(teacher)
    handle = last.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    on_device(teacher, ranks.device).eval()
    order = np.argsort(table.lengths, kind="stable")
    try:
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            teacher(**collate(chosen, np.full(len(chosen), -1)).to(ranks.device).inputs)
    finally:
        handle.remove()
    states = torch.cat([each.float().reshape(-1, each.shape[-1]).cpu() for each in seen]).double().numpy()
    result = np.empty_like(states)
    result[order] = states
    return result


def principal_components(states_KD: np.ndarray, weights_K: np.ndarray, size: int) -> np.ndarray:
    """float64 (K, H): the states along the directions in which, weighted, they differ most; the largest number of each
    direction is above 0, so that it is the same one everywhere."""
    shares_K1 = (weights_K / weights_K.sum())[:, None]
    centred_KD = states_KD - (shares_K1 * states_KD).sum(0)
    _, directions_DD = np.linalg.eigh((shares_K1 * centred_KD).T @ centred_KD)
    chosen_DH = directions_DD[:, ::-1][:, :size]
    signs_H = np.sign(chosen_DH[np.abs(chosen_DH).argmax(0), np.arange(size)])
    return centred_KD @ (chosen_DH * signs_H)
