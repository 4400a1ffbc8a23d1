"""Make text safe to print and store: file names may not be valid UTF-8, and JSON may contain lone surrogates."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_UNPRINTABLE_IN_MESSAGES = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def printable(text: str) -> str:
    """Replace control characters (except line breaks and tabs) and bytes that are not valid UTF-8 by ``%XX``.

    >>> printable(os.fsdecode(b"caf\\xe9.png"))
    'caf%E9.png'
    """
    return _UNPRINTABLE_IN_MESSAGES.sub(_escaped, text)


def printable_names(names: Iterable[str]) -> dict[str, str]:
    """Map names that cannot be printed on one line or stored as UTF-8 to printable names, distinct from all other names.

    >>> printable_names(["one", "t\\two", "t%09wo"])
    {'t\\two': 't%2509wo'}
    """
    unique = dict.fromkeys(names)
    taken = {name for name in unique if not _UNPRINTABLE.search(name)}
    found = {}
    for name in unique:
        if name in taken:
            continue
        shown = _UNPRINTABLE.sub(_escaped, name)
        while shown in taken:
            shown = shown.replace("%", "%25")
        taken.add(shown)
        found[name] = shown
    return found


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    raw = os.fsencode(character) if "\udc80" <= character <= "\udcff" else character.encode("utf-8", "surrogatepass")
    return "".join(f"%{byte:02X}" for byte in raw)
