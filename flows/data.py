"""`make data FILE=...`: look into own data, put them into `data/raw`, tracked by DVC, and write their block into params.yaml.

    python -m flows.data train.csv --label category

FILE is a file, a folder, a pattern ('parts/*.csv') or an archive. What it is, which file is which split and which column is
which is guessed where the guess is sure, and asked otherwise; `tasks.propose` does that. Nothing is written before all of it
is known to be readable. Data of the same name are replaced as a whole, if DVC has them as they are.
"""

import argparse
import json
import os
import shlex
from pathlib import Path
from typing import Any

from flows.intake.own_params import Plan, plan, reads, values_of, write
from flows.intake.placing import add
from flows.intake.staging import MODELS, RAW, StagingFolder, staged
from flows.repository.commands import ask, reason_of
from flows.repository.workspace import repository_root
from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.errors import DataError
from stillhouse.core.options import Options
from stillhouse.kinds.registry import KINDS

PLAIN = ("train", "training", "data", "dataset", "all", "texts", "text", "corpus", "input", "full", "labelled", "labeled")
"""Names of files that say nothing of what they are about: their folder's name does."""


def propose(root: Path, stage: StagingFolder, options: dict[str, str | None]) -> dict[str, Any]:
    """What `tasks.propose` says of the data. Raises DataError with its reason, in the names that the user knows."""
    words = ["python", "-m", "tasks.propose", "--raw", str(stage.folder), stage.names["file"]]
    named = {option: name for option, name in stage.names.items() if option != "file"}
    for option, value in {**named, **options}.items():
        words += [f"--{option}", value] if value else []
    done, failure = ask(*words, cwd=root)
    if done.returncode == 0:
        return json.loads(done.stdout)
    reason = failure["message"] if failure else f"tasks.propose failed: {reason_of(done)}"
    raise DataError(reason.replace(f"{stage.folder}/", ""))


def is_model(place: Path) -> bool:
    """Whether a file or folder holds weights, and no data: as save_pretrained writes them, an adapter's, or GGUF."""
    if not place.is_dir():
        return place.suffix.lower() == ".gguf"
    names = {path.name for path in place.iterdir()}
    weights = any(name.endswith((".safetensors", ".safetensors.index.json", ".bin", ".gguf")) for name in names)
    return "adapter_config.json" in names or ("config.json" in names and weights)


def title_of(given: str, label: str | None = None) -> str:
    """A title for the report, from the name of the file or of its folder, or from what the classes are called."""
    path = Path(os.path.abspath(given.split("*")[0] or "."))  # noqa: PTH100
    stem = path.name.split(".")[0] if path.name else ""
    if stem.lower() in PLAIN and path.parent.name and path.parent != Path.cwd() and path.parent.name != RAW.name:
        stem = path.parent.name
    elif stem.lower() in PLAIN and label:
        stem = label
    return f"{stem.replace('_', ' ').strip() or 'Own data'}, distilled"


def show(changes: Plan) -> None:
    """The lines of params.yaml that change."""
    if changes.recipe:
        print(
            f"params.yaml takes the values of recipes/{changes.recipe}.yaml, which are for this kind of model; own data in it:"
        )
    print(changes.diff if not changes.recipe else block_of(changes.after), end="")


def block_of(text: str) -> str:
    """The block `ingest` of a params file."""
    lines = text.splitlines(keepends=True)
    start = next((number for number, line in enumerate(lines) if line.startswith("ingest:")), len(lines))
    end = next((number for number in range(start + 1, len(lines)) if not lines[number].startswith((" ", "#"))), len(lines))
    return "".join(lines[start:end])


def add_only(root: Path, stage: StagingFolder, said: str) -> None:
    """Add the data, and leave params.yaml as it is."""
    for line in [*add(root, stage), said]:
        print(line)


def make_data(options: argparse.Namespace, root: Path) -> None:
    """Everything that `make data` does. Raises StillhouseError, with nothing written, if it cannot."""
    given = {"file": options.file, "validation": options.validation, "test": options.test}
    given = {option: path for option, path in given.items() if path}
    asked = {name: getattr(options, name) for name in ("text", "label", "image", "document", "encoding", "kind")}
    with staged(root, given or {"file": ""}) as stage:
        place = RAW / stage.names["file"]
        if is_model(stage.folder / stage.names["file"]):
            raise DataError(
                f"{options.file} is a model, not data: 'make model FROM={options.file}' puts it into data/raw/models, on which "
                "trainings depend"
            )
        if MODELS.name in stage.tops():
            raise DataError(
                f"{MODELS} is where 'make model' puts pretrained models; give your data another name than '{MODELS.name}'"
            )
        if (stage.folder / stage.names["file"] / "tokenizer.json").is_file():
            add_only(root, stage, f"{place}: a tokenizer, tracked by DVC; 'preprocess.tokenizer.pretrained: {place}' names it")
            return
        if options.keep_params or (not any(asked.values()) and reads(root, list(stage.names.values()))):
            places = ", ".join(str(RAW / top) for top in stage.tops())
            add_only(root, stage, f"{places}: tracked by DVC; params.yaml stays as it is")
            return
        proposal = propose(root, stage, asked)
        title = options.title or title_of(options.file, proposal["source"].get("label"))
        values = values_of(proposal["kind"], proposal["source"], proposal["preprocess"], title)
        changes = plan(root, proposal["kind"], values)
        for fact in proposal["facts"]:
            print(fact)
        if changes.edited and not options.yes:
            show(changes)
            raise DataError(
                f"params.yaml has edits that are not committed ({', '.join(changes.edited)}) and would be overwritten as "
                "shown; YES=1 does it, nothing was written yet"
            )
        for line in add(root, stage):
            print(line)
        if changes.after == changes.before:
            print("params.yaml says so already")
        else:
            write(root, changes)
            show(changes)
        places = shlex.join(f"{RAW / top}.dvc" for top in stage.tops())
        print(f"\nnext: make distill    (and to keep it: git add params.yaml {places} && git commit)")


def main() -> None:
    parser = Options("flows.data", "Put own data into data/raw, tracked by DVC, and their block into params.yaml.")
    parser.add_argument(
        "file", nargs="?", default="", help="file, folder, pattern or archive to train on; a folder may hold all splits"
    )
    parser.add_argument("--validation", help="file or folder to choose weights by (default: cut out of the training rows)")
    parser.add_argument("--test", help="file or folder to test on (default: cut out of the training rows)")
    parser.add_argument("--text", help="column with the text (default: guessed)")
    parser.add_argument("--label", help="column with the class (default: guessed)")
    parser.add_argument("--image", help="column with the picture or its path (default: guessed)")
    parser.add_argument("--document", help="column that the rows of one document share, for language models")
    parser.add_argument("--encoding", help="of texts that are not UTF-8, for example cp1252")
    parser.add_argument("--kind", choices=list(KINDS), help="default: by what lies there")
    parser.add_argument("--title", help="title of the report (default: from the name of the file)")
    parser.add_argument("--yes", action="store_true", help="overwrite edits of params.yaml that are not committed")
    parser.add_argument("--keep-params", action="store_true", help="add the data, and leave params.yaml as it is")
    options = parser.parse_args()
    with one_line_errors("data"):
        make_data(options, repository_root())


if __name__ == "__main__":
    main()
