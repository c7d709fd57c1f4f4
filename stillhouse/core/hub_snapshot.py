"""Files of a model on the Hugging Face hub, at a pinned revision."""

import re
from pathlib import Path

from stillhouse.core.checkout import local_folder
from stillhouse.core.errors import HubError, ParamsError


def snapshot(name: str, allow_patterns: list[str]) -> Path:
    """Local folder with the files of `name`, written `owner/model@commit`; one in the checkout that git ignores, as it is.

    Raises ParamsError if the commit is not pinned, HubError if the hub does not answer.
    """
    if folder := local_folder(name):
        return folder
    repository, _, revision = name.partition("@")
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise ParamsError(f"'{name}' is not a local folder, and a hub id needs its commit: 'owner/model@<40 hex digits>'")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=allow_patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise HubError(
            f"'{name}' could not be fetched ({type(error).__name__}: {reason}); check name, commit and network, "
            "or name a local folder"
        ) from None
