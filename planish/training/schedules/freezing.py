"""Which layers learn when, and how fast: what transfer learning turns."""

from __future__ import annotations

from typing import Literal

from torch import nn

from planish.artifact import InputSpec
from planish.models.heads.first_and_last import run_order

Freeze = Literal["none", "backbone", "gradual"]
_PARTS = 4  # that the layers before the classifier are cut into
_ALL_TRAINED_BY = 0.5  # of the training, from which on all layers train


class LayerFreezer:
    """The layers of a network in the order in which they run, in four parts and the classifier; some of them frozen at first.

    Frozen layers do not learn, and are in eval mode: their batch norm uses, and keeps, the statistics that it came with.

    Args:
        module: the network; parameters that ask for no gradient never learn.
        spec: its input.
        freeze: ``backbone``: the classifier alone learns. ``gradual``: one part more, from the last to the first, in equal steps over the
            first half of training (Howard and Ruder 2018, arXiv:1801.06146).
        layer_decay: each part learns at that factor of the rate of the part behind it.
    """

    def __init__(self, module: nn.Module, spec: InputSpec, freeze: Freeze, layer_decay: float) -> None:
        self.freeze, self.layer_decay = freeze, layer_decay
        self._parts: list[list[nn.Module]] = [[] for _ in range(_PARTS + 1)]
        self._learning = {p for p in module.parameters() if p.requires_grad}
        self._unfrozen = -1
        self._where: dict[nn.Parameter, int] = {}
        if freeze == "none" and layer_decay == 1:
            return
        layers = [layer for _, layer in run_order(module, spec.channels, spec.height)[0]]
        last = max(i for i, layer in enumerate(layers) if isinstance(layer, nn.Conv2d | nn.Linear))
        for i, layer in enumerate(layers):
            self._parts[_PARTS if i >= last else i * _PARTS // last].append(layer)
        self._where = {p: number for number, part in enumerate(self._parts) for layer in part for p in layer.parameters()}
        number = 0
        for parameter in module.parameters():  # those of blocks themselves, for example a scale per channel, go with the layer before
            number = self._where.setdefault(parameter, number)

    def rate_of(self, parameter: nn.Parameter) -> float:
        """The factor on the learning rate of one parameter."""
        return 1.0 if self.layer_decay == 1 else self.layer_decay ** (_PARTS - self._where[parameter])

    def __call__(self, progress: float, restart: bool = False) -> None:
        """Freeze and unfreeze the layers that are due.

        Args:
            progress: of the training, 0 to 1.
            restart: the network was put into train mode as a whole.
        """
        if self.freeze == "none":
            return
        unfrozen = 1 if self.freeze == "backbone" else min(_PARTS + 1, 1 + int(progress / _ALL_TRAINED_BY * _PARTS))
        if unfrozen == self._unfrozen and not restart:
            return
        self._unfrozen = unfrozen
        first = _PARTS + 1 - unfrozen
        for number, part in enumerate(self._parts):
            for layer in part:
                layer.train(number >= first)
        for parameter, number in self._where.items():
            parameter.requires_grad_(number >= first and parameter in self._learning)
