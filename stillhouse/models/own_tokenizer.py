"""Whether a pretrained model takes the pipeline's ids for what they are: its own tokenizer must be the pipeline's.

With another one every check of shapes passes, and the model learns from other words than were written.
"""

from pathlib import Path

from stillhouse.core.artifacts import MANIFEST, read_json
from stillhouse.core.checkout import local_folder
from stillhouse.core.errors import ArtifactError
from stillhouse.core.hub_snapshot import snapshot
from stillhouse.core.shipped import TEACHER
from stillhouse.data.pretrained_tokenizer import OLDER_FILES, read_tokenizer, require_room
from stillhouse.data.tokenizer import FILES, TokenizerFacts, frame_of
from stillhouse.data.tokenizer_identity import identity_of
from stillhouse.models.model_folders import weights_digest


def require_own_tokenizer(pretrained: str, facts: TokenizerFacts, task: Path, named: str | None = None) -> None:
    """Raises ArtifactError unless the model in a folder or at a hub id was trained with the tokenizer that `facts` are of.

    A model's tokenizer lies beside its weights, or its training's manifest says which one it was. task: the folder of the rows
    that were read by it; named: what messages call the model.
    """
    processor = task.parent / "processor"
    key = "preprocess.teacher.tokenizer" if task.parent.name == TEACHER.name else "preprocess.tokenizer"
    named = named or f"model.pretrained '{pretrained}'"
    folder = local_folder(pretrained) or snapshot(pretrained, [*FILES, *OLDER_FILES])
    tokenizer = read_tokenizer(folder, named)
    if tokenizer is None:
        found, ours = by_manifest(folder, named), facts.digest
    else:
        found, ours = identity_of(tokenizer, *frame_of(tokenizer, named)), facts.identity
    if found != ours:
        raise ArtifactError(
            f"{named} was trained with tokenizer {found[:12]}, {processor} is {ours[:12]}: its token ids mean something else; "
            f"set '{key}.pretrained' to its folder, or take a model of this tokenizer"
        )
    if tokenizer is not None:
        require_room(folder, tokenizer, named)


def by_manifest(folder: Path, named: str) -> str:
    """Digest of the tokenizer that a model was trained with, by its training's manifest. Raises ArtifactError without one."""
    manifest = folder.parent / MANIFEST
    if folder.name == "model" and manifest.is_file():
        known = read_json(manifest)
        if known.get("weights") == weights_digest(folder) and "tokenizer" in known.get("inputs", {}):
            return known["inputs"]["tokenizer"]
    raise ArtifactError(
        f"{named} says nothing of its tokenizer; expected tokenizer.json beside the weights, or the {MANIFEST} that a training "
        "stage writes, with these weights in it: copy the tokenizer that it was trained with into its folder"
    )
