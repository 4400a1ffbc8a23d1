"""The input pipeline alone: images a second without any network, and memory, disk and seconds for a large data set.

    python benchmarks/input_pipeline.py --folder FOLDER --images 200000 --cache-size 2GB
    python benchmarks/input_pipeline.py --folder FOLDER --images 200000 --part rates

It writes JPEG files of 256 x 256 pixels, all different, into FOLDER/CLASS/ unless they are there. ``memory`` loads all of them in a process
of its own with a limited cache: seconds until the data set is split, seconds until the first training batch of the first and of a second
process, peak memory, bytes on disk. ``rates`` takes the first images of each class and makes augmented batches (random crops, mirrored)
of 224 pixels turn by turn: Planish with and without a cache, ``ImageFolder`` with ``DataLoader``, and timm's loader, with a worker a core.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import timm.data
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from planish.devices.machine import describe_machine
from planish.files.workspace import CACHE_SIZE
from planish.settings import ModelSettings
from planish.training.batches import batches
from planish.training.prepare import prepare_job
from planish.training.settings import FitSettings

RESULTS = Path(__file__).parent / "results" / "input_pipeline.json"
_CLASSES, _SIDE, _BATCH, _SECONDS = 10, 224, 64, 20.0
_SETTINGS = FitSettings(batch_size=_BATCH, augmentation="light")


def write_images(folder: Path, count: int) -> None:
    """Write images 0 to ``count - 1``, those that are not there."""
    for label in range(_CLASSES):
        (folder / f"class{label}").mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor() as pool:
        list(pool.map(_write, [folder] * count, range(count), chunksize=500))


def _write(folder: Path, number: int) -> None:
    file = folder / f"class{number % _CLASSES}" / f"{number:07d}.jpg"
    if file.exists():
        return
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((256, 256), Image.Resampling.BICUBIC)
    fine = np.tile(rng.integers(-12, 13, (64, 64, 1)), (4, 4, 1))
    Image.fromarray(np.clip(np.asarray(coarse, np.int16) + fine, 0, 255).astype(np.uint8)).save(file, quality=85)


def planish_batches(folder: Path) -> Callable[[int], Iterator[Any]]:
    """Return a function that makes the batches of an epoch."""
    job = prepare_job(folder, ModelSettings("resnet18", image_size=_SIDE))
    spec, split = job.artifact.input_spec, job.task.split("train")
    images = split.images(spec, job.artifact.preprocessing)
    return lambda epoch: batches(images, split.targets, spec, job.task, _SETTINGS, epoch, ahead=False)


def memory(folder: Path) -> None:
    """Load all images, make batches for some seconds, and print what it took as JSON."""
    begun = time.monotonic()
    epoch = planish_batches(folder)
    loaded = time.monotonic() - begun
    stream = epoch(1)
    next(stream)
    first = time.monotonic() - begun
    seen, begun = 0, time.monotonic()
    for batch, _ in stream:
        seen += len(batch)
        if time.monotonic() - begun > _SECONDS:
            break
    rate = seen / (time.monotonic() - begun)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds_to_load": loaded, "seconds_to_first_batch": first, "images_per_second": rate, "peak_bytes": peak}))


def rates(folder: Path, count: int, rounds: int) -> dict[str, list[float]]:
    """Images per second of each pipeline in each round."""
    some = folder.with_name(f"{folder.name}-{count}")
    for label in range(_CLASSES):
        (some / f"class{label}").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        name = Path(f"class{number % _CLASSES}") / f"{number:07d}.jpg"
        if not (some / name).exists():
            os.link(folder / name, some / name)
    found = {}
    for name, limit in (("Planish, cached", "100GB"), ("Planish, no cache", "0")):
        os.environ[CACHE_SIZE] = limit
        os.environ["PLANISH_CACHE"] = str(folder.with_name(f"cache-{limit}"))
        found[name] = planish_batches(some)
    transform = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomResizedCrop(_SIDE, (0.5, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    workers = os.cpu_count() or 1
    plain = DataLoader(ImageFolder(some, transform), _BATCH, shuffle=True, num_workers=workers, persistent_workers=True)
    with_timm = timm.data.create_loader(
        timm.data.create_dataset("", str(some)), (3, _SIDE, _SIDE), _BATCH, is_training=True, use_prefetcher=False, color_jitter=None,
        scale=(0.5, 1.0), num_workers=workers, persistent_workers=True,
    )  # fmt: skip
    found |= {"ImageFolder and DataLoader": lambda _: iter(plain), "timm's loader": lambda _: iter(with_timm)}
    measured: dict[str, list[float]] = {name: [] for name in found}
    for number in range(1, rounds + 1):
        for name, epoch in found.items():
            stream = epoch(number)
            next(stream)
            seen, begun = 0, time.monotonic()
            for batch, _ in islice(stream, count // _BATCH - 2):
                seen += len(batch)
            measured[name].append(seen / (time.monotonic() - begun))
            print(f"round {number}, {name}: {measured[name][-1]:.0f} images/s", file=sys.stderr)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--cache-size", default="2GB")
    parser.add_argument("--rate-images", type=int, default=3_200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", choices=("all", "memory", "rates", "load"), default="all", help="load: used by memory itself")
    arguments = parser.parse_args()
    if arguments.part == "load":
        memory(arguments.folder)
        return
    write_images(arguments.folder, arguments.images)
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if arguments.part in ("all", "memory"):
        cache = arguments.folder.with_name("cache-limited")
        variables = os.environ | {"PLANISH_CACHE": str(cache), CACHE_SIZE: arguments.cache_size}
        command = [sys.executable, __file__, "--folder", str(arguments.folder), "--part", "load"]
        runs = [
            json.loads(subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])
            for _ in range(2)
        ]
        on_disk = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())
        found["limited"] = {
            "images": arguments.images, "cache_size": arguments.cache_size, "first": runs[0], "again": runs[1], "cache_bytes": on_disk,
        }  # fmt: skip
        print(json.dumps(found["limited"], indent=2))
    if arguments.part in ("all", "rates"):
        found["images_per_second"] = rates(arguments.folder, arguments.rate_images, arguments.rounds)
        table = Table("", "images/s, each round", "median")
        for name, values in found["images_per_second"].items():
            table.add_row(name, " ".join(f"{v:.0f}" for v in values), f"{np.median(values):.0f}")
        Console(width=140).print(table)
    found["machine"] = describe_machine()
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
