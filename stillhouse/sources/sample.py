"""The embedded text sample: the translated messages in Django's wheel (BSD licence), read by path, never imported.

Task `languages`: which language is this text. Task `varieties`: which regional variety (es, es_AR, es_MX ...), from the
languages that have more than one. For causal language models the same wheel's source code: task `python`, and as the new
domain task `web`, its HTML and JavaScript.
"""

# pandas' own annotations infer unions that do not hold: a column "may be" a table, a sum a column.
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportOperatorIssue=false, reportReturnType=false

from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Literal

import pandas as pd
import polib

from stillhouse.core.errors import DataError, ParamsError
from stillhouse.core.params import block
from stillhouse.kinds.registry import with_classes
from stillhouse.preprocessing.tables import canonical, documents
from stillhouse.sources.source_blocks import SampleData

# Locales whose codes differ though readers of one read the other: they count as varieties of one language.
TOGETHER = {"nb": "no", "nn": "no", "dsb": "wen", "hsb": "wen"}
MIN_ROWS_OF_A_VARIETY = 200


@block
class SampleSource(SampleData):
    """The sample that needs no network and no account."""

    task: Literal["languages", "varieties", "python", "web"]
    """The last two are documents, for causal language models."""


SUFFIXES = {"python": (".py",), "web": (".html", ".js")}


def sample_package() -> Distribution:
    """Raises DataError if the wheel that holds the sample is not installed."""
    try:
        return distribution("Django")
    except PackageNotFoundError:
        raise DataError("the sample lies in the package Django, which is not installed; run 'make venv'") from None


def read_messages() -> pd.DataFrame:
    """All translated messages: columns `locale`, `text`; a text once per locale."""
    django = sample_package()
    catalogs = sorted(str(f) for f in django.files or [] if f.suffix == ".mo" and "/locale/" in str(f))
    rows = []
    for catalog in catalogs:
        locale = catalog.split("/locale/")[1].split("/")[0]
        for entry in polib.mofile(str(django.locate_file(catalog))):
            for text in entry.msgstr_plural.values() or [entry.msgstr]:
                # An untranslated message says nothing about the language, except in English itself.
                if text != entry.msgid or locale.startswith("en"):
                    rows.append((locale, text))
    table = pd.DataFrame(rows, columns=["locale", "text"])
    table = table[table["text"].str.strip() != ""]
    return table.drop_duplicates().sort_values(["locale", "text"], ignore_index=True)


def labelled_messages(varieties: bool) -> pd.DataFrame:
    """Columns `label`, `text` and others: each message once for its language, or for its regional variety."""
    messages = read_messages()
    if not varieties:
        messages = messages.assign(label=messages["locale"].str.split("_").str[0])
        return messages.drop_duplicates(["label", "text"])
    family = messages["locale"].str.split("_").str[0].replace(TOGETHER)
    size = messages.groupby("locale")["text"].transform("size")
    messages = messages.assign(label=messages["locale"], family=family)[size >= MIN_ROWS_OF_A_VARIETY]
    return messages[messages.groupby("family")["locale"].transform("nunique") > 1]


def read_sources(suffixes: tuple[str, ...]) -> pd.DataFrame:
    """Column `text`: every source file with one of the suffixes, minified ones left out, in the order of their names."""
    django = sample_package()
    names = sorted(str(f) for f in django.files or [] if str(f).endswith(suffixes) and ".min." not in str(f))
    return pd.DataFrame({"text": [Path(str(django.locate_file(name))).read_text(encoding="utf-8") for name in names]})


def read_sample(source: SampleSource, labelled: bool) -> tuple[pd.DataFrame, dict]:
    """Canonical table and origin of one of the tasks. Raises ParamsError if it has no labels where they are needed."""
    if labelled == (source.task in SUFFIXES):
        wanted, given = (with_classes(of_classes).name for of_classes in (not labelled, labelled))
        raise ParamsError(f"the sample's task '{source.task}' goes with kind {wanted}, and 'kind' is {given}")
    origin = {
        "kind": "sample",
        "task": source.task,
        "package": f"Django {sample_package().version}",
        "licence": "BSD-3-Clause",
    }
    if source.task in SUFFIXES:
        return documents(read_sources(SUFFIXES[source.task]).assign(split=""), source.max_rows), origin
    messages = labelled_messages(varieties=source.task == "varieties")
    table = canonical(messages.assign(split=""), f"the sample's task '{source.task}'", source.labels, source.max_rows)
    return table, origin
