"""Trees in aerial photos: four images, the largest to learn from, the others to test; MobileNetV2 that knows ImageNet, tiles.

    .venv/bin/python ../shared/fetch_data.py deepforest weights
    .venv/bin/python benchmarks/deepforest.py [--epochs 30] [--size 320]

All boxes are of one class, "tree" (the annotations say Tree, Alive or Dead). A band of the largest photo is for validation, which chooses
nothing here: the last weights are judged. Three photos are few: the interval is over their tiles, and says nothing of other forests.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from planish.data.annotations.validation import objects_of, size_of
from planish.data.annotations.voc import read_voc, voc_files
from planish.data.tiling.tiles import LargeImage, write_tiles
from planish.devices.machine import describe_machine
from planish.evaluation.evaluate import evaluate
from planish.evaluation.torch_predictor import TorchPredictor
from planish.settings import ModelSettings
from planish.training.original import train_original
from planish.training.prepare import prepare_job
from planish.training.recipe import load_recipe

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--tile", type=int, default=400, help="pixels of a tile")
    parser.add_argument("--size", type=int, default=320, help="pixels the model is fed")
    arguments = parser.parse_args()
    data = Path(os.environ.get("PLANISH_DATA") or "~/.cache/planish/data").expanduser()
    folder = data / "deepforest"
    noted, _ = read_voc(folder, voc_files(folder))
    images = []
    for item in noted:
        named = replace(item, objects=tuple(replace(o, label="tree") for o in item.objects))
        objects, faults = objects_of(named, *size_of(named), {"tree": 0}, masks=False)
        print(item.key, len(objects), "trees;", len(faults), "left out:", *faults[:2])
        images.append(LargeImage(item.key, item.path, objects, None))
    largest = max(images, key=lambda image: image.target.width * image.target.height)
    images = [replace(image, split="train" if image is largest else "test") for image in images]
    cut = tempfile.TemporaryDirectory()
    tiles = Path(cut.name) / "tiles"
    write_tiles(tiles, images, ["tree"], size=arguments.tile)
    job = prepare_job(
        tiles,
        ModelSettings("torchvision:mobilenet_v2", weights=data / "weights" / "mobilenet_v2.pth", image_size=arguments.size),
        skip_bad=True,
    )
    settings = replace(
        load_recipe("objects").training, epochs=arguments.epochs, batch_size=8, learning_rate=0.001, augmentation="standard", seed=0
    )
    begun = time.perf_counter()
    trained = train_original(job, settings, mode="always")
    seconds = time.perf_counter() - begun
    artifact = trained.artifact
    spec, how = artifact.input_spec, artifact.preprocessing
    found = evaluate(TorchPredictor(artifact.module, how), job.task, "test", spec, how)
    for measured in found.metrics.values():
        print(measured.name, measured)
    result = {
        "tiles": {name: len(job.task.split(name)) for name in ("train", "validation", "test")},  # type: ignore[arg-type]
        "boxes": {name: int(sum(len(o) for o in job.task.split(name).targets)) for name in ("train", "test")},  # type: ignore[arg-type]
        "seconds": seconds,
        "settings": {"epochs": arguments.epochs, "tile": arguments.tile, "size": arguments.size},
        "metrics": {name: [m.value, m.low, m.high] for name, m in found.metrics.items()},
        "machine": describe_machine(),
    }
    (RESULTS / "deepforest.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
