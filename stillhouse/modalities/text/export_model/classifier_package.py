"""A classifier as it is shipped: everything between a raw text and its label lies in the package.

`tokenizer.json` normalises, cuts and pads; `config.json` names the labels in the order of the logits. What the card says to do
with them is `CODE`, word for word; `package_check` executes it on the raw text of every test row, and the gate judges by it.

Shapes: N rows, C classes.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer, PreTrainedModel

from stillhouse.core.artifacts import DATA, MANIFEST, digest_file, read_json, write_json
from stillhouse.core.shipped import Shipped
from stillhouse.data.tokenizer import FILES
from stillhouse.data.views import WHOLE_ROWS
from stillhouse.modalities.text.export_model import text_tables
from stillhouse.modalities.text.rows.text_task import TextTask, read_task
from stillhouse.modalities.text.table.tokens import read_tokens
from stillhouse.models.build import count_parameters
from stillhouse.models.positions import num_positions
from stillhouse.models.saved import load_model, save_model
from stillhouse.packaging import package_check as check
from stillhouse.packaging.onnx import export_onnx, session_of
from stillhouse.packaging.package import CARD, MODEL, describe, execute, requirement, write_description
from stillhouse.preprocessing.text_rules import cut_at
from stillhouse.runtime.distributed import Ranks
from stillhouse.runtime.predict import predict

BATCH = 64
NAMES = {"accuracy": "accuracy", "micro_f1": "micro-F1", "macro_f1": "macro-F1"}
READS_TEXTS = """\
import json
from pathlib import Path

import numpy as np
import onnxruntime
import tokenizers

config = json.loads(Path("config.json").read_text(encoding="utf-8"))
tokenizer = tokenizers.Tokenizer.from_file("tokenizer.json")
tokenizer.encode_special_tokens = True  # "[SEP]" in a text is text
session = onnxruntime.InferenceSession("model.onnx")


def logits_of(texts):
    rows = tokenizer.encode_batch(texts)
    ids = np.array([row.ids or [tokenizer.padding["pad_id"]] for row in rows], dtype=np.int64)
    mask = np.array([row.attention_mask or [1] for row in rows], dtype=np.int64)
    mask[:, 0] = 1  # a text without any token is one padding
    return session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]


"""
"""The part of a card's code that is alike for all models of texts: a list of texts to logits."""
CODE = f"""\
{READS_TEXTS}logits = logits_of(["a text"])
scores = np.exp((logits - logits.max(axis=1, keepdims=True)) / config["temperature"])
scores /= scores.sum(axis=1, keepdims=True)
labels = [config["labels"][number] for number in logits.argmax(axis=1)]
"""
"""What the card says to do."""

Answer = Callable[[Sequence[str]], np.ndarray]
"""Raw texts to logits, float32 (N, C)."""


@dataclass(frozen=True)
class CardForm:
    """What packages of two kinds of text models say otherwise."""

    kind: str
    code: str
    title: str
    verb: str
    """What it does with a text, in the first sentence."""
    noun: str
    """What it chooses from."""
    figures: tuple[str, ...]
    """Of the training, in the card's table."""
    served: str
    """What transformers' own pipeline gives of the same weights; `{options}` are to be put into its call."""
    settings: Callable[[PreTrainedModel], dict[str, Any]]
    """What stands in `config.json` beside what every package has."""
    answers: Callable[[np.ndarray, PreTrainedModel], np.ndarray]
    """Logits (N, C) to what is compared: (N,) or (N, C)."""


def open_package(package: Path, threads: int, code: str = CODE) -> Answer:
    """What a package answers to raw texts, by the card's code. Raises ArtifactError if its model does not run."""
    session = session_of(package / MODEL, threads)
    names = execute(code, package)
    # As many threads as the user allowed.
    names["session"] = session

    def answer(texts: Sequence[str]) -> np.ndarray:
        parts = [names["logits_of"](list(texts[start : start + BATCH])) for start in range(0, len(texts), BATCH)]
        return np.concatenate(parts).astype(np.float32)

    return answer


CLASSES = CardForm(
    kind="text_classification",
    code=CODE,
    title="Distilled text classifier",
    verb="Classifies a text into",
    noun="classes",
    figures=("accuracy", "macro_f1"),
    served='`pipeline("text-classification", "model"{options}, truncation=True)` gives the same labels',
    settings=lambda model: {},
    answers=lambda logits, model: logits.argmax(1),
)


def write_package(shipped: Shipped, package: Path, ranks: Ranks, *, opset: int, tolerance: float, threads: int) -> dict:
    """Fill `package`; returns its metrics. Raises ArtifactError if it answers a raw text otherwise than the pipeline."""
    return fill_package(CLASSES, shipped, package, ranks, opset=opset, tolerance=tolerance, threads=threads)


def fill_package(
    form: CardForm, shipped: Shipped, package: Path, ranks: Ranks, *, opset: int, tolerance: float, threads: int
) -> dict:
    """As `write_package`, for packages of a form."""
    task, test = read_task(shipped.data), read_tokens(shipped.data / "test.arrow")
    manifest = read_json(shipped.training / MANIFEST)
    model = load_model(shipped.training / "model")
    longest = copy_tokenizer(package, model, read_json(shipped.data / MANIFEST)["max_tokens"])
    export_onnx(model, package / MODEL, opset)
    write_json(package / "labels.json", task.labels)
    settings = {"kind": form.kind, "labels": task.labels, "max_tokens": longest, **form.settings(model)}
    write_description(package, describe(opset, manifest, **settings, preprocessing=task.preprocessing))

    raw = text_tables.raw_texts(shipped.table, test)
    answer = open_package(package, threads, form.code)
    hard = check.hard_texts(raw, check.special_names(package, task.facts))
    table = text_tables.table_of(hard, package, task.facts, longest)
    rows, names = [f"test row {number}" for number in test.ids.to_pylist()], [f"the text {text[:30]!r}" for text in hard]
    text_tables.require_equal_tokens(package, raw, test, task.facts, rows)
    text_tables.require_equal_tokens(package, hard, table, task.facts, names)
    expected, found = predict(model, test, task.collator(test, WHOLE_ROWS, 0), ranks), answer(raw)
    check.require_equal(expected, found, rows, tolerance)
    expected_hard = predict(model, table, task.collator(table, WHOLE_ROWS, 0), ranks)
    # In one batch, and each alone.
    check.require_equal(expected_hard, answer(hard), names, tolerance)
    check.require_equal(expected_hard, np.concatenate([answer([text]) for text in hard]), names, tolerance)
    check.require_any_shape(package / MODEL, model, task.facts.vocab_size, longest, tolerance, threads)

    differ = form.answers(found, model) != form.answers(expected, model)
    differ = differ if differ.ndim == 1 else differ.any(1)
    metrics = {
        "rows_compared": len(test),
        # A label may differ where two answers are as good as each other, within the tolerance.
        "rows_different": int(differ.sum()),
        "texts_tried": len(hard),
        "largest_difference": float(f"{np.abs(found - expected).max():.3g}"),
        "same_answer": float((~differ).mean()),
        "bytes": (package / MODEL).stat().st_size,
        "parameters": count_parameters(model),
    }
    write_card(form, package, task, metrics, shipped, longest, write_weights(form, model, package, [*raw, *hard]))
    return metrics


def copy_tokenizer(package: Path, model: PreTrainedModel, max_tokens: int) -> int:
    """The pipeline's tokenizer, which cuts where the model's positions end; returns how many tokens a text may have."""
    shutil.copytree(DATA / "preprocess" / "processor", package, dirs_exist_ok=True)
    longest = min(max_tokens, num_positions(model) or max_tokens)
    if longest < max_tokens:
        # No row of the pipeline was so long; somebody's text will be.
        cut_at(package, longest)
    return longest


def summary(metrics: dict) -> str:
    """What was compared, in a sentence."""
    return (
        f"{metrics['rows_compared']:,} raw test texts and {metrics['texts_tried']} odd ones: the package and the pipeline "
        f"differ by at most {metrics['largest_difference']:.1e}"
    )


def write_weights(form: CardForm, model: PreTrainedModel, package: Path, texts: list[str]) -> str:
    """`model/` for transformers, tokenizer and all, where it knows the architecture; returns what the card says of that."""
    kind = model.config.model_type
    if not type(model).__module__.startswith("transformers."):
        return (
            f"The architecture `{kind}` is Stillhouse's own, which transformers alone cannot load. With Stillhouse installed "
            f"it can, after `import {type(model).__module__}`, from the folder `model` of the training in the pipeline's "
            "`data`."
        )
    folder = package / "model"
    save_model(model, folder)
    for name in FILES:
        if (package / name).is_file():
            shutil.copyfile(package / name, folder / name)
    theirs, ours = AutoTokenizer.from_pretrained(folder), execute(form.code, package)["tokenizer"]
    ours.no_padding()
    same = theirs(texts, truncation=True)["input_ids"] == [encoding.ids for encoding in ours.encode_batch(texts)]
    tokenizer = "" if same else ', tokenizer=PreTrainedTokenizerFast.from_pretrained("model")'
    reason = "" if same else f" (of itself, transformers would make another tokenizer for `{kind}`)"
    return (
        f"`model/` holds the same weights for transformers: {form.served.format(options=tokenizer)}{reason}; without "
        "`truncation=True` longer texts are not cut."
    )


def write_card(
    form: CardForm, package: Path, task: TextTask, metrics: dict, shipped: Shipped, longest: int, loads: str
) -> None:
    """A model card: what it does, what it learned from, how good it is, how to run it."""
    origin = read_json(DATA / "ingest" / MANIFEST)[shipped.task]["origin"]
    manifest, training = read_json(shipped.training / MANIFEST), read_json(shipped.training / "metrics.json")
    shown = ", ".join(task.labels[:12]) + (" ..." if len(task.labels) > 12 else "")
    figures = "\n".join(f"| validation {NAMES[name]} | {training[f'validation_{name}']:.4f} |" for name in form.figures)
    text = f"""---
library_name: onnx
pipeline_tag: text-classification
license: {origin["licence"]}
---

# {form.title}

{form.verb} {len(task.labels)} {form.noun} ({shown}). {shipped.made} with Stillhouse.

| | |
|---|---|
| parameters | {metrics["parameters"]:,} |
| file | {metrics["bytes"]:,} bytes |
{figures}
| largest difference to torch | {metrics["largest_difference"]:.1e} on {metrics["rows_compared"]:,} test rows, from raw text |

Scores on test data stand in the pipeline's report.

## Use

```sh
{requirement("numpy", "onnxruntime", "tokenizers")}
```

```python
{form.code}```

Give it texts as they are. `tokenizer.json` does what was done in training ({task.preprocessing}{cut_note(task, longest)}) and
pads to the longest text of a call; `config.json` has labels, limits, versions and digests, as has the model's own metadata.

{loads}

## Where it comes from

| | |
|---|---|
| data | {origin["kind"]}: {origin.get("package") or origin.get("dataset") or origin.get("files")} |
| weights (SHA-256) | `{manifest["weights"]}` |
{shipped.origin_row(manifest)}
| training rows | `{manifest["inputs"]["data"]}` |
| tokenizer | `{manifest["inputs"]["tokenizer"]}` |
| ONNX file | `{digest_file(package / MODEL)}` |
"""
    (package / CARD).write_text(text, encoding="utf-8")


def cut_note(task: TextTask, longest: int) -> str:
    """Says so where the package cuts earlier than `preprocess` did."""
    return "" if f"cut at {longest} tokens" in task.preprocessing else f"; here at {longest}, the model's positions"
