"""Stage one of an architecture search: from thousands of networks to a diverse handful within the limits, without training."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from time import monotonic

import numpy as np
import torch

from planish.artifact import Artifact
from planish.compression.calibration import calibration_batches
from planish.deadline import deadline
from planish.devices.layer_latency import layer_latencies
from planish.errors import GoalError
from planish.models.space.network import SearchedNetwork
from planish.progress import Stage
from planish.runs.networks.network_files import FilePrecision, limits_in_words
from planish.runs.store import Store
from planish.search.architecture.predicted_latency import LayerTable, NetworkLayers, fitted, layers_of
from planish.search.architecture.proxies import REFERENCES, Proxy, naswot, synflow
from planish.search.architecture.sampling import SampledNetwork
from planish.settings import DeploymentTarget
from planish.training.prepare import Job

RANDOM = "random"
_CORRECTIONS = (1.0, 0.9, 0.8, 1.1, 1.25)  # factors by which measured latencies may differ from predicted ones
_RANKED = 12  # networks with the most MACs, and with the most parameters, that are scored for each of these factors
_DRAWN = 60  # random networks that are scored
_PROXY_IMAGES = 32
_MARGIN = 1.03  # by which the predicted latency must be below the limit


@dataclass(frozen=True)
class PredictedNetwork:
    """What is known of a network of the space before it is built.

    Args:
        network: the network.
        macs: multiply-accumulate operations for one image.
        parameters: number of parameters.
        milliseconds: predicted latency of one batch.
        size_bytes: predicted size of the file.
    """

    network: SampledNetwork
    macs: int
    parameters: int
    milliseconds: float
    size_bytes: float


@dataclass(frozen=True)
class Reference:
    """A network of the space whose file was measured: latency in ms and size in bytes."""

    network: SampledNetwork
    milliseconds: float
    size_bytes: float


def spread_by_macs(networks: Sequence[SampledNetwork], job: Job, count: int) -> list[SampledNetwork]:
    """Return ``count`` networks from few to many MACs."""
    order = sorted(networks, key=lambda network: _layers(job, "fp32")(network).macs)
    places = np.linspace(0.1, 0.9, count) * (len(order) - 1)
    return [order[round(place)] for place in places]


def predict(
    networks: Sequence[SampledNetwork],
    references: Sequence[Reference],
    job: Job,
    store: Store,
    precision: FilePrecision,
    runtime: str,
    target: DeploymentTarget,
    seconds: float,
) -> tuple[list[PredictedNetwork], int]:
    """Predict latency and size of each network from the sum of its layers.

    Args:
        networks: networks of the space.
        references: some of them, measured; overhead and size are fitted to them.
        job: images, number of classes and channels.
        store: store of the run.
        precision: precision of the files.
        runtime: runtime in which layers are timed.
        target: threads and batch size.
        seconds: time for timing layers.

    Returns:
        The predictions, and the number of layers that were timed.

    Raises:
        TechniqueError: the time is too short; what was timed is kept for the next run.
    """
    layers = list(map(_layers(job, precision), networks))
    at = {network.key: place for place, network in enumerate(networks)}

    def work() -> tuple[list[float], list[float], int]:
        times = partial(layer_latencies, runtime=runtime, threads=target.threads, batch=target.batch)
        with deadline(seconds):
            table = LayerTable((layer for one in layers for layer in one.layers), times)
        sums = [table.milliseconds(one.layers) for one in layers]
        known = [at[reference.network.key] for reference in references]
        overhead, factor = fitted([(1.0, sums[place]) for place in known], [one.milliseconds for one in references])
        of_layer, of_parameter = fitted(
            [(len(layers[place].layers), layers[place].parameters) for place in known], [one.size_bytes for one in references]
        )
        sizes = [of_layer * len(one.layers) + of_parameter * one.parameters for one in layers]
        return [overhead + factor * ms for ms in sums], sizes, table.measured

    milliseconds, sizes, measured = store.once("predictions", "predicting latency", work)
    found = zip(networks, layers, milliseconds, sizes, strict=True)
    return [PredictedNetwork(network, one.macs, one.parameters, ms, size) for network, one, ms, size in found], measured


def within_limits(
    predictions: Sequence[PredictedNetwork], max_latency_ms: float, max_size_bytes: int | None, correction: float = 1.0
) -> list[PredictedNetwork]:
    """Return the networks that are predicted to be within the limits.

    Args:
        predictions: all networks.
        max_latency_ms: maximum latency of one batch.
        max_size_bytes: maximum size of the file; None for none.
        correction: factor of the predicted latencies.
    """
    return [
        one
        for one in predictions
        if _MARGIN * correction * one.milliseconds <= max_latency_ms
        and (max_size_bytes is None or _MARGIN * one.size_bytes <= max_size_bytes)
    ]


def require_within(predictions: Sequence[PredictedNetwork], max_latency_ms: float, max_size_bytes: int | None) -> int:
    """Return the number of networks that are predicted to be within the limits.

    Raises:
        GoalError: there is none.
    """
    found = len(within_limits(predictions, max_latency_ms, max_size_bytes))
    if not found:
        fastest, smallest = (min(map(attrgetter(name), predictions)) for name in ("milliseconds", "size_bytes"))
        raise GoalError(
            f"none of {len(predictions):,} networks is within {limits_in_words(max_latency_ms, max_size_bytes)}",
            f"the fastest is predicted to take {fastest:.3g} ms, the smallest {smallest / 1e3:.3g} kB",
            "give a larger limit, or fewer pixels with --image-size",
        )
    return found


def proxies_of(
    predictions: Sequence[PredictedNetwork], limits: tuple[float, int | None], job: Job, store: Store, seed: int, seconds: float
) -> dict[str, dict[Proxy, float]]:
    """Score networks by all proxies: those with the most MACs, those with the most parameters, and random ones.

    They are taken from networks that are predicted to be within the limits, or would be if all took somewhat more or less time.

    Args:
        predictions: all networks.
        limits: on latency in ms and on size in bytes.
        job: images, number of classes and channels.
        store: store of the run.
        seed: seed of the choice and of the untrained weights.
        seconds: time after which no further network is scored.

    Returns:
        The scores by key of the network and proxy; for want of time there may be none of the proxies that need the network.
    """
    near = within_limits(predictions, *limits, min(_CORRECTIONS))
    pool = {one.network.key: one for one in random.Random(seed).sample(near, min(_DRAWN, len(near)))}
    for correction in _CORRECTIONS:
        within = within_limits(predictions, *limits, correction)
        for size in ("macs", "parameters"):
            pool |= {one.network.key: one for one in sorted(within, key=attrgetter(size), reverse=True)[:_RANKED]}

    def work() -> dict[str, tuple[float, float]]:
        begun, found, images = monotonic(), dict[str, tuple[float, float]](), dict[int, torch.Tensor]()
        shape = job.artifact.input_spec
        with Stage("scoring untrained networks", len(pool)) as stage:
            for one in pool.values():
                if monotonic() - begun > seconds:
                    stage.total = stage.done
                    break
                size = one.network.image_size
                if size not in images:
                    images[size] = _images(job, size)
                module = _untrained(one.network, job, seed)
                found[one.network.key] = synflow(module, (shape.channels, size, size)), naswot(module, images[size])
                stage.advance()
        return found

    scored = store.once("proxies", "scoring untrained networks", work)
    found: dict[str, dict[Proxy, float]] = {}
    for one in pool.values():
        found[one.network.key] = {"macs": float(one.macs), "parameters": float(one.parameters)}
        if one.network.key in scored:
            found[one.network.key] |= dict(zip(("synflow", "naswot"), scored[one.network.key], strict=True))
    return found


def choose(
    networks: Mapping[str, PredictedNetwork], scores: Mapping[str, Mapping[Proxy, float]], taken: Collection[str], count: int, seed: int
) -> dict[str, str]:
    """Choose networks in turn by each proxy and at random, of different families while there are any.

    Args:
        networks: the networks to choose from, by key.
        scores: see ``proxies_of``.
        taken: keys of networks that were chosen before.
        count: number of networks.
        seed: seed of the random ones.

    Returns:
        By key of each network, the proxy that chose it, or ``random``.
    """
    available = {key: known for key, known in scores.items() if key in networks and key not in taken}
    orders: dict[str, list[str]] = {proxy: _ranked(available, proxy) for proxy in REFERENCES}
    orders[RANDOM] = random.Random(seed).sample(sorted(available), len(available))
    turns = [*orders][len(taken) % len(orders) :] + [*orders][: len(taken) % len(orders)]  # goes on where the last choice ended
    families, found = {networks[key].network.family for key in taken if key in networks}, dict[str, str]()
    while len(found) < min(count, len(available)):
        before = len(found)
        for proxy in turns:
            left = (key for key in orders[proxy] if key not in found and networks[key].network.family not in families)
            key = next(left, None)
            if key is not None and len(found) < count:
                found[key] = proxy
                families.add(networks[key].network.family)
        if len(found) == before:
            families.clear()  # all families were taken: networks that differ in width only
    return found


def sized(artifact: Artifact, size: int) -> Artifact:
    """Return the artifact with square images of this size as its input."""
    return replace(artifact, input_spec=replace(artifact.input_spec, height=size, width=size))


def _ranked(scores: Mapping[str, Mapping[Proxy, float]], proxy: Proxy) -> list[str]:
    return sorted((key for key in scores if proxy in scores[key]), key=lambda key: -scores[key][proxy])


def _layers(job: Job, precision: FilePrecision) -> Callable[[SampledNetwork], NetworkLayers]:
    channels, classes = job.artifact.input_spec.channels, len(job.artifact.class_names)
    return lambda network: layers_of(network, channels, classes, precision)


def _untrained(network: SampledNetwork, job: Job, seed: int) -> SearchedNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SearchedNetwork(network.architecture, len(job.artifact.class_names), job.artifact.input_spec.channels)


def _images(job: Job, size: int) -> torch.Tensor:
    artifact = sized(job.artifact, size)
    return torch.cat([images for images, _ in calibration_batches(artifact, job.task, _PROXY_IMAGES)()])
