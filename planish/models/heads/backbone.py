"""The maps inside a classifier, by their stride: what detectors and segmenters stand on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from planish.errors import ModelError, first_line
from planish.models.heads.first_and_last import WATCH_SIZE


class Backbone(nn.Module):
    """A classifier up to its last maps; returns the map of each stride, the finest first.

    Where the classifier stops at finer maps than are asked for, convolutions of stride 2 go on from its last one.

    Args:
        classifier: any network for images; with its weights, where it has some.
        channels: of the images.
        strides: powers of two, rising.

    Raises:
        ModelError: its code hides its graph, or it has no map of the finest stride.
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
        except Exception as error:  # whatever the network does with a proxy in place of a tensor
            reason = first_line(error)
            raise ModelError(
                f"the network's code hides its graph: {reason}", "maps are taken from inside it", "choose another backbone"
            ) from error
        self.names = [f"stride_{stride}" for stride in strides if stride in found]
        self.widths = [found[stride][1] for stride in strides if stride in found]
        self.further = nn.ModuleList()
        for _ in strides[len(self.names) :]:
            self.further.append(conv_block(self.widths[-1], self.widths[-1], 3, 2))
            self.widths.append(self.widths[-1])

    def forward(self, x: Tensor) -> list[Tensor]:
        found = self.body(x)
        maps = [found[name] for name in self.names]
        for block in self.further:
            maps.append(block(maps[-1]))
        return maps


def conv_block(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU: what integer kernels take in as one."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def map_strides(classifier: nn.Module, channels: int) -> tuple[int, ...]:
    """The strides of the maps that a classifier has, rising."""
    return tuple(sorted(_maps(classifier, channels)))


@torch.no_grad()
def _maps(network: nn.Module, channels: int) -> dict[int, tuple[str, int]]:
    """The last module that returns a map of each stride, and its channels."""
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
