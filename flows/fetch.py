"""The package of a promoted version, out of the cache or the DVC remote, held against what DVC has recorded of it.

    python -m flows.fetch                         # the promoted one, into the folder `student`
    python -m flows.fetch v1.0.0 --out package

`dvc get URL data/export_model/package --rev student@v1.0.0` does the same without a clone of the project, but believes what
the remote gives it, even if that is told to verify.
"""

import re
from pathlib import Path

from flows.model_registry.outputs import PACKAGE, PromotionError, bring
from flows.model_registry.versions import ARTIFACT, promoted
from flows.repository.workspace import command, repository_root
from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.errors import nearest
from stillhouse.core.options import Options


def version_tag(root: Path, name: str | None) -> str:
    """The tag of a version, given as `student@v1.0.0`, `v1.0.0` or `1.0.0`; of the promoted one without a name."""
    if name is None:
        version = promoted(root)
        if version is None:
            raise PromotionError("no version is promoted; 'git fetch --tags' brings those of the git remote")
        return version.tag
    tag = f"{ARTIFACT}@v{name.removeprefix(f'{ARTIFACT}@').removeprefix('v')}"
    tags = [each for each in command("git", "tag", "--list", f"{ARTIFACT}@v*", cwd=root).split() if re.search(r"\d$", each)]
    if tag not in tags:
        raise PromotionError(f"there is no version '{name}'{nearest(tag, tags)}; 'gto show {ARTIFACT}' lists them")
    return tag


def main() -> None:
    parser = Options("flows.fetch", "Fetch the package of a promoted version.")
    parser.add_argument("version", nargs="?", help="such as v1.0.0 (default: the promoted version)")
    parser.add_argument("--out", type=Path, default=Path(ARTIFACT), help="the folder to make (default: %(default)s)")
    options = parser.parse_args()
    with one_line_errors("fetch"):
        root = repository_root()
        tag = version_tag(root, options.version)
        out = options.out.resolve()
        if out.exists():
            raise PromotionError(f"{options.out} exists; remove it, or name another folder with --out")
        commit = command("git", "rev-parse", f"{tag}^{{commit}}", cwd=root)
        bring(root, commit, PACKAGE, out, tag, "run 'dvc push --all-tags' where it was promoted")
        print(f"{tag}: {options.out}")


if __name__ == "__main__":
    main()
