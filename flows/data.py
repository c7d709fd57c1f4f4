"""`make data FILE=...`: copy own data into `data/raw`, tracked by DVC.

python -m flows.data train.csv
"""

import shutil
from pathlib import Path

from flows.workspace import command, repository_root
from stillhouse.core.errors import DataError
from stillhouse.core.options import Options
from stillhouse.core.stage import one_line_errors


def add(name: str, root: Path) -> Path:
    """Copy a file or folder into `data/raw` and `dvc add` it; returns where it lies now, relative to `root`."""
    source = Path(name)
    if not name or not source.exists():
        raise DataError(f"{name or 'FILE'} does not exist; usage: make data FILE=path/to/train.csv")
    target = root / "data" / "raw" / source.name
    if source.resolve() != target.resolve():
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True, copy_function=replace)
        else:
            # DVC may have made the old file read-only.
            target.unlink(missing_ok=True)
            shutil.copyfile(source, target)
    place = target.relative_to(root)
    command("dvc", "add", "--quiet", str(place), cwd=root)
    return place


def replace(source: str, place: str) -> str:
    """Copy a file to a place where DVC may have put a link into its cache: that would be written through."""
    Path(place).unlink(missing_ok=True)
    return shutil.copy2(source, place)


def main() -> None:
    parser = Options("flows.data", "Copy own data into data/raw, tracked by DVC.")
    parser.add_argument("file", nargs="?", default="", help="a file or folder; one of its name in data/raw is replaced")
    options = parser.parse_args()
    with one_line_errors("data"):
        place = add(options.file, repository_root())
        print(f"{place} is tracked; commit {place}.dvc, then in params.yaml, for example:")
        print("  ingest:")
        print(f"    source: {{kind: files, train: {place.name}, text: text, label: label}}")


if __name__ == "__main__":
    main()
