"""Freezing of layers and layer-wise learning rates, for transfer learning."""

from __future__ import annotations

from typing import Literal

from torch import nn

from planish.artifact import InputSpec
from planish.models.heads.stem_and_classifier import logits_layer, run_order
from planish.models.outputs import decodes

Freeze = Literal["none", "backbone", "gradual", "early"]
_PARTS = 4  # number of parts into which the layers before the classifier are divided
_ALL_TRAINED_BY = 0.5  # share of the training after which all layers are trained


class LayerFreezer:
    """Freezes and unfreezes the layers of a network, divided in execution order into four parts and the classifier. In detectors and
    segmenters the parts are those of the backbone, and all other layers take the place of the classifier.

    Frozen layers are not trained and are in eval mode, so their batch norm uses and keeps its statistics.

    Args:
        module: the network; parameters that do not require gradients are never trained.
        spec: channels and size of its input.
        freeze: ``none`` trains all layers, ``backbone`` only the classifier, ``early`` all but the first part. ``gradual`` unfreezes one
            part after the other, from the last to the first, in equal steps over the first half of training (Howard and Ruder 2018,
            arXiv:1801.06146).
        layer_decay: factor between the learning rate of each part and that of the next part towards the output.
    """

    def __init__(self, module: nn.Module, spec: InputSpec, freeze: Freeze, layer_decay: float) -> None:
        self.freeze, self.layer_decay = freeze, layer_decay
        self._parts: list[list[nn.Module]] = [[] for _ in range(_PARTS + 1)]
        self._learning = {p for p in module.parameters() if p.requires_grad}
        self._unfrozen = -1
        self._where: dict[nn.Parameter, int] = {}
        if freeze == "none" and layer_decay == 1:
            return
        layers = [layer for _, layer in run_order(module, spec.channels, (spec.height, spec.width))[0]]
        last = max(i for i, layer in enumerate(layers) if _has_matrix(layer))
        body, own = _body(module), list[nn.Parameter]()
        early = layers[:last] if body is None else [layer for layer in layers if layer in body]
        if not decodes(module) and isinstance(layers[last], nn.Conv2d | nn.Linear) and _has_matrix(module):
            classifier, _ = logits_layer(module, spec.channels, (spec.height, spec.width))
            if classifier is None:  # forward multiplies by a parameter of the network itself
                early, own = layers, list(module.parameters(recurse=False))
        self._parts[_PARTS] = [layer for layer in layers if layer not in set(early)]
        for i, layer in enumerate(early):
            self._parts[i * _PARTS // len(early)].append(layer)
        self._where = {p: number for number, part in enumerate(self._parts) for layer in part for p in layer.parameters()}
        self._where |= dict.fromkeys(own, _PARTS)
        number = 0
        for parameter in module.parameters():  # parameters of blocks themselves, such as a layer scale, belong to the preceding layer
            number = self._where.setdefault(parameter, number)

    def rate_of(self, parameter: nn.Parameter) -> float:
        """The learning-rate factor of a parameter."""
        return 1.0 if self.layer_decay == 1 else self.layer_decay ** (_PARTS - self._where[parameter])

    def release(self) -> None:
        """Let all parameters require gradients again that did at first."""
        for parameter in self._learning:
            parameter.requires_grad_()

    def __call__(self, progress: float, restart: bool = False) -> None:
        """Freeze and unfreeze layers as the progress requires.

        Args:
            progress: progress of the training, 0 to 1.
            restart: whether the whole network was put into train mode since the last call.
        """
        if self.freeze == "none":
            return
        unfrozen = {"backbone": 1, "early": _PARTS}.get(self.freeze) or min(_PARTS + 1, 1 + int(progress / _ALL_TRAINED_BY * _PARTS))
        if unfrozen == self._unfrozen and not restart:
            return
        self._unfrozen = unfrozen
        first = _PARTS + 1 - unfrozen
        for number, part in enumerate(self._parts):
            for layer in part:
                layer.train(number >= first)
        for parameter, number in self._where.items():
            parameter.requires_grad_(number >= first and parameter in self._learning)


def _has_matrix(layer: nn.Module) -> bool:
    """Whether the layer itself has a parameter that is no scale or offset, as norms have."""
    return any(parameter.ndim >= 2 for parameter in layer.parameters(recurse=False))


def _body(module: nn.Module) -> set[nn.Module] | None:
    """The layers of the classifier inside a detector or segmenter; None for other networks."""
    if not decodes(module):
        return None
    backbone = next((layer for name, layer in module.named_modules() if name.rpartition(".")[2] == "backbone"), None)
    return None if backbone is None else set(getattr(backbone, "body", backbone).modules())
