"""Addresses of repositories on the Hugging Face Hub."""

from __future__ import annotations

import re
from dataclasses import dataclass

from planish.errors import HubError

SCHEME = "hf://"
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_ADDRESS = re.compile(rf"hf://({_PART}/{_PART})(?:@([A-Za-z0-9][A-Za-z0-9._/-]{{0,199}}))?/?")
_ON_THE_SITE = re.compile(rf"(?:https?://)?(?:www\.)?huggingface\.co/({_PART}/{_PART})/?")


@dataclass(frozen=True)
class HubAddress:
    """A model repository: ``hf://OWNER/NAME``, or ``hf://OWNER/NAME@REVISION``.

    Args:
        repository: owner and name: ``ada/garments``.
        revision: branch, tag or commit; None for the main branch.
    """

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{SCHEME}{self.repository}" + (f"@{self.revision}" if self.revision else "")

    @classmethod
    def parse(cls, text: str) -> HubAddress:
        """Read an address.

        Raises:
            HubError: it is not one.

        Example:
            >>> HubAddress.parse("hf://ada/garments@v1")
            HubAddress(repository='ada/garments', revision='v1')
        """
        if found := _ADDRESS.fullmatch(text):
            return cls(found[1], found[2])
        meant = _ON_THE_SITE.fullmatch(text) or re.fullmatch(rf"({_PART}/{_PART})", text)
        example = meant[1] if meant else "user/name"
        raise HubError(
            f"{text!r} is not the address of a repository", "it is hf://OWNER/NAME, or hf://OWNER/NAME@REVISION", f"write hf://{example}"
        )


def is_hub_address(text: object) -> bool:
    """Whether a text is an address on the Hub instead of a path."""
    return isinstance(text, str) and text.startswith(SCHEME)
