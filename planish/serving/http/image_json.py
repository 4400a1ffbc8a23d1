"""Images in JSON, as base64: ``{"image": "..."}``, and several as ``{"instances": [{"b64": "..."}, ...]}``.

The latter is what KServe's V1 protocol and TensorFlow Serving's REST API take ("Encoding binary values"):
https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol and https://www.tensorflow.org/tfx/serving/api_rest.
"""

from __future__ import annotations

import json
import re
from typing import Any

from planish.errors import DataError
from planish.serving.http.base64_text import decode

_LONG = 256  # longer strings are images, and are not parsed by ``json`` with the rest
_MOST_JSON = 65_536  # bytes besides the images; Python objects need up to twenty times the memory of their JSON text
_DEEPEST = 100  # levels of nesting; Python's own limit depends on the libraries in the process
_IGNORED = "signature_name"  # sent by TensorFlow clients
_PLACEHOLDER = re.compile(r"\0([0-9]{1,9})")
# Line breaks, and characters that some JSON encoders escape. ``json`` would hold the interpreter lock for a long string of escapes.
_ESCAPES = {
    rb"\/": b"/", rb"\n": b"", rb"\r": b"", rb"\t": b"", rb"\u003d": b"=", rb"\u003D": b"=", rb"\u002b": b"+", rb"\u002B": b"+",
    rb"\u002f": b"/", rb"\u002F": b"/",
}  # fmt: skip
_RULE = 'an image is base64 or a data URL, as {"image": "..."} or {"instances": [{"b64": "..."}]}'
_PIXELS = "pixels as numbers go to /v2/models/NAME/infer"


def images_in_json(text: bytes, max_images: int) -> tuple[list[bytes], bool]:
    """Return the image files in a request's JSON, and whether they were in a list.

    An object with a single member is replaced by that member, whatever its name; ``signature_name`` is ignored.

    Args:
        text: JSON. Parsing large JSON is slow; call this in a thread.
        max_images: maximum number of images.

    Raises:
        DataError: it is not JSON, has no images, too many images, or other fields.
    """
    short, strings = _without_long_strings(text, max_images)
    try:
        if _depth(short) > _DEEPEST:
            raise RecursionError
        value = json.loads(short, strict=False)  # accepts unescaped line breaks in base64
    except (ValueError, RecursionError) as error:
        raise DataError("the request is not JSON", _RULE) from error
    value = _unwrapped(value, "the request")
    several = isinstance(value, list)
    items = value if several else [value]
    if not items:
        raise DataError("the request has no images", _RULE)
    if len(items) > max_images:
        raise _too_many(len(items), max_images)
    found = []
    for number, item in enumerate(items, 1):
        where = f"image {number}" if several else "the image"
        string = _unwrapped(item, where)
        if not isinstance(string, str):
            raise DataError(f"{where} is a {_KINDS.get(type(string), 'number')}", _RULE, _PIXELS)
        try:
            found.append(_decode(string, text, strings))
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
    return found, several


def _depth(text: bytes) -> int:
    """Return how deeply lists and objects are nested, ignoring strings."""
    deepest = depth = 0
    for found in re.finditer(rb'"(?:[^"\\]|\\.)*"|([\[{])|[\]}]', text, re.DOTALL):
        if not found[0].startswith(b'"'):
            depth += 1 if found[1] else -1
            deepest = max(deepest, depth)
    return deepest


def _without_long_strings(text: bytes, most: int) -> tuple[bytes, list[slice]]:
    """Return the JSON with placeholders for its long strings, and the positions of these strings."""
    short, strings, position, kept = list[bytes](), list[slice](), 0, 0
    while (start := text.find(b'"', position)) >= 0 and (end := _closing_quote(text, start)) >= 0:
        is_long = end - start > _LONG
        if is_long:
            short += [text[position:start], b'"\\u0000%d"' % len(strings)]
            strings.append(slice(start + 1, end))
        else:
            short.append(text[position : end + 1])
        position = end + 1
        kept += len(short[-1]) + (len(short[-2]) if is_long else 0)
        if kept > _MOST_JSON:
            break
        if len(strings) > most:
            raise _too_many(len(strings), most)
    if kept + len(text) - position > _MOST_JSON:
        raise DataError(f"more than {_MOST_JSON} bytes of JSON beside the images", _RULE, _PIXELS)
    return b"".join((*short, text[position:])), strings


def _closing_quote(text: bytes, start: int) -> int:
    """Return the end of the string that begins at ``start``; -1 if it has no end."""
    end = start
    while (end := text.find(b'"', end + 1)) >= 0:
        string = text[start + 1 : end]
        if (len(string) - len(string.rstrip(b"\\"))) % 2 == 0:  # the quotation mark is not escaped
            return end
        if end - start > _LONG:
            raise DataError("a long string with a quotation mark in it", _RULE)
    return -1


def _unwrapped(value: Any, where: str) -> Any:
    """Return the only member of an object, repeatedly; other values unchanged."""
    while isinstance(value, dict):
        members = {name: member for name, member in value.items() if name != _IGNORED}
        if len(members) != 1:
            named = ", ".join(repr(name[:30]) for name in list(members)[:5]) or "nothing"
            raise DataError(f"{where} has {named}", _RULE, "options go into the address, as in /predict?threshold=0.5")
        (value,) = members.values()
    return value


def _decode(string: str, text: bytes, strings: list[slice]) -> bytes:
    """Return the image file of a string or placeholder."""
    placeholder = _PLACEHOLDER.fullmatch(string)
    if placeholder and int(placeholder[1]) < len(strings):
        found = text[strings[int(placeholder[1])]]
        for escape, character in _ESCAPES.items() if b"\\" in found else ():
            found = found.replace(escape, character)
        return decode(found)
    return decode(string.encode("ascii", "replace"))


def _too_many(count: int, most: int) -> DataError:
    return DataError(f"{count} images", f"a request may bring {most}", "send several requests")


_KINDS = {list: "list", type(None): "null", bool: "boolean"}
