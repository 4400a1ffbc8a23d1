"""Which network to start from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from planish.commands.options import Layout, at_least, results_folder, source
from planish.units import ImageSize

if TYPE_CHECKING:
    from planish.data.sources.dataset import Dataset
    from planish.datacentric.backbones import BackboneResult, Backbones


def backbones(
    data: str | Path | Dataset,
    *,
    max_latency: str | float | None = None,
    max_size: str | float | None = None,
    candidates: Annotated[Sequence[str], Parameter(name="--candidate")] = (),
    weights: str | Path = "imagenet",
    image_size: ImageSize | None = None,
    budget: str | None = None,
    runtime: str = "auto",
    device: str | None = None,
    threads: int = 1,
    batch: int = 1,
    layout: Layout | None = None,
    workers: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    skip_bad: bool = False,
    seed: int = 0,
    watch: Annotated[Callable[[Sequence[BackboneResult]], None] | None, Parameter(parse=False)] = None,
) -> Backbones:
    """Find the network to start from: time many as exported files, and rank those that are fast enough by how well they transfer.

    All networks are exported in fp32 and INT8 and timed side by side. Those within the limits are ranked by a linear classifier on their
    frozen features, then the best are fine-tuned: four for half of the time left, the better two for the other half. Accuracy is on
    validation; test is not touched. The output folder contains `backbones.json` and `backbones.html`.

    Args:
        data: Dataset: a folder, a manifest, or the name of a built-in one; see `planish optimize --help`.
        max_latency: Maximum latency of one batch, in fp32 or INT8: 5ms.
        max_size: Maximum size of the file: 4MB.
        candidates: Network to compare: resnet18, timm:NAME, torchvision:NAME, FILE.py:factory. May be repeated. By default 16 that run fast
            on CPUs.
        weights: imagenet (downloaded), a folder of files named after the networks (resnet18.pth), or none to rank by latency alone.
        image_size: Input size in pixels, or HEIGHTxWIDTH; by default the size of the images, at most 224.
        budget: Wall-clock time: 20m. The default is 20 minutes.
        runtime: Runtime in which files are timed; auto is the one in which the first network is fastest.
        device: Device that files are timed on: ssh://user@host:port/path/of/python; by default this machine.
        threads: Number of threads the runtime may use.
        batch: Batch size.
        layout: Layout of the dataset, if it could be read in more than one way.
        workers: Other processes that share the trainings: ray, ray?cores=2, ray://HOST:10001, or postgresql://USER@HOST/DATABASE for
            those of `planish worker`. By default this process does them all.
        out: Output folder; by default runs/ and a name made from the dataset.
        resume: Continue the study in --out; finished steps are not repeated.
        skip_bad: Skip broken images instead of stopping.
        seed: Seed of the split and of the trainings.
        watch: Called with all networks whenever one is measured.

    Returns:
        The networks, the recommended one first.

    Raises:
        ModelError: a network is unknown, or none can be exported.

    Example:
        $ planish backbones photos/ --max-latency 5ms --budget 30m
    """
    from planish.datacentric.backbones import CANDIDATES
    from planish.datacentric.backbones import backbones as run
    from planish.devices.device import using_device
    from planish.report.pages.backbones import write_backbones
    from planish.runs.workers import working_with
    from planish.settings import DeploymentTarget, GoalSettings, RunSettings

    at_least(1, threads=threads, batch=batch)
    with using_device(device), working_with(workers):
        found = run(
            source(data, layout),
            candidates=tuple(candidates) or CANDIDATES,
            weights=weights,
            image_size=image_size,
            goal=GoalSettings(max_latency=max_latency, max_size=max_size),
            target=DeploymentTarget(runtime, threads, batch),
            run=RunSettings(out, resume, budget, skip_bad, seed),
            watch=watch,
        )
    write_backbones(results_folder(out, found.name))
    return found
