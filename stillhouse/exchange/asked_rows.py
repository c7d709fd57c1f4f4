"""Writes the rows that need soft labels: ids and texts of a classifier's training rows, token ids of a language model's.

python -m stillhouse.exchange.asked_rows rows.jsonl
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillhouse.core.artifacts import DATA
from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.options import Options, say
from stillhouse.core.params import PARAMS_FILE, named_kind, read_yaml

if TYPE_CHECKING:
    from stillhouse.kinds.protocol import Kind

SOURCE = DATA / "preprocess" / "source"


def own_kind() -> "Kind":
    """The kind that params.yaml names."""
    return named_kind(read_yaml(PARAMS_FILE), str(PARAMS_FILE))


def task_here() -> Any:
    """The task that `preprocess` wrote. Raises ArtifactError where it has not run."""
    from stillhouse.models.kinds import models_of

    return models_of(own_kind().name).read_task(SOURCE)


def asked_rows(task: Any, of_classes: bool) -> Iterator[dict[str, Any]]:
    """What has to be labelled: `id` and `text` (none of pictures), or `input_ids`, every sequence of tokens once."""
    if of_classes:
        texts = getattr(task.train, "texts", None)
        for number, name in enumerate(task.train.ids.to_pylist()):
            yield {"id": name} if texts is None else {"id": name, "text": texts[number].as_py()}
        return
    from stillhouse.targets.next_token.export_soft_labels.import_tokens import segments_of

    seen: set[bytes] = set()
    for row in range(len(task.train)):
        for key, tokens in segments_of(task.train, row):
            if key not in seen:
                seen.add(key)
                yield {"input_ids": tokens.tolist()}


def main() -> None:
    parser = Options("stillhouse.exchange.asked_rows", __doc__)
    parser.add_argument("file", type=Path, help="where to; ends in .jsonl, .parquet or (classifiers) .csv")
    path = parser.parse_args().file
    with one_line_errors("asked_rows"):
        from stillhouse.exchange.row_files import write_rows

        count = write_rows(path, asked_rows(task_here(), own_kind().target.of_classes))
        say(f"{path}: {count:,} rows")


if __name__ == "__main__":
    main()
