"""Download of a bundle from the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path


def pull(repository: str, folder: str | Path) -> Path:
    """Download a bundle from a repository on the Hugging Face Hub, and check its hashes.

    Args:
        repository: hf://OWNER/NAME, or hf://OWNER/NAME@REVISION for a branch, a tag or a commit.
        folder: Output folder for README.md and bundle/; must not exist.

    Returns:
        The folder.

    Raises:
        BundleError: the folder exists, or the repository holds no bundle, or a damaged one.
        HubError: there is no such repository, or the Hub cannot be reached.

    Example:
        $ planish pull hf://user/photos photos-model
    """
    from planish.hub.address import HubAddress
    from planish.hub.repository import pull as download

    return download(HubAddress.parse(repository), Path(folder))
