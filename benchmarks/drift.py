"""How often the monitor cries wolf, and after how many images it notices what is there.

    .venv/bin/python benchmarks/drift.py [--data fashion-mnist] [--budget 5m] [--weeks 100] [--images 5000]

A network learns all classes but the last. Each simulated week draws a reference of 1000 images and a stream of others, all of which the
network never saw, independently (see drift_streams.py for streams that depend on themselves). Weeks without drift are just that. In the
others every image after the first 500 is darker, or blurred, or a class no longer comes, or a tenth of the images is of the class that was
never learned.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import gaussian_filter

from planish import commands
from planish.data import load_images
from planish.devices.machine import describe_machine
from planish.export.bundle.folder import REFERENCE
from planish.export.bundle.reference import CLASS, image_values
from planish.serving.monitoring.drift import Drift, DriftSettings
from planish.serving.serve import open_models

if TYPE_CHECKING:
    from planish.artifact import Pixels

RESULTS = Path(__file__).parent / "results"
REFERENCE_IMAGES, GOOD_IMAGES, REPEATS, NEW_SHARE, BLUR_PIXELS = 1000, 500, 20, 0.1, 0.7
MONDAY = 4 * 86_400
Said = list[tuple[dict[str, float], str]]


def write_files(data: str, folder: Path) -> str:
    """The images as files in ``known/``, split as they were, but those of the last class in ``new/``; returns that class."""
    images = load_images(data)
    new = images.class_names[-1]
    for split_name, split in images.splits.items():
        if split_name == "calibration":  # part of train
            continue
        for index, target in enumerate(split.targets):
            label = images.class_names[target]
            place = folder / ("new" if label == new else "known") / split_name / label
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{split_name}-{index:05d}.png").write_bytes(split.file_bytes(index))
    return new


def values_of(model: Any, images: Pixels) -> Said:
    """What the monitor is told of each image."""
    outputs = {"logits": np.concatenate([model.run(images[i : i + 1])["logits"] for i in range(len(images))])}
    found = image_values(model.bundle.task, model.bundle.class_names, images, outputs)
    return [(values, values[CLASS]) for values in found]


def changed(images: Pixels, how: str) -> Pixels:
    if how == "darker by a quarter":
        return (images * 0.75).round().astype(np.uint8)
    return gaussian_filter(images, (0, BLUR_PIXELS, BLUR_PIXELS, 0))


def week(folder: Path, model: Any, usual: Said, stream: Said) -> tuple[list[str], int | None]:
    """What was reported in a week, and after how many images the first time."""
    names = list(usual[0][0])
    reference = {
        "values": {name: [values[name] for values, _ in usual] for name in names},
        "classes": {name: sum(said == name for _, said in usual) for name in model.bundle.class_names},
    }
    (folder / REFERENCE).write_text(json.dumps(reference))
    drift, first = Drift(folder, DriftSettings(correlation_s=0)), None
    for number, (values, said) in enumerate(stream, 1):
        drift.add(values, said, MONDAY)
        if first is None and any(drift.drifted(kind) for kind in drift.kinds):
            first = number
    return [kind for kind in drift.kinds if drift.drifted(kind)], first


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--budget", default="5m")
    parser.add_argument("--weeks", type=int, default=100)
    parser.add_argument("--images", type=int, default=5000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        new_class = write_files(arguments.data, folder)
        trained = commands.train(folder / "known", model="resnet20", out=folder / "model", budget=arguments.budget)
        bundle = commands.export(folder / "model", folder / "known", to="onnx", out=folder / "bundle")
        model = open_models([bundle])[0]
        spec, preprocessing = model.bundle.input_spec, model.bundle.preprocessing
        splits = load_images(folder / "known").splits
        unseen = np.concatenate([splits[name].images(spec, preprocessing) for name in ("validation", "test")])
        files = sorted((folder / "new" / "test" / new_class).iterdir())
        said = {
            "as ever": values_of(model, unseen),
            "darker by a quarter": values_of(model, changed(unseen, "darker by a quarter")),
            "blurred": values_of(model, changed(unseen, "blurred")),
            "new class": values_of(model, np.concatenate([model.pixels(file.read_bytes(), 10**8)[0] for file in files])),
        }
        labels = np.concatenate([splits[name].targets for name in ("validation", "test")])
        rng = np.random.default_rng(0)
        found: dict[str, Any] = {"alarms": [], "noticed": {}}
        for number in range(arguments.weeks):
            drawn = rng.permutation(len(unseen))[: REFERENCE_IMAGES + arguments.images]
            pool = [said["as ever"][i] for i in drawn]
            reported, first = week(folder, model, pool[:REFERENCE_IMAGES], pool[REFERENCE_IMAGES:])
            found["alarms"] += [{"week": number, "of": reported, "image": first}] * bool(reported)
        for kind in ("darker by a quarter", "blurred", "missing class", "new class"):
            counts, kinds = [], []
            for _ in range(REPEATS):
                drawn = rng.permutation(len(unseen))[: REFERENCE_IMAGES + GOOD_IMAGES + arguments.images]
                pool = [said["as ever"][i] for i in drawn]
                later = drawn[REFERENCE_IMAGES + GOOD_IMAGES :]
                if kind == "missing class":
                    after = [said["as ever"][i] for i in later if labels[i] != 0]
                elif kind == "new class":
                    after = [said["new class"][rng.integers(len(files))] if rng.random() < NEW_SHARE else said["as ever"][i] for i in later]
                else:
                    after = [said[kind][i] for i in later]
                reported, first = week(
                    folder, model, pool[:REFERENCE_IMAGES], [*pool[REFERENCE_IMAGES : REFERENCE_IMAGES + GOOD_IMAGES], *after]
                )
                counts.append(None if first is None or first <= GOOD_IMAGES else first - GOOD_IMAGES)
                kinds += reported
            seen = sorted(count for count in counts if count is not None)
            found["noticed"][kind] = {
                "of": REPEATS,
                "in_time": len(seen),
                "median_images": float(np.median(seen)) if seen else None,
                "most_images": seen[-1] if seen else None,
                "by": {one: kinds.count(one) for one in sorted(set(kinds))},
            }
            print(kind, found["noticed"][kind], flush=True)
    found = {"data": arguments.data, "new_class": new_class, "accuracy": trained.metrics["accuracy"].value, "weeks": arguments.weeks,
             "images_a_week": arguments.images, "good_images_before": GOOD_IMAGES, "new_share": NEW_SHARE,
             "machine": describe_machine()} | found  # fmt: skip
    print(f"{len(found['alarms'])} of {arguments.weeks} weeks without drift gave an alarm")
    (RESULTS / "drift.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
