"""A network searched for images and a latency."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from planish.commands.options import Layout, at_least, results_folder, source

if TYPE_CHECKING:
    from planish.data.sources.dataset import Dataset
    from planish.search.architecture.result import ArchitectureSearch, SearchCandidate


def search(
    data: str | Path | Dataset,
    *,
    max_latency: str | float,
    max_size: str | float | None = None,
    image_size: int | None = None,
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
    watch: Annotated[Callable[[Sequence[SearchCandidate]], None] | None, Parameter(parse=False)] = None,
) -> ArchitectureSearch:
    """Search a network within a latency and train it: convolutional networks for classification, from nothing.

    The latency of thousands of networks is predicted from single layers that are timed in the runtime. Those within the limits are ranked
    without training; a handful is exported, timed, and trained by successive halving beside known networks. The best one is trained for the
    remaining time, timed as an exported file, and evaluated on test. The output folder contains `search.json`, `search.html`, the trained
    network in `model`, as `planish train` saves it, and its exported file in `exported`.

    Args:
        data: Dataset: a folder, a manifest, or the name of a built-in one; see `planish optimize --help`.
        max_latency: Maximum latency of one batch: 2ms.
        max_size: Maximum size of the file: 500kB.
        image_size: Input size in pixels; by default the size of the images, at most 224, and a smaller one are searched.
        budget: Wall-clock time: 30m. The default is 30 minutes; with less than 10 fewer networks are tried.
        runtime: Runtime in which files are timed; auto is the one in which networks of the space are fastest.
        device: Device that files are timed on: ssh://user@host:port/path/of/python; by default this machine.
        threads: Number of threads the runtime may use.
        batch: Batch size.
        layout: Layout of the dataset, if it could be read in more than one way.
        workers: Other processes that share the trainings: ray, ray?cores=2, ray://HOST:10001, or postgresql://USER@HOST/DATABASE for
            those of `planish worker`. By default this process does them all.
        out: Output folder; by default runs/ and a name made from the dataset.
        resume: Continue the search in --out; finished steps are not repeated.
        skip_bad: Skip broken images instead of stopping.
        seed: Seed of the split, of the networks and of the trainings.
        watch: Called with all candidates whenever one is measured.

    Returns:
        The network that was found, and the candidates, the best one first.

    Raises:
        GoalError: no network is within the limits.

    Example:
        $ planish search photos/ --max-latency 2ms --max-size 500kB --budget 30m
    """
    from planish.devices.device import using_device
    from planish.report.pages.architecture_search import write_search
    from planish.report.pages.evaluation import write_evaluation
    from planish.runs.workers import working_with
    from planish.search.architecture.architecture_search import search as run
    from planish.settings import DeploymentTarget, GoalSettings, RunSettings

    at_least(1, threads=threads, batch=batch)
    with using_device(device), working_with(workers):
        found = run(
            source(data, layout),
            image_size=image_size,
            goal=GoalSettings(max_latency=max_latency, max_size=max_size),
            target=DeploymentTarget(runtime, threads, batch),
            run=RunSettings(out, resume, budget, skip_bad, seed),
            watch=watch,
        )
    folder = results_folder(out, found.name)
    write_evaluation(folder / "model")
    write_search(folder)
    return found
