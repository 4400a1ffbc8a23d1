"""Forms with files, ``multipart/form-data`` (RFC 7578), parsed from a body in memory."""

from __future__ import annotations

import re
from dataclasses import dataclass

from planish.errors import DataError

_MOST_PARTS, _MOST_HEAD, _MOST_BOUNDARY = 1000, 8192, 200
_DISPOSITION = re.compile(rb"(?im)^content-disposition:\s*form-data\s*;(.*)$")
_VALUE = rb'\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;\s]*))'
_NAME, _FILE_NAME = re.compile(rb"(?i)(?:^|;)\s*name" + _VALUE), re.compile(rb"(?i)(?:^|;)\s*filename\*?" + _VALUE)
_BOUNDARY = re.compile(r'(?i);\s*boundary\s*=\s*(?:"([^"]*)"|([^;\s]*))')
_RULE = "a form has files: curl -F file=@photo.jpg"


@dataclass(frozen=True)
class Field:
    """One part of a form.

    Args:
        name: name of the field.
        is_file: whether it has a file name, which may be empty.
        file_name: file name as sent; only used in messages.
        data: content of the field.
    """

    name: str
    is_file: bool
    file_name: str
    data: bytes


def read_form(body: bytes, content_type: str) -> list[Field]:
    """Return the parts of a form, in order.

    Args:
        body: the whole body.
        content_type: header with the boundary; if the boundary is missing, as in requests whose type was set by hand, it is taken from
            the first line of the body.

    Raises:
        DataError: the body is not such a form, is truncated, or has too many parts.
    """
    delimiter = b"--" + _boundary(body, content_type)
    position = 0 if body.startswith(delimiter) else body.find(b"\r\n" + delimiter) + 2
    if position == 1:
        raise DataError("the form does not have its boundary", _RULE)
    fields = list[Field]()
    while True:
        position += len(delimiter)
        if body.startswith(b"--", position):
            return fields
        line_end = body.find(b"\r\n", position, position + _MOST_BOUNDARY)
        if line_end < 0 or body[position:line_end].strip(b" \t"):
            raise DataError("the form's boundary is damaged", _RULE)
        start, end = line_end, body.find(b"\r\n\r\n", line_end, line_end + _MOST_HEAD)
        position = body.find(b"\r\n" + delimiter, end + 2) + 2
        if end < 0 or position == 1:
            raise DataError("the form is cut off, or a part's head is too large", _RULE)
        if len(fields) == _MOST_PARTS:
            raise DataError(f"more than {_MOST_PARTS} parts", "a form may not have as many", "send several requests")
        fields.append(_field(body[start + 2 : end + 2].replace(b"\r\n", b"\n"), body[end + 4 : position - 2]))


def _boundary(body: bytes, content_type: str) -> bytes:
    given = _BOUNDARY.search(content_type)
    if given and (named := given[1] or given[2]):
        return named.encode("latin-1", "replace")[:_MOST_BOUNDARY]
    line = body[: body.find(b"\r\n", 0, _MOST_BOUNDARY) + 1].rstrip(b"\r ")
    if not line.startswith(b"--") or len(line) < 3:
        raise DataError("a form without a boundary", "its Content-Type names it, which clients do by themselves", _RULE)
    return line[2:]


def _field(head: bytes, data: bytes) -> Field:
    disposition = _DISPOSITION.search(head)
    if disposition is None:
        raise DataError("a part of the form has no Content-Disposition: form-data", _RULE)
    name, file = _NAME.search(disposition[1]), _FILE_NAME.search(disposition[1])
    return Field(_text(name), file is not None, _text(file), data)


def _text(found: re.Match[bytes] | None) -> str:
    return "" if found is None else (found[1] or found[2] or b"").decode("utf-8", "replace")[:100]
