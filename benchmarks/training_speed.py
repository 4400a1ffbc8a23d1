"""Images a second of training: Planish, a plain PyTorch loop over an image folder, and a loop with timm's loader, turn by turn.

    .venv/bin/python benchmarks/training_speed.py --data FOLDER --model resnet20 --size 32

Each turn is one epoch of the same network on the same images with the same batch and augmentation (shifted crops, mirrored; above 64
pixels crops of random size); the turns go round, so that the machine's drift meets all. Planish runs as it does by default, in bfloat16
where that is faster, and in float32 like the others. The plain loop is what most people write: ``ImageFolder``, ``DataLoader`` with a
worker a core, SGD. timm's training script is not part of its package, so its steps are written here around timm's own dataset, loader
and optimizer. Both decode every image every epoch; Planish keeps what it decoded once, which takes the seconds told as
``preparing_seconds``.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm.data
import timm.optim
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from planish.devices.machine import describe_machine
from planish.settings import ModelSettings
from planish.training.fit import fit
from planish.training.prepare import Job, prepare_job
from planish.training.settings import FitSettings

RESULTS = Path(__file__).parent / "results"
Turn = Callable[[int], tuple[int, float]]  # number of the turn -> images, seconds


def plain(job: Job, folder: Path, settings: FitSettings) -> Turn:
    """What people write by hand."""
    spec, preprocessing = job.artifact.input_spec, job.artifact.preprocessing
    size = spec.height
    crop = v2.RandomCrop(size, size // 8) if size <= 64 else v2.RandomResizedCrop(size, (0.5, 1.0), antialias=True)
    steps = [v2.Resize((size, size)), crop] if size <= 64 else [crop]
    transform = v2.Compose(
        [
            v2.ToImage(),
            *steps,
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(preprocessing.mean, preprocessing.std),
        ]
    )
    loader = DataLoader(
        ImageFolder(folder, transform), settings.batch_size, shuffle=True, num_workers=os.cpu_count() or 1,
        persistent_workers=True,
    )  # fmt: skip
    model = copy.deepcopy(job.artifact.module).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), settings.learning_rate, momentum=0.9, nesterov=True, weight_decay=settings.weight_decay)
    return _loop(model, optimizer, loader)


def with_timm(job: Job, folder: Path, settings: FitSettings) -> Turn:
    """The steps of timm's training script, with its loader and optimizer."""
    spec, preprocessing = job.artifact.input_spec, job.artifact.preprocessing
    dataset = timm.data.create_dataset("", str(folder))
    loader = timm.data.create_loader(
        dataset, (3, spec.height, spec.width), settings.batch_size, is_training=True, use_prefetcher=False, no_aug=False, color_jitter=None,
        scale=(0.5, 1.0), mean=preprocessing.mean, std=preprocessing.std, num_workers=os.cpu_count() or 1, persistent_workers=True,
    )  # fmt: skip
    model = copy.deepcopy(job.artifact.module).to(memory_format=torch.channels_last).train()
    optimizer = timm.optim.create_optimizer_v2(model, "sgd", settings.learning_rate, settings.weight_decay, 0.9)
    return _loop(model, optimizer, loader)


def _loop(model: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader) -> Turn:
    criterion = nn.CrossEntropyLoss(label_smoothing=0.05)

    def turn(_: int) -> tuple[int, float]:
        seen, begun = 0, time.monotonic()
        for images, targets in loader:
            loss = criterion(model(images.contiguous(memory_format=torch.channels_last)), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
            seen += len(images)
        return seen, time.monotonic() - begun

    return turn


def ours(job: Job, settings: FitSettings) -> Turn:
    def turn(number: int) -> tuple[int, float]:
        changed = dataclasses.replace(settings, seed=number)
        fitted = fit(job.artifact.module, job.task, job.artifact.input_spec, job.artifact.preprocessing, changed, validate=False)
        return len(job.task.split("train").targets), fitted.seconds

    return turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/CLASS/IMAGE")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    begun = time.monotonic()
    job = prepare_job(arguments.data, ModelSettings(arguments.model, image_size=arguments.size))
    job.task.split("train").images(job.artifact.input_spec, job.artifact.preprocessing)
    decoding = time.monotonic() - begun
    settings = FitSettings(
        epochs=1, batch_size=arguments.batch, learning_rate=0.05, label_smoothing=0.05, warmup_epochs=0, augmentation="light"
    )
    train = arguments.data / "train"
    turns: dict[str, Turn] = {
        "planish": ours(job, settings),
        "planish, float32": ours(job, dataclasses.replace(settings, mixed_precision="off")),
        "plain loop": plain(job, train, settings),
        "timm's loader": with_timm(job, train, settings),
    }
    rates: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(arguments.rounds):
        for name, turn in turns.items():
            images, seconds = turn(number)
            rates[name].append(images / seconds)
            print(f"round {number + 1}, {name}: {rates[name][-1]:.0f} images/s", file=sys.stderr)
    table = Table("", "images/s, each round", "median", "planish is so many times as fast (each round)")
    for name, values in rates.items():
        ratios = [mine / other for mine, other in zip(rates["planish"], values, strict=True)]
        table.add_row(name, " ".join(f"{v:.0f}" for v in values), f"{np.median(values):.0f}", " ".join(f"{r:.2f}" for r in ratios))
    Console(width=140).print(table)
    name = f"training_speed_{arguments.model.replace(':', '_')}_{arguments.size}"
    found = {
        "model": arguments.model, "size": arguments.size, "batch": arguments.batch, "images_per_second": rates,
        "preparing_seconds": decoding, "machine": describe_machine(),
    }  # fmt: skip
    RESULTS.joinpath(f"{name}.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
