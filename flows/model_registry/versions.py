"""The registry. Versions are annotated tags in gto's form (`student@v0.0.3`) on a run's commit; nothing else keeps it."""

from dataclasses import dataclass
from pathlib import Path

from gto.api import find_latest_version
from gto.exceptions import ArtifactNotFound, GTOException

from flows.model_registry.outputs import PromotionError

ARTIFACT = "student"
"""Its entry in `dvc.yaml: artifacts`."""


@dataclass(frozen=True)
class Version:
    """A promoted version."""

    tag: str
    commit: str


def promoted(root: Path) -> Version | None:
    """The promoted version: the highest one that was not taken back. None before the first promotion."""
    try:
        version = find_latest_version(root, ARTIFACT)
    except ArtifactNotFound:
        return None
    except GTOException as error:
        raise PromotionError(f"the registry cannot be read: {error}; 'gto show {ARTIFACT}' tells more") from error
    return Version(version.ref, version.commit_hexsha) if version else None
