"""What to ask a completions server of a row, and how its answer becomes a row of a file of labels."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from stillhouse.core.errors import DataError, ParamsError

TEXT, LABEL = "{text}", "{label}"


@dataclass(frozen=True)
class ClassQuestion:
    """How likely a model finds each class as what stands in a prompt: the log-probabilities of the prompts with each class
    filled in, from the first token on in which they differ, as a softmax.

    That is the distribution of the classes given that one of them follows (Brown et al. 2020, arXiv:2005.14165, sec. 2.4).
    Where one class is the beginning of another, something should follow in the prompt, a line end or a full stop.
    """

    prompt: str
    classes: list[str]

    def __post_init__(self) -> None:
        if self.prompt.count(TEXT) != 1 or self.prompt.count(LABEL) != 1:
            raise ParamsError(
                f"the prompt must have {TEXT} once, where a row's text goes, and {LABEL} once, where a class goes"
            )
        if self.prompt.index(LABEL) < self.prompt.index(TEXT):
            raise ParamsError(f"the prompt has {LABEL} before {TEXT}: the class must come behind what it is judged by")

    def body(self, row: dict[str, Any]) -> dict[str, Any]:
        before, after = self.prompt.split(LABEL)
        shown = before.replace(TEXT, row["text"])
        return {"prompt": [shown + name + after for name in self.classes], "max_tokens": 0, "echo": True, "logprobs": 1}

    def estimate(self, row: dict[str, Any]) -> int:
        """Tokens, at four bytes each."""
        return sum(len(prompt.encode()) for prompt in self.body(row)["prompt"]) // 4 + 1

    def labels(self, row: dict[str, Any], choices: list[dict[str, Any]]) -> dict[str, Any]:
        """A row of the file. Raises DataError for an answer without log-probabilities of the prompt."""
        where = f"row {row['id']}"
        if len(choices) != len(self.classes):
            raise DataError(f"the server gave {len(choices)} answers to {len(self.classes)} prompts ({where})")
        said = [choice.get("logprobs") or {} for choice in choices]
        tokens: list[list[str]] = [each.get("tokens") or [] for each in said]
        values: list[list[float]] = [each.get("token_logprobs") or [] for each in said]
        if not all(t and len(t) == len(v) for t, v in zip(tokens, values, strict=True)):
            raise DataError(
                f"the server gives no log-probabilities of the prompt ({where}); it must know 'echo' with 'logprobs', as "
                "vLLM does"
            )
        shared = shared_beginning(tokens)
        scores = []
        for each in values:
            if None in each[shared:] or shared == len(each):
                raise DataError(
                    f"the prompts of the classes do not share their beginning ({where}); begin the prompt with some words, and "
                    "let classes differ"
                )
            scores.append(float(np.sum(each[shared:], dtype=np.float64)))
        top = max(scores)
        log_probs = np.array(scores) - (top + np.log(np.exp(np.array(scores) - top).sum()))
        return {"id": row["id"], "text": row["text"], "classes": self.classes, "logprobs": log_probs.tolist()}


def shared_beginning(tokens: list[list[str]]) -> int:
    """How many tokens all lists begin with alike."""
    count = 0
    for column in zip(*tokens, strict=False):
        if len({*column}) > 1:
            break
        count += 1
    return count


@dataclass(frozen=True)
class TokenQuestion:
    """The likeliest ids at every token of a sequence, which is given as ids: no other tokenizer comes between."""

    top: int

    def body(self, row: dict[str, Any]) -> dict[str, Any]:
        return {
            "prompt": row["input_ids"],
            "max_tokens": 0,
            "echo": True,
            "logprobs": self.top,
            # vLLM's own: log-probabilities by id, where the API has them by text, which several ids may share.
            "prompt_logprobs": self.top,
            "return_tokens_as_token_ids": True,
        }

    def estimate(self, row: dict[str, Any]) -> int:
        return len(row["input_ids"])

    def labels(self, row: dict[str, Any], choices: list[dict[str, Any]]) -> dict[str, Any]:
        """A row of the file, in vLLM's columns. Raises DataError for an answer that names no ids."""
        length = len(row["input_ids"])
        where = f"a row of {length} tokens"
        choice = choices[0] if choices else {}
        said = choice.get("prompt_logprobs")
        if said is not None:
            kept = [each and {name: {"logprob": value["logprob"]} for name, value in each.items()} for each in said]
        else:
            top = (choice.get("logprobs") or {}).get("top_logprobs") or []
            kept = [each and {of_token(name): {"logprob": value} for name, value in each.items()} for each in top]
        if len(kept) < length or any(not each for each in kept[1:length]):
            raise DataError(
                f"the server gave log-probabilities for {len(kept)} of the tokens of {where}; vLLM needs --max-logprobs "
                f"{self.top} or more, and --no-enable-prefix-caching, which leaves them out for what it has seen"
            )
        return {"input_ids": row["input_ids"], "prompt_logprobs": [None, *kept[1:length]]}


def of_token(name: str) -> str:
    """The id in `token_id:123`. Raises DataError for a token that is named by its text."""
    prefix, _, number = name.partition(":")
    if prefix != "token_id" or not number.isdecimal():
        raise DataError(
            "the server names tokens by their text, which several ids may share; start it so that it gives 'prompt_logprobs' "
            "or 'token_id:...' (vLLM does, with --return-tokens-as-token-ids where older)"
        )
    return number
