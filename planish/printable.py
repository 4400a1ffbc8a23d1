"""Text that can be printed and stored: file names need not be UTF-8, and JSON may hold half a character (a lone surrogate)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_UNPRINTABLE_IN_MESSAGES = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def printable(text: str) -> str:
    """A message without control characters (line breaks and tabs stay) and without bytes that are not UTF-8; each becomes ``%XX``.

    >>> printable(os.fsdecode(b"caf\\xe9.png"))
    'caf%E9.png'
    """
    return _UNPRINTABLE_IN_MESSAGES.sub(_escaped, text)


def printable_names(names: Iterable[str]) -> dict[str, str]:
    """Names by those that cannot be printed on one line or stored as UTF-8. All are different, and different from the other names.

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
