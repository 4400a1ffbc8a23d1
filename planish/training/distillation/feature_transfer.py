"""Distillation from a teacher's feature maps."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from planish.errors import TechniqueError

Transfer = Literal["feature", "attention"]
_STAGES = 4  # maximum number of stages that are compared, the deepest ones


class FeatureRecorder(nn.Module):
    """A wrapper that stores the outputs of some layers in each forward pass.

    Args:
        network: the wrapped network, whose inputs and outputs do not change.
        layers: names of the layers whose outputs are stored in ``maps``.
    """

    def __init__(self, network: nn.Module, layers: list[str]) -> None:
        super().__init__()
        self.network, self.layers = network, layers
        self.maps: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Any:
        self.maps = {}
        hooks = [self.network.get_submodule(name).register_forward_hook(partial(self._keep, name)) for name in self.layers]
        try:
            return self.network(x)
        finally:
            for hook in hooks:
                hook.remove()

    def _keep(self, name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.maps[name] = output


class FeatureStudent(FeatureRecorder):
    """A student that also computes the distance of its feature maps from a teacher's.

    ``feature``: the mean squared difference between the teacher's maps and the student's, projected to the teacher's channels by a learned
    1x1 convolution, divided by the teacher's variance (FitNets, Romero et al. 2015, arXiv:1412.6550). ``attention``: the squared distance
    of attention maps, which are the mean of squares over channels, normalised to length 1 (Zagoruyko and Komodakis 2017,
    arXiv:1612.03928).

    Args:
        network: the student.
        teacher: the teacher.
        example: normalised images ``(N, C, H, W)`` that both take.
        kind: ``feature`` or ``attention``.

    Raises:
        TechniqueError: the two networks have no feature maps to compare.
    """

    def __init__(self, network: nn.Module, teacher: nn.Module, example: Tensor, kind: Transfer) -> None:
        ours, theirs = stages(network, example), stages(teacher, example)
        count = min(len(ours), len(theirs), _STAGES)
        if not count:
            raise TechniqueError("student and teacher have no maps (N, C, H, W) to compare", f"{kind} transfer compares them", "use logits")
        super().__init__(network, list(ours)[-count:])
        self.kind, self.teacher_layers = kind, list(theirs)[-count:]
        if kind == "feature":
            pairs = zip(self.layers, self.teacher_layers, strict=True)
            self.regressors = nn.ModuleList(nn.Conv2d(ours[a].shape[1], theirs[b].shape[1], 1) for a, b in pairs)

    def distance(self, teacher: nn.Module) -> Tensor:
        """The distance in the last forward pass, averaged over stages; a scalar.

        Args:
            teacher: a ``FeatureRecorder`` teacher, or an ensemble whose first network is one.
        """
        teacher_maps = next(m for m in teacher.modules() if isinstance(m, FeatureRecorder)).maps
        distances = []
        for i, (layer, teacher_layer) in enumerate(zip(self.layers, self.teacher_layers, strict=True)):
            ours, theirs = self.maps[layer].float(), teacher_maps[teacher_layer].float()
            if theirs.shape[2:] != ours.shape[2:]:
                theirs = F.interpolate(theirs, ours.shape[2:], mode="bilinear", antialias=True)
            if self.kind == "attention":
                distances.append((_attention(ours) - _attention(theirs)).square().sum(1).mean())
            else:
                distances.append(F.mse_loss(self.regressors[i](ours), theirs) / theirs.var().clamp_min(1e-12))
        return torch.stack(distances).mean()


def _attention(maps: Tensor) -> Tensor:
    return F.normalize(maps.square().mean(1).flatten(1), dim=1)


@torch.no_grad()
def stages(network: nn.Module, example: Tensor) -> dict[str, Tensor]:
    """The last feature map of each size, by the name of its layer, in execution order; maps with a side of one pixel are left out.

    Args:
        network: the network; its train or eval mode is restored.
        example: images that it takes.
    """
    seen: dict[tuple[int, int], tuple[str, Tensor]] = {}

    def keep(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) > 1:
            size = (output.shape[2], output.shape[3])
            if all(size <= before for before in seen):  # pooling to a fixed size may enlarge the last maps (VGG)
                seen[size] = (name, output)

    hooks = [module.register_forward_hook(partial(keep, name)) for name, module in network.named_modules() if name]
    modes = [(module, module.training) for module in network.modules()]
    try:
        network.eval()(example)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
    return dict(seen.values())
