"""Backbones of detectors and segmenters: the feature maps inside a classifier, by their stride."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from planish.errors import ModelError, first_line
from planish.models.heads.stem_and_classifier import WATCH_SIZE


class Backbone(nn.Module):
    """A classifier up to its last feature maps; returns the map of each stride, the finest first.

    A map that the classifier lacks is made by a convolution of stride 2 from the next finer one.

    Args:
        classifier: any image classifier, with its weights if it has any.
        channels: number of image channels.
        strides: strides of the returned maps, ascending: each is twice the one before.

    Raises:
        ModelError: the classifier cannot be traced, or has no map of the finest stride.
    """

    def __init__(self, classifier: nn.Module, channels: int, strides: Sequence[int]) -> None:
        super().__init__()
        found = {stride: (name, width) for stride, (name, width) in _maps(classifier, channels).items() if stride in strides}
        if not found or min(found) != min(strides):
            raise ModelError(
                f"the network has maps of stride {', '.join(map(str, found)) or 'none'}",
                f"a pyramid begins at stride {min(strides)}",
                "choose a network made for photos, such as resnet18 or mobilenet_v2",
            )
        try:
            self.body = create_feature_extractor(classifier, {name: f"stride_{stride}" for stride, (name, _) in found.items()})
        except Exception as error:  # the network's code may raise anything when it is traced with proxies
            reason = first_line(error)
            raise ModelError(
                f"the network's code hides its graph: {reason}", "maps are taken from inside it", "choose another backbone"
            ) from error
        self.names = [f"stride_{stride}" if stride in found else "" for stride in strides]
        self.widths: list[int] = []
        self.further = nn.ModuleList()
        for stride in strides:
            if stride in found:
                self.widths.append(found[stride][1])
            else:
                self.further.append(conv_block(self.widths[-1], self.widths[-1], 3, 2))
                self.widths.append(self.widths[-1])

    def __deepcopy__(self, memo: dict[int, Any]) -> Backbone:
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        vars(copied).update(copy.deepcopy(vars(self), memo))
        copied.body.train(self.body.training)  # torchvision's copy is always in training mode, and runs the graph of that mode
        modes = {name: part.training for name, part in self.body.named_modules()}
        for name, part in copied.body.named_modules():
            part.training = modes[name]
        return copied

    def forward(self, x: Tensor) -> list[Tensor]:
        found, further = self.body(x), iter(self.further)
        maps: list[Tensor] = []
        for name in self.names:
            maps.append(found[name] if name else next(further)(maps[-1]))
        return maps


def conv_block(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm and ReLU, which integer kernels fuse."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def map_strides(classifier: nn.Module, channels: int) -> tuple[int, ...]:
    """The strides of a classifier's feature maps, ascending."""
    return tuple(sorted(_maps(classifier, channels)))


@torch.no_grad()
def _maps(network: nn.Module, channels: int) -> dict[int, tuple[str, int]]:
    """For each stride, the name of the last module that returns a map of that stride, and its number of channels."""
    seen: dict[int, tuple[str, int]] = {}

    def keep(name: str, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] > 1:
            stride = round(WATCH_SIZE / output.shape[2])
            if all(stride >= before for before in seen):
                seen[stride] = (name, output.shape[1])

    hooks = [m.register_forward_hook(lambda _m, _i, output, name=name: keep(name, output)) for name, m in network.named_modules() if name]
    modes = [(m, m.training) for m in network.modules()]
    try:
        network.eval()(torch.zeros(1, channels, WATCH_SIZE, WATCH_SIZE))
    finally:
        for hook in hooks:
            hook.remove()
        for m, training in modes:
            m.training = training
    return seen
