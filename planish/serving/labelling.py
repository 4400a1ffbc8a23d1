"""The logged images that are most worth a label: those the model is least sure of, of every class it gave, none twice."""

from __future__ import annotations

import csv
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

from PIL import Image

from planish.errors import BundleError, DataError
from planish.serving.monitor import records
from planish.serving.recorder import IMAGES

MANIFEST = "labels.csv"


def worth_labelling(log: Path, out: Path, count: int) -> int:
    """Copy such images to ``out``, with a ``labels.csv`` whose labels are to be filled in.

    They are taken from the classes in turn, so that one hard class does not push out the others, nor the images in which nothing was found.
    B. Settles, Active learning literature survey, 2009 (uncertainty sampling).

    Args:
        log: folder of a service's log.
        out: folder for the images; must not exist.
        count: at most that many.

    Returns:
        How many there are.

    Raises:
        DataError: no images were logged.
        BundleError: ``out`` exists.
    """
    if out.exists():
        raise BundleError(f"{out} exists already", "labels that somebody filled in are not overwritten", "choose another --out")
    files = {file.name: file for file in log.rglob(f"{IMAGES}/*")}  # replicas have folders of their own
    logged = {record["image"]: record for record in records(log) if record.get("image") in files}
    kept = list(logged.values())
    if not kept:
        raise DataError(f"{log} holds no images", "images are kept only when asked for", "planish serve --log FOLDER --log-images 1000")
    out.mkdir(parents=True)
    chosen = _in_turn(kept)[:count]
    with (out / MANIFEST).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "predicted", "confidence"])
        for number, record in enumerate(chosen):
            source = files[record["image"]]
            with Image.open(source) as image:
                name = f"{number:04d}.{(image.format or 'image').lower()}"
            shutil.copyfile(source, out / name)
            writer.writerow([name, "", record.get("class", ""), f"{record['confidence']:.3f}" if "confidence" in record else ""])
    return len(chosen)


def _in_turn(logged: list[dict[str, Any]]) -> list[dict[str, Any]]:
    places: dict[str, int] = defaultdict(int)
    ranked = []
    for record in sorted(logged, key=_doubt, reverse=True):
        named = record.get("class", "")  # where nothing was found there may be something that was overlooked
        ranked.append((places[named], -_doubt(record), record))
        places[named] += 1
    return [record for _, _, record in sorted(ranked, key=lambda one: one[:2])]


def _doubt(record: dict[str, Any]) -> float:
    """How unsure the model was."""
    found: float = record.get("entropy", 1 - record.get("confidence", 1))
    return found
