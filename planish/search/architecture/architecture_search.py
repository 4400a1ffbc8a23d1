"""A network from nothing: many are sampled, those predicted to be fast enough are ranked without training, and a handful is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from planish import units
from planish.data import require_classes
from planish.devices.device import current_device
from planish.errors import GoalError
from planish.export.runtimes.registry import available, find
from planish.files.atomic import job_folder, write_result
from planish.models.storage import save_artifact
from planish.progress import note
from planish.runs.networks.network_files import limits_in_words
from planish.runs.precision import precision_name
from planish.runs.record import run_folder
from planish.search.architecture.candidates import predict, proxies_of, require_within
from planish.search.architecture.result import ArchitectureSearch, SearchCandidate, prediction_error, rankings
from planish.search.architecture.sampling import resolutions, sampled
from planish.search.architecture.trials import ANY_NETWORK, Extent, SearchTrials
from planish.settings import DeploymentTarget, GoalSettings, ModelSettings, RunSettings
from planish.split_assignment import keep_assignment
from planish.training.prepare import prepare_job

_QUICK_SECONDS = 600.0  # budget below which less is tried
_TABLE_SHARE, _PROXY_SHARE = 0.25, 0.05  # of the budget, at most
_QUICK, _USUAL = Extent(1000, 3, 4, 2, 1), Extent(3000, 4, 8, 4, 2)


def search(
    data: str | Path,
    *,
    image_size: int | None = None,
    goal: GoalSettings,
    target: DeploymentTarget,
    run: RunSettings,
    watch: Callable[[Sequence[SearchCandidate]], None] | None = None,
) -> ArchitectureSearch:
    """Search a network for images with classes within a latency.

    The latency of thousands of networks is predicted from single layers that are timed in the runtime. Those within the limits are ranked
    by proxies that need no training; a diverse handful is exported, timed, and trained by successive halving beside known networks. The
    best one is trained for the remaining time, exported, timed beside known networks, and evaluated on test.

    Args:
        data: images with classes: a folder, a manifest or a built-in name.
        image_size: input size in pixels; None for the size of the images, at most 224, and a smaller one.
        goal: limits on latency, which is needed, and on size.
        target: where the files run; the runtime ``auto`` stands for the one in which networks of the space are fastest.
        run: settings of the run; the default folder is under ``runs/``, the default budget 30 minutes.
        watch: called with all candidates whenever one is measured.

    Returns:
        The network and the candidates; also written to ``search.json``. The folder ``model`` holds the trained network, as
        ``planish train`` saves it, the folder ``exported`` its file.

    Raises:
        GoalError: there is no limit on latency, or no network of the space is within the limits.
        TechniqueError: the budget is too short for timing layers.
        RuntimeMissingError: the runtime is not installed.
    """
    require_classes(data, "searching a network")
    if goal.max_latency is None:
        raise GoalError("a search without a limit", "a network is searched for a latency", "for example --max-latency 2ms")
    max_latency_ms = units.milliseconds(goal.max_latency)
    max_size_bytes = None if goal.max_size is None else units.size_bytes(goal.max_size)
    seconds = units.seconds("30m" if run.budget is None else run.budget)
    runtimes = available("onnx") if target.runtime == "auto" else [find(target.runtime).name]
    folder = job_folder(run.out, "search", data, "network")
    settings = {
        "data": str(data), "image_size": image_size, "max_latency_ms": max_latency_ms, "max_size_bytes": max_size_bytes,
        "runtime": target.runtime, "threads": target.threads, "batch": target.batch, "budget": seconds, "skip_bad": run.skip_bad,
        "seed": run.seed, "device": current_device().address or None,
    }  # fmt: skip
    with run_folder(folder, settings, run.resume) as record:
        job = prepare_job(data, ModelSettings(ANY_NETWORK, image_size=image_size), skip_bad=run.skip_bad, seed=run.seed)
        store = record.store
        keep_assignment(record.path, job.data.assignment)
        trials = SearchTrials(job, str(data), target, run, record, watch or (lambda _: None))
        extent = _QUICK if seconds < _QUICK_SECONDS else _USUAL
        side = job.artifact.input_spec.height
        sizes = resolutions(side)[: extent.resolutions if image_size is None else 1]
        networks = sampled(side, sizes, extent.sampled, run.seed)
        references = trials.references(networks, extent.references, runtimes)
        predictions, layers_timed = predict(
            networks, references, job, store, trials.precision, trials.runtime, target, _TABLE_SHARE * seconds
        )
        within = require_within(predictions, max_latency_ms, max_size_bytes)
        note(f"{within:,} of {len(networks):,} networks are predicted to be within {limits_in_words(max_latency_ms, max_size_bytes)}")
        limits = max_latency_ms, max_size_bytes
        scores = proxies_of(predictions, limits, job, store, run.seed, _PROXY_SHARE * seconds)
        trials.time_candidates(predictions, scores, limits, extent)
        trials.halve(seconds)
        chosen = trials.ranked()[0]
        epochs = trials.train_chosen(chosen, seconds)
        report = trials.time_chosen()
        files = trials.file_measurements(report)
        save_artifact(trials.exported(trials.precision), folder / "exported")
        result = ArchitectureSearch(
            **record.record(training_precision=precision_name(trials.training_precision)),
            data=str(data),
            runtime=trials.runtime,
            precision=trials.precision,
            threads=target.threads,
            batch=target.batch,
            max_latency_ms=max_latency_ms,
            max_size_bytes=max_size_bytes,
            sampled=len(networks),
            within=within,
            layers_timed=layers_timed,
            prediction_error=prediction_error(trials.ranked(), {one.network.key for one in references}),
            candidates=trials.ranked(),
            as_good=trials.as_good(),
            rankings=rankings(trials.ranked()),
            model=chosen.name,
            image_size=chosen.image_size,
            epochs=epochs,
            files={precision: dict(found) for precision, found in files.items()},
            beside=trials.beside(report),
            noise_floor=report.noise_floor,
        )
        write_result(folder / "search.json", result)
    return result
