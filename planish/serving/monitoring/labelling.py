"""Selection of logged images to label: the most uncertain predictions of each class, without duplicates."""

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
    """Copy the logged images with the most uncertain predictions to a new folder.

    The folder has a ``labels.csv`` with a column of labels to fill in. For models that predict boxes it has a COCO file instead, with
    the predicted boxes to be corrected.

    Images are taken from the predicted classes in turn, so that one hard class does not crowd out the others, or the images without
    detections. B. Settles, Active learning literature survey, 2009 (uncertainty sampling).

    Args:
        log: folder of a service's log.
        out: folder for the images; must not exist.
        count: maximum number of images.
        bundles: select predictions of these bundles, named as in ``planish serve``; not needed if the log is of one model.

    Returns:
        The number of images copied.

    Raises:
        DataError: no images were logged, or images of several models, which may have different classes and tasks, and no ``bundles`` are
            given.
        BundleError: ``out`` exists.
    """
    if out.exists():
        raise BundleError(f"{out} exists already", "labels that somebody filled in are not overwritten", "choose another --out")
    files = {file.name: file for file in log.rglob(f"{IMAGES}/*")}  # each replica has its own folder
    wanted = {name for name, _ in named_bundles(bundles)}
    of_wanted = (record for record in records(log) if not wanted or record["model"] in wanted)
    logged = {record["image"]: record for record in of_wanted if record.get("image") in files}
    kept = list(logged.values())
    if len(models := sorted({record["model"] for record in kept})) > 1 and not wanted:
        raise DataError(f"{log} has images of the models {', '.join(models)}", "they are labelled apart", "give the bundle of one of them")
    if not kept:
        raise DataError(f"{log} holds no images", "images are kept only when asked for", "planish serve --log FOLDER --log-images 1000")
    with whole(out) as partial:
        partial.chmod(0o700)  # readable by the owner only, as in the log
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
        except (OSError, DataError):  # the service has deleted it in the meantime, or it is damaged
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
    """Return the predictions in COCO format, with an additional ``score``."""
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
    """Sort records so that classes alternate, the most uncertain record of each class first."""
    places: dict[str, int] = defaultdict(int)
    ranked = []
    for record in sorted(logged, key=_doubt, reverse=True):
        named = record.get("class", "")  # without detections the class is empty: objects may have been missed
        ranked.append((places[named], -_doubt(record), record))
        places[named] += 1
    return [record for _, _, record in sorted(ranked, key=lambda one: one[:2])]


def _doubt(record: dict[str, Any]) -> float:
    """Return the uncertainty of a prediction."""
    found: float = record.get("entropy", 1 - record.get("confidence", 1))
    return found
