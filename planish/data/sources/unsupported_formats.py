"""Annotation formats that are recognized but not supported, for error messages and inventories."""

from __future__ import annotations

import re
from pathlib import Path

from planish.files.reading import require_regular

_HEAD = 1 << 16  # bytes read from the start of a file
PANOPTIC = "COCO panoptic JSON"
_JSON = (
    ("labelme JSON", (rb'"shapes"\s*:', rb'"(imagePath|imageHeight)"\s*:')),
    ("VIA JSON", (rb'"(_via_img_metadata|_via_settings|_via_image_id_list)"\s*:',)),
    ("VIA JSON", (rb'"regions"\s*:', rb'"filename"\s*:')),
    (PANOPTIC, (rb'"segments_info"\s*:',)),
    ("Label Studio JSON", (rb'"(annotations|completions)"\s*:', rb'"from_name"\s*:')),
    ("Supervisely JSON", (rb'"objects"\s*:', rb'"(classTitle|classId)"\s*:')),
    ("CreateML JSON", (rb'"coordinates"\s*:', rb'"(image|imagefilename)"\s*:')),
    ("Datumaro JSON", (rb'"items"\s*:', rb'"dm_format_version"|"attr"\s*:')),
    ("Labelbox JSON", (rb'"(data_row|Labeled Data|DataRow ID)"\s*:',)),
)
_XML = (("CVAT XML", (rb"<annotations\b", rb"<(image|track|meta)\b")), ("dlib XML", (rb"<dataset\b", rb"<images\b")))


def foreign_format(file: Path) -> str | None:
    """The name of the annotation format of a file if it is recognized but not supported, otherwise None; reads the first 64 KiB."""
    kinds = {".json": _JSON, ".xml": _XML}.get(file.suffix.lower())
    if kinds is None:
        return None
    try:
        require_regular(file)
        with file.open("rb") as opened:
            head = opened.read(_HEAD)
    except OSError:
        return None
    return next((name for name, patterns in kinds if all(re.search(pattern, head) for pattern in patterns)), None)
