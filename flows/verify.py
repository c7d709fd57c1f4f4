"""Is what lies in this clone what DVC has recorded? Hashes the recorded files of the checkout, and all of the cache.

    python -m flows.verify              # names what is damaged, and exits with 1 if something is
    python -m flows.verify --remove     # takes them out of checkout and cache; 'dvc pull' or 'dvc repro' brings them back

DVC takes what it pulls for what its name says (`stillhouse/core/recorded_files.py`), unless its remote says `verify = true`:
'dvc remote modify NAME verify true'.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flows.repository.workspace import cache_folder, repository_root
from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.errors import ArtifactError
from stillhouse.core.options import Options
from stillhouse.core.recorded_files import READERS, Damage, damages, file_md5, message_of, recorded_data


def damaged_objects(cache: Path) -> Iterator[Damage]:
    """What in the cache is not what its name says; runs of other checkouts may use it."""
    places = sorted(path for path in (cache / "files" / "md5").glob("??/*") if path.is_file() and is_object(path))
    with ThreadPoolExecutor(READERS) as readers:
        for place, md5 in zip(places, readers.map(file_md5, places), strict=True):
            name = place.parent.name + place.name
            if md5 != name.removesuffix(".dir"):
                yield Damage(f"files/md5/{place.parent.name}/{place.name}", name, "its name in the DVC cache")


def is_object(path: Path) -> bool:
    """Not what DVC has not finished writing."""
    return len(path.parent.name + path.name.removesuffix(".dir")) == 32


def remove(root: Path, cache: Path, found: list[Damage]) -> None:
    """Take damaged files out of the checkout and the cache."""
    for damage in found:
        path = root / damage.path
        # Of a folder whose list is damaged nothing is known.
        for name in [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]:
            name.unlink(missing_ok=True)
        (cache / damage.object).unlink(missing_ok=True)


def main() -> None:
    parser = Options("flows.verify", "Hold the recorded data of this clone against what DVC has recorded.")
    parser.add_argument("--remove", action="store_true", help="take damaged files out of the checkout and the cache")
    parser.add_argument("--no-cache", action="store_true", help="look at the checkout alone, and say nothing if all is well")
    options = parser.parse_args()
    with one_line_errors("verify"):
        root = repository_root()
        recorded = recorded_data(root)
        cache = cache_folder(root)
        files = damages(root, recorded)
        named = {damage.expected for damage in files}
        # A file and its object in the cache are one fault.
        found = files + [each for each in ([] if options.no_cache else damaged_objects(cache)) if each.expected not in named]
        if not found:
            if not options.no_cache:
                print(f"all well: {len(recorded)} outputs and own files of this checkout, and all of the cache in {cache}")
        elif options.remove:
            remove(root, cache, found)
            for damage in found:
                print(f"removed: {damage.path}")
            print("'dvc pull' or 'dvc repro' brings them back")
        else:
            raise ArtifactError(message_of(found))


if __name__ == "__main__":
    main()
