"""Averaging of weights during training (EMA, SWA), and batch-norm statistics for the averaged weights."""

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
    """Check that the settings of weight averaging are compatible.

    Raises:
        TrainingError: ``swa_share`` is combined with several cycles, or overlaps with the warm-up.
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
    """The weight of the old average when the weights after a step are added.

    Args:
        settings: settings of the training.
        steps: number of steps, including this one.
        averaged_steps: number of steps in the equally weighted average of ``swa_share``, which replaces the exponential average once it
            has begun.
    """
    if averaged_steps:
        return 1 - 1 / averaged_steps
    return min(settings.ema_decay, (1 + steps) / (10 + steps)) if settings.ema_decay else 0.0


def update_average(average: nn.Module, module: nn.Module, kept: float) -> None:
    """Update an average in place as ``kept * average + (1 - kept) * module``; tensors of integers, such as counters, are copied."""
    states = (network.state_dict(keep_vars=True).values() for network in (average, module))
    pairs = {id(slow): (slow.detach(), fast.detach()) for slow, fast in zip(*states, strict=True)}.values()  # shared tensors only once
    floats = [pair for pair in pairs if pair[0].is_floating_point()]
    move = get_ema_multi_avg_fn(kept)  # type: ignore[no-untyped-call]
    move([slow for slow, _ in floats], [fast for _, fast in floats], 0)
    for slow, fast in pairs:
        if not slow.is_floating_point():
            slow.copy_(fast)


def fit_statistics(module: nn.Module, task: Task, spec: InputSpec, preprocessing: Preprocessing, settings: FitSettings) -> None:
    """Re-estimate the batch-norm statistics of ``module`` from about 2,000 training images, augmented as in training.

    Averaged statistics would not do, as averaged weights lead to other activations.
    """
    split, normalise = task.split("train"), Normalise.of(preprocessing)
    shown = batches(split.images(spec, preprocessing), split.targets, spec, task, settings, settings.epochs, ahead=False)
    device = next(module.parameters()).device
    some = islice(shown, -(-STATISTICS_IMAGES // settings.batch_size))
    reestimate_batch_norm(module, (normalise(pixels).to(device) for pixels, _ in some))
