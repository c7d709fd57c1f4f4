"""A set of labels as one text: so it stands in the column `label` of canonical tables, where other rows have their class.

`["anger", "joy"]` is a set of two, `[]` the empty set, and an empty text says that the labels are not known.
"""

import json
from collections.abc import Iterable

UNKNOWN = ""


def written_set(names: Iterable[str]) -> str:
    """The text of a set: equal sets have equal texts."""
    return json.dumps(sorted(set(names)), ensure_ascii=False)


def names_of_set(text: str) -> list[str]:
    """The labels in the text of a set; none where they are not known."""
    return json.loads(text) if text != UNKNOWN else []
