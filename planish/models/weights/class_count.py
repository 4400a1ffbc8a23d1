"""The number of classes of a trained network, for images without labels."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from planish.artifact import Source
from planish.errors import ModelError
from planish.files.trust import trust
from planish.models.heads.stem_and_classifier import WATCH_SIZE, logits_layer
from planish.models.plain import unwrapped
from planish.models.weights.loading import read_weights
from planish.models.zoo import build, factory_file, full_name

_IMAGENET = 1000
_TRIED = 1000  # a factory that takes the number of classes is called with this one


def count_classes(model: str | nn.Module, weights: str | Path | None, channels: int, image_size: int) -> int:
    """The number of classes that a network was trained for: that of the classifier in its weights, or the number of its outputs.

    Args:
        model: see ``zoo.create``.
        weights: see ``zoo.create``.
        channels: image channels, 1 or 3.
        image_size: height and width in pixels that the network runs on.

    Raises:
        ModelError: the network or its weights cannot be used, or it returns any number of classes and there are no weights.
    """
    if isinstance(model, nn.Module):
        return logits_layer(unwrapped(model, channels, image_size)[0], channels, image_size)[1]
    if weights == "imagenet":
        return _IMAGENET
    if (file := factory_file(model)) is not None:
        trust(file)
    name = full_name(model)
    side = WATCH_SIZE if name.startswith(("torchvision:", "timm:")) else image_size
    module = build(Source(name, _TRIED, channels))
    classifier, outputs = logits_layer(module, channels, side)
    if weights is not None and classifier is not None:
        state = read_weights(Path(weights), module)
        own = module.state_dict()
        rows = [key for key, value in own.items() if key.startswith(f"{classifier}.") and value.shape[:1] == (outputs,)]
        if known := [len(state[key]) for key in rows if key in state]:
            return known[0]
    if logits_layer(build(Source(name, _TRIED + 1, channels)), channels, side)[1] != outputs:
        raise ModelError(
            f"{model} returns as many classes as it is asked for",
            "without labels, their number is that of the classifier in the weights",
            "add --weights FILE",
        )
    return outputs
