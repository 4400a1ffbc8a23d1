"""The logged images that are most worth a label: those the model is least sure of, of every class it gave, none twice."""

from __future__ import annotations

import csv
import json
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from planish.data.annotations.annotated_image import AnnotatedImage
from planish.data.annotations.validation import size_of
from planish.data.cache.files import whole
from planish.data.preprocessing import FORMATS, image_damage_reported
from planish.errors import BundleError, DataError
from planish.files.reading import open_bounded
from planish.serving.monitoring.recorder import IMAGES
from planish.serving.monitoring.records import records
from planish.serving.serve import named_bundles

MANIFEST, ANNOTATIONS = "labels.csv", "_annotations.coco.json"


def find_label_candidates(log: Path, out: Path, count: int, bundles: Sequence[str | Path] = ()) -> int:
    """Copy such images to ``out``, with a ``labels.csv`` whose labels are to be filled in; of a model of boxes with a COCO file instead,
    which holds the model's own boxes to be corrected.

    They are taken from the classes in turn, so that one hard class does not push out the others, nor the images in which nothing was found.
    B. Settles, Active learning literature survey, 2009 (uncertainty sampling).

    Args:
        log: folder of a service's log.
        out: folder for the images; must not exist.
        count: at most that many.
        bundles: whose predictions are taken, named as ``planish serve`` was given them; not needed where the log is of one model.

    Returns:
        How many there are.

    Raises:
        DataError: no images were logged, or those of several models, which may have other classes and tasks.
        BundleError: ``out`` exists.
    """
    if out.exists():
        raise BundleError(f"{out} exists already", "labels that somebody filled in are not overwritten", "choose another --out")
    files = {file.name: file for file in log.rglob(f"{IMAGES}/*")}  # replicas have folders of their own
    wanted = {name for name, _ in named_bundles(bundles)}
    of_wanted = (record for record in records(log) if not wanted or record["model"] in wanted)
    logged = {record["image"]: record for record in of_wanted if record.get("image") in files}
    kept = list(logged.values())
    if len(models := sorted({record["model"] for record in kept})) > 1 and not wanted:
        raise DataError(f"{log} has images of the models {', '.join(models)}", "they are labelled apart", "give the bundle of one of them")
    if not kept:
        raise DataError(f"{log} holds no images", "images are kept only when asked for", "planish serve --log FOLDER --log-images 1000")
    with whole(out) as partial:
        partial.chmod(0o700)  # as the log's images, for their owner alone
        return _write(partial, kept, files, count)


def _write(out: Path, kept: list[dict[str, Any]], files: dict[str, Path], count: int) -> int:
    chosen, names = list[dict[str, Any]](), dict[str, str]()
    for record in _in_turn(kept):
        if len(chosen) == count:
            break
        source = files[record["image"]]
        try:
            with image_damage_reported(), open_bounded(source) as stream, Image.open(stream, formats=FORMATS) as image:
                name = f"{len(chosen):04d}.{(image.format or 'image').lower()}"
            size_of(AnnotatedImage(name, source, None))
            shutil.copyfile(source, out / name)
        except (OSError, DataError):  # the service has replaced it by a newer one, or it is damaged
            continue
        chosen.append(record)
        names[record["image"]] = name
    if any("boxes" in record for record in kept):
        (out / ANNOTATIONS).write_text(json.dumps(_coco(out, chosen, names)), encoding="utf-8")
        return len(chosen)
    with (out / MANIFEST).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "predicted", "confidence"])
        for record in chosen:
            confidence = f"{record['confidence']:.3f}" if "confidence" in record else ""
            writer.writerow([names[record["image"]], "", record.get("class", ""), confidence])
    return len(chosen)


def _coco(folder: Path, chosen: list[dict[str, Any]], names: dict[str, str]) -> dict[str, Any]:
    """What the model said of the images, in COCO's words, with its ``score``."""
    classes = sorted({one["class"] for record in chosen for one in record.get("boxes", [])})
    images, annotations = [], list[dict[str, Any]]()
    for number, record in enumerate(chosen):
        name = names[record["image"]]
        height, width = size_of(AnnotatedImage(name, folder / name, None))
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for one in record.get("boxes", []):
            left, top, right, bottom = (share * side for share, side in zip(one["shares"], (width, height) * 2, strict=True))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": classes.index(one["class"]) + 1,
                    "bbox": [round(value, 2) for value in (left, top, right - left, bottom - top)],
                    "iscrowd": 0,
                    "score": round(one["confidence"], 4),
                }
            )
    return {"images": images, "categories": [{"id": i + 1, "name": name} for i, name in enumerate(classes)], "annotations": annotations}


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
