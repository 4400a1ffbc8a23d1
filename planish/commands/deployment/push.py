"""Publishing of a bundle on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path


def push(
    bundle: str | Path,
    repository: str,
    *,
    license: str | None = None,
    intended_use: str | None = None,
    public: bool = False,
) -> str:
    """Upload a bundle to a repository on the Hugging Face Hub, with a model card made from its measurements.

    The card, README.md of the repository, is written anew each time. The token is that of `hf auth login` or HF_TOKEN; it is never printed.

    Args:
        bundle: Folder of a bundle or a run. It contains image files, the golden samples.
        repository: hf://OWNER/NAME, created if there is none; hf://OWNER/NAME@BRANCH for an existing branch.
        license: Licence of the weights by the Hub's name, such as apache-2.0; by default the card states none.
        intended_use: Text of the card's section on intended use; by default made from the task and the dataset.
        public: Make a new repository public; by default it is private.

    Returns:
        The address of the commit.

    Raises:
        BundleError: there is no bundle, or it was changed since it was made.
        HubError: there is no token, the Hub cannot be reached, or it refuses.

    Example:
        $ planish push runs/photos hf://user/photos --license apache-2.0
    """
    from planish.hub.address import HubAddress
    from planish.hub.card import CardSettings
    from planish.hub.repository import push as upload

    return upload(Path(bundle), HubAddress.parse(repository), CardSettings(license, intended_use), public=public)
