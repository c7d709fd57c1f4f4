"""Under which licence a model stands, as far as the files beside it say."""

from importlib.metadata import Distribution
from pathlib import Path

from ruamel.yaml import YAML, YAMLError

UNKNOWN = "unknown"
FIRST_WORDS = {
    "apache license": "apache-2.0",
    "mit license": "mit",
    "gnu general public license": "gpl",
    "gnu affero general public license": "agpl",
    "mozilla public license": "mpl",
    "bsd 3-clause": "bsd-3-clause",
    "bsd 2-clause": "bsd-2-clause",
}
"""How the texts of common licences begin."""
FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "COPYING")


def licence_beside(folder: Path) -> tuple[str, str] | None:
    """The licence and the file that says so: the card's front matter, or a file with the licence's text."""
    if said := front_matter(folder / "README.md"):
        return said, "README.md"
    for name in FILES:
        path = folder / name
        if path.is_file():
            lines = [line.strip(" #*=") for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
            first = next((line for line in lines if line), "")
            known = next((short for words, short in FIRST_WORDS.items() if first.lower().startswith(words)), first[:80])
            return known or UNKNOWN, name
    return None


def front_matter(card: Path) -> str | None:
    """`license` between the two lines of dashes at the top of a card; its own name where that is 'other'."""
    if not card.is_file():
        return None
    head, *rest = card.read_text(encoding="utf-8", errors="replace").split("\n---", 1)
    if not rest or not head.startswith("---"):
        return None
    try:
        tree = YAML(typ="safe", pure=True).load(head.removeprefix("---"))
    except YAMLError:
        return None
    tree = tree if isinstance(tree, dict) else {}
    said = tree.get("license")
    said = tree.get("license_name") or said if said == "other" else said
    return ", ".join(map(str, said)) if isinstance(said, list) else str(said) if said else None


def licence_of_package(package: Distribution) -> str | None:
    """What a package says in its metadata: an expression, a name, or a classifier."""
    known = package.metadata
    for said in (*(known.get_all("License-Expression") or []), *(known.get_all("License") or [])):
        if said and said != "UNKNOWN":
            # Some packages give the whole text.
            return said.splitlines()[0][:80]
    classifiers = [each for each in known.get_all("Classifier") or [] if each.startswith("License :: ")]
    return classifiers[0].rpartition(" :: ")[2] if classifiers else None
