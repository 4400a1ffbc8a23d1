"""Networks whose outputs are taken as they are: they get a method ``decode`` that names their outputs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_leaves

from planish.errors import ModelError, first_line
from planish.models.heads.stem_and_classifier import ImageSides, both_sides, describe_size
from planish.models.outputs import Graph

_LEAST_VARIANCE = 1e-3  # relative to the variance over images and positions


class NamedOutputs:
    """A method ``decode`` that returns the float outputs of a network by name.

    Args:
        names: one for each tensor that the network returns, in order.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)

    def __call__(self, outputs: Any) -> dict[str, Tensor]:
        return {name: values for name, values in zip(self.names, tree_leaves(outputs), strict=True) if values.is_floating_point()}


def with_named_outputs(module: nn.Module, channels: int, image_size: ImageSides, names: Sequence[str] = ()) -> nn.Module:
    """Give a network a method ``decode`` that names its outputs; it takes the place of its own.

    Args:
        module: the network, changed unless it is a graph module.
        channels: image channels.
        image_size: an image size that it runs on.
        names: of the outputs; by default the keys of the mapping that it returns, or ``output`` with a number where it returns several.

    Raises:
        ModelError: it does not run on such images, or no output is a float tensor with a row for each image.
    """
    training = module.training
    try:
        with torch.no_grad():
            found = module.eval()(torch.zeros(2, channels, *both_sides(image_size)))
    except Exception as error:  # user code may raise anything
        raise ModelError(
            f"the network does not run on {describe_size(image_size)} images with {channels} channels: {first_line(error)}",
            "its outputs are compared on such images",
            "give --image-size",
        ) from error
    finally:
        module.train(training)
    leaves = tree_flatten_with_path(found)[0]
    if not all(isinstance(values, Tensor) for _, values in leaves):
        raise ModelError("the network returns values that are no tensors", "outputs are compared as tensors", "return tensors only")
    if not any(values.is_floating_point() and values.ndim and len(values) == 2 for _, values in leaves):
        raise ModelError(
            f"for two images the network returns {', '.join(str(tuple(values.shape)) for _, values in leaves) or 'nothing'}",
            "the first axis of a float output is the image",
            "return such outputs",
        )
    named = identifiers(names or [keystr(path) or "output" for path, _ in leaves])
    module.decode = NamedOutputs(named)  # type: ignore[assignment]
    return Graph(module, module.graph).train(training) if isinstance(module, fx.GraphModule) else module


def unexplained(outputs: Any, teacher: Any) -> Tensor:
    """The error of float outputs, relative to the spread of the teacher's over the images, averaged over all outputs; a scalar.

    Errors are squared up to the spread and count linearly beyond it (Huber 1964): those of a network that was just pruned may be so large
    that its training would diverge. A thousandth of the variance over positions is added, so that outputs which hardly depend on the image
    do not outweigh the others.
    """
    pairs = zip(tree_leaves(outputs), tree_leaves(teacher), strict=True)
    losses = []
    for ours, theirs in pairs:
        if theirs.is_floating_point():
            variance = theirs.var(0, unbiased=False).mean() + _LEAST_VARIANCE * theirs.var(unbiased=False)
            losses.append(2 * functional.huber_loss(*((values / variance.clamp_min(1e-12).sqrt()) for values in (ours, theirs))))
    return torch.stack(losses).mean()


def identifiers(names: Sequence[str]) -> list[str]:
    """Names that every exporter takes, all different: ``['maps'][0]`` becomes ``maps_0``, and a number alone ``output_0``."""
    found: list[str] = []
    for name in names:
        plain = re.sub(r"\W+", "_", name).strip("_") or "output"
        plain = f"output_{plain}" if plain[0].isdigit() else plain
        while plain in found:
            plain += "_"
        found.append(plain)
    return found
