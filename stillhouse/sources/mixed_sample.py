"""The embedded sample with several languages in a text: messages of `sources.sample`, one to three behind each other.

A text's labels are the languages of its messages, or their regional varieties. Messages are dealt to training, validation and
test before they are joined, so that none of them stands on two sides, in neither task.
"""

# pandas' own annotations infer unions that do not hold: a column "may be" a table, a sum a column.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

import numpy as np
import pandas as pd

from stillhouse.core.hashing import mix, salt, text_keys, uniform
from stillhouse.core.label_sets import written_set
from stillhouse.sources.label_set_column import complete_sets
from stillhouse.sources.label_set_sources import MixedSample
from stillhouse.sources.sample import labelled_messages, sample_package

HELD_OUT_SHARE = 0.1
OTHERS_SHARE = 0.05
"""Of the messages in languages that `labels` does not name, so many are there too: texts may be in none of the languages."""
SECOND, THIRD = 0.6, 0.2
"""Shares of the texts with a second message, and with a third."""


def read_mixed(source: MixedSample) -> tuple[pd.DataFrame, dict]:
    """Canonical table and origin of one of the tasks. Raises DataError for a label that there is not."""
    messages = labelled_messages(varieties=source.task == "mixed_varieties")[["label", "text"]]
    if source.labels is not None:
        named = messages["label"].isin(source.labels).to_numpy()
        messages = messages[named | (uniform(text_keys(messages["text"]), salt("others")) < OTHERS_SHARE)]
    table = mixed(messages)
    origin = {
        "kind": "sample",
        "task": source.task,
        "package": f"Django {sample_package().version}",
        "licence": "BSD-3-Clause",
    }
    return complete_sets(table, f"the sample's task '{source.task}'", source.labels, source.max_rows), origin


def mixed(messages: pd.DataFrame) -> pd.DataFrame:
    """Columns `text`, `label` (a set as text) and `split`: as many texts as messages, each of which begins one."""
    chance = uniform(text_keys(messages["text"]), salt("mixed"))
    sides = np.select([chance < HELD_OUT_SHARE, chance < 2 * HELD_OUT_SHARE], ["test", "validation"], "train")
    parts = []
    for side in ("train", "validation", "test"):
        part = messages[sides == side]
        keys = text_keys([f"{label}\0{text}" for label, text in zip(part["label"], part["text"], strict=True)])
        texts, labels = part["text"].to_numpy(dtype=object), part["label"].to_numpy(dtype=object)
        many = uniform(keys, salt("messages"))
        # Each message comes once as the first, and at most once as the second and the third.
        second, third = (np.argsort(mix(keys, salt(name)), kind="stable") for name in ("second", "third"))
        rows = []
        for number, share in enumerate(many):
            chosen = [number, int(second[number]), int(third[number])][: 1 + int(share < SECOND) + int(share < THIRD)]
            rows.append((" ".join(texts[chosen]), written_set(labels[chosen])))
        parts.append(pd.DataFrame(rows, columns=["text", "label"]).assign(split=side))
    return pd.concat(parts, ignore_index=True)
