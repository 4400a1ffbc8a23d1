"""Recovery after pruning, as Planish's own candidates have it: same teacher and settings, as many seconds in all, in such rounds."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

from benchmarks.peers.finished import Finished
from benchmarks.peers.pruning import prune
from planish.artifact import Artifact
from planish.evaluation.evaluate import evaluate
from planish.evaluation.torch_predictor import TorchPredictor
from planish.progress import note

_MOST_EPOCHS = 1000  # more than any budget has time for: the learning rate ends where the seconds do
_SLACK_POINTS = (3.0, 1.0)  # that what is still to come is trusted to win back after the first round, and later


@dataclass
class Pruned:
    """A pruned network on its way back.

    Args:
        ratio: share of channels that Torch-Pruning removed.
        network: as it is by now.
        drop: points lost on validation against the original.
        epochs: of distillation so far.
        seconds: likewise.
    """

    ratio: float
    network: Artifact
    drop: float = math.inf
    epochs: float = 0.0
    seconds: float = 0.0


def recover(run: Finished, ratios: list[float], seconds: float) -> list[Pruned]:
    """Prune at every ratio and distil in rounds: each goes on with the more promising half, and has twice the time of the one before.

    Promising are the fastest within reach of the allowed drop, then those that lose least.

    Args:
        run: whose original is pruned and teaches.
        ratios: shares of channels.
        seconds: of distillation for all of them together.
    """
    everyone = [Pruned(ratio, prune(run.original, ratio)) for ratio in ratios]
    original, alive = _accuracy(run, run.original), everyone
    rounds = math.ceil(math.log2(len(ratios))) + 1
    for number in range(rounds):
        share = 2**number / (2**rounds - 1)
        for pruned in alive:
            _distil(run, pruned, seconds * share / len(alive))
            pruned.drop = original - _accuracy(run, pruned.network)
            note(f"Torch-Pruning {pruned.ratio:.0%}: {pruned.drop:.2f} points lost on validation after {pruned.epochs:.3g} epochs")
        limit = run.result.goal.max_drop_points + _SLACK_POINTS[min(number, 1)]
        alive = sorted(alive, key=lambda p: (0.0, -p.ratio) if p.drop <= limit else (1.0, p.drop))[: math.ceil(len(alive) / 2)]
    return everyone


def _distil(run: Finished, pruned: Pruned, seconds: float) -> None:
    begun = time.monotonic()
    recovery = replace(run.recovery, epochs=_MOST_EPOCHS, max_seconds=seconds)
    pruned.network = recovery.apply(pruned.network, run.task)
    pruned.epochs += pruned.network.lineage.steps[-1].structure["epochs"]
    pruned.seconds += time.monotonic() - begun


def _accuracy(run: Finished, network: Artifact) -> float:
    """On validation, in %."""
    predictor = TorchPredictor(network.module, network.preprocessing)
    found = evaluate(predictor, run.task, "validation", network.input_spec, network.preprocessing)
    return 100 * float(run.task.scores(found.outputs, found.targets).mean())
