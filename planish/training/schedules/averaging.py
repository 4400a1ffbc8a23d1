"""Weights averaged on the way of a training, and batch-norm statistics that fit an average."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from planish.data.normalisation import Normalise
from planish.errors import TrainingError
from planish.models.batch_norm import reestimate_batch_norm
from planish.training.batches import batches

if TYPE_CHECKING:
    from planish.artifact import InputSpec, Preprocessing
    from planish.task import Task
    from planish.training.settings import FitSettings

STATISTICS_IMAGES = 2048


def check_averaging(settings: FitSettings) -> None:
    """See that what is asked for goes together.

    Raises:
        TrainingError: the rate cannot stay constant and start again, or it is constant before it has risen.
    """
    if settings.swa_share and settings.cycles > 1:
        raise TrainingError(
            f"swa_share={settings.swa_share:g} with cycles={settings.cycles}",
            "the rate either stays constant at the end or starts again",
            "choose one of them",
        )
    if settings.swa_share and settings.swa_share > 1 - settings.warmup_share:
        raise TrainingError(
            f"swa_share={settings.swa_share:g} while {settings.warmup_share:.0%} of the training are for warming up",
            "weights are averaged after that",
            f"at most swa_share={1 - settings.warmup_share:g}, or fewer warmup_epochs",
        )


def decay(settings: FitSettings, steps: int, averaged_steps: int) -> float:
    """What stays of the average when the weights after a step join it.

    Args:
        settings: of the training.
        steps: done, this one included.
        averaged_steps: of them, those that the average of ``swa_share`` counts, all alike; with it, the running average ends.
    """
    if averaged_steps:
        return 1 - 1 / averaged_steps
    return min(settings.ema_decay, (1 + steps) / (10 + steps)) if settings.ema_decay else 0.0


def update_average(average: nn.Module, module: nn.Module, kept: float) -> None:
    """One step of an average, of which that share stays; counters are copied."""
    pairs = list(zip(average.state_dict().values(), module.state_dict().values(), strict=True))
    floats = [pair for pair in pairs if pair[0].is_floating_point()]
    move = get_ema_multi_avg_fn(kept)  # type: ignore[no-untyped-call]
    move([slow for slow, _ in floats], [fast for _, fast in floats], 0)
    for slow, fast in pairs:
        if not slow.is_floating_point():
            slow.copy_(fast)


def fit_statistics(module: nn.Module, task: Task, spec: InputSpec, preprocessing: Preprocessing, settings: FitSettings) -> None:
    """Batch-norm statistics of the weights that ``module`` has now, from some 2,000 training images, augmented as in training.

    The mean of several networks' statistics is not that: averaged weights make other activations.
    """
    split, normalise = task.split("train"), Normalise.of(preprocessing)
    shown = batches(split.images(spec, preprocessing), split.targets, spec, task, settings, settings.epochs, ahead=False)
    device = next(module.parameters()).device
    some = islice(shown, -(-STATISTICS_IMAGES // settings.batch_size))
    reestimate_batch_norm(module, (normalise(pixels).to(device) for pixels, _ in some))
