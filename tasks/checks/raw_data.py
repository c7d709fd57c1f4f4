"""Whether own data are there, with the columns that parameters name, and with enough rows for a batch.

Only the beginnings of files are read.
"""

from typing import Any

from stillhouse.core.errors import DataError, StillhouseError
from stillhouse.preprocessing.kinds import preprocessing_of
from stillhouse.sources.kinds import ingestion_of


def notes_on_batches(tree: dict[str, Any], rows: int | None) -> list[str]:
    """What to say of trainings whose batch is larger than all training rows that there may be, or whose warm-up never ends.

    rows: an upper bound, of bytes for documents.
    """
    notes, preprocessing = [], preprocessing_of(tree["kind"])
    if rows is not None:
        rows = preprocessing.most_rows(rows, tree["preprocess"])
    for key in ("train_teacher", "student"):
        training = tree[key]["training"]
        if training is None:
            continue
        batch, steps, warmup = training["batch_size"], training["steps"], training["schedule"].get("warmup_steps", 0)
        if rows is not None and batch != "full" and batch > rows:
            notes.append(
                f"'{key}.training.batch_size' is {batch}, and there are at most {rows:,} training {preprocessing.UNIT}: each "
                f"step shows all of them, some more than once; {max(1, rows // 4)} or less would learn more in as many steps"
            )
        if 2 * warmup > steps:
            notes.append(
                f"'{key}.training.schedule.warmup_steps' is {warmup} of {steps} steps: the learning rate rises for most of the "
                "training"
            )
    return notes


def notes_on_same_data(tree: dict[str, Any], ingest: Any) -> list[str]:
    """What to say where the target task reads the very data of the source task: fine-tuning then teaches nothing new."""
    source, new = ingest.source, ingest.new
    places = ("train", "files", "dataset", "task")
    read = [[getattr(each, name, None) for name in places] for each in (source, new)]
    if new is None or source.kind != new.kind or read[0] != read[1] or source.labels != new.labels:
        return []
    few = tree["finetune"].get("examples_per_class")
    rows = f"{few} rows of each class" if few else "the same rows"
    return [
        f"'ingest.new' reads the same data as 'ingest.source', and what is shipped is then fine-tuned on {rows} of them; set "
        "'ingest.new: null' to ship the distilled student itself"
    ]


def check_own_data(tree: dict[str, Any], ingest: Any) -> list[str]:
    """Notes on the data of `ingest`. Raises DataError naming the block."""
    ingestion, rows = ingestion_of(tree["kind"]), {}
    for name, source in ingest.tasks.items():
        try:
            rows[name] = ingestion.check_data(source)
        except StillhouseError as error:
            raise DataError(f"'ingest.{name}': {error}") from None
    return [*notes_on_batches(tree, rows["source"]), *notes_on_same_data(tree, ingest)]
