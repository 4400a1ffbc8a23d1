"""Structured pruning with Torch-Pruning, as its documentation recommends, and fine-tuning afterwards as its users do it."""

from __future__ import annotations

import copy
import time
from dataclasses import replace

import torch
import torch_pruning as tp
from torch import nn

from benchmarks.peers.finished import Finished
from planish.artifact import Artifact
from planish.models.surgery import find_classifier
from planish.training.fit import Fitted, fit
from planish.training.settings import FitSettings

_ROUND_TO = 8  # channels; what Torch-Pruning recommends for speed
_MOST_EPOCHS = 200  # more than any budget has time for: the learning rate ends where the seconds do


def prune(original: Artifact, ratio: float) -> Artifact:
    """Remove that share of each layer's channels, those whose group has the smallest L2 norm; the classifier's outputs stay.

    Torch-Pruning rounds the channels that stay down to a multiple of ``round_to``, and where that is 0 it prunes nothing at all. So each
    layer is given the ratio that leaves the nearest multiple, at least one; layers narrower than that are left alone.
    """
    module, spec = copy.deepcopy(original.module), original.input_spec
    classifier = module.get_submodule(find_classifier(module, spec.channels, spec.height)[0])
    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear) and m is not classifier]
    pruner = tp.pruner.BasePruner(
        module,
        torch.zeros(1, spec.channels, spec.height, spec.width),
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        pruning_ratio_dict={layer: _rounded(layer.weight.shape[0], ratio) for layer in layers},
        ignored_layers=[classifier],
        round_to=_ROUND_TO,
    )
    pruner.step()
    return replace(original, module=module)


def _rounded(width: int, ratio: float) -> float:
    """The ratio that leaves the multiple of ``_ROUND_TO`` nearest to ``(1 - ratio) * width``, and half a channel more against rounding."""
    kept = max(_ROUND_TO, _ROUND_TO * round((1 - ratio) * width / _ROUND_TO))
    return max(0.0, 1 - (kept + 0.5) / width)


def finetune(pruned: Artifact, run: Finished, seconds: float) -> Fitted:
    """Train on the labels for so many seconds, with the augmentation and the highest learning rate that Planish's own candidates had.

    SGD with Nesterov momentum, warm-up for a tenth of the time, a cosine to 0, label smoothing, and an average of the weights.
    """
    settings = FitSettings(
        epochs=_MOST_EPOCHS,
        batch_size=64,
        learning_rate=0.02 if run.settings["weights"] else 0.1,
        weight_decay=1e-4,
        warmup_epochs=_MOST_EPOCHS / 10,
        label_smoothing=0.05,
        ema_decay=0.99,
        augmentation=run.settings["augmentation"],
        seed=run.settings["seed"],
    )
    deadline = time.monotonic() + seconds
    return fit(pruned.module, run.task, pruned.input_spec, pruned.preprocessing, settings, deadline=deadline, validate=False)
