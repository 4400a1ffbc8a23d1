"""Regularisation by noise inside a network during training: dropout, DropConnect, stochastic depth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from planish.artifact import Artifact
from planish.errors import TechniqueError
from planish.models.heads.stem_and_classifier import find_classifier
from planish.models.surgery.graph import changed, copied, insert_after, residual_branches

if TYPE_CHECKING:
    from planish.task import Task


class DropConnectLinear(nn.Linear):
    """A linear layer with DropConnect: in training mode each weight is zeroed with probability ``p``, drawn anew for every batch."""

    p: float

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, F.dropout(self.weight, self.p, self.training), self.bias)


class DropConnectConv2d(nn.Conv2d):
    """A convolution with DropConnect, see ``DropConnectLinear``."""

    p: float

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self._conv_forward(x, F.dropout(self.weight, self.p, self.training), self.bias)
        return out


class DropBranch(nn.Module):
    """Zeroes its input with probability ``p`` for each image in training mode, and scales the rest by ``1 / (1 - p)``.

    Args:
        p: drop probability, below 1.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        kept = x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(1 - self.p)
        return x * kept / (1 - self.p)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Dropout:
    """Sets the rate of the network's dropout layers, or inserts dropout before the classifier if it has none.

    Args:
        p: probability with which each input of a dropout layer is zeroed; 0 for none.
    """

    p: float = Field(ge=0, lt=1)

    name: ClassVar[str] = "dropout"
    reference: ClassVar[str] = "Srivastava et al. 2014, JMLR 15"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"format": ("torch",), "precision": ("fp32",)}

    def __str__(self) -> str:
        return f"dropout {self.p:g}"

    @property
    def changes(self) -> dict[str, str]:
        return {}

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Set the dropout rate, or insert dropout.

        Raises:
            ModelError: the classifier of a network without dropout was not found.
        """
        module, spec = copied(artifact), artifact.input_spec
        there = [m for m in module.modules() if isinstance(m, nn.Dropout | nn.AlphaDropout)]
        name = "" if there else find_classifier(module, spec.channels, (spec.height, spec.width))[0]
        structure = {"p": self.p, "before": name}
        notes = f"before {name}" if name else f"{len(there)} dropouts are {self.p:g}"
        return changed(artifact, self, self.rebuild(module, structure), structure, notes)

    @staticmethod
    def rebuild(module: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Repeat the change on a newly built network, before its weights are loaded."""
        if name := structure["before"]:
            module.set_submodule(name, nn.Sequential(nn.Dropout(structure["p"]), module.get_submodule(name)))
        for m in module.modules():
            if isinstance(m, nn.Dropout | nn.AlphaDropout):
                m.p = structure["p"]
        return module


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class DropConnect:
    """Zeroes weights, instead of activations as dropout does, with probability ``p`` during training.

    Args:
        p: drop probability of each weight; 0 for none.
        layers: ``linear`` for linear layers only, as in the paper, or ``all`` to include convolutions.
    """

    p: float = Field(ge=0, lt=1)
    layers: Literal["linear", "all"] = "linear"

    name: ClassVar[str] = "dropconnect"
    reference: ClassVar[str] = "Wan et al. 2013, Regularization of neural networks using DropConnect, ICML"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"format": ("torch",), "precision": ("fp32",)}

    def __str__(self) -> str:
        return f"DropConnect {self.p:g}" + (" everywhere" if self.layers == "all" else "")

    @property
    def changes(self) -> dict[str, str]:
        return {}

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Replace the layers by layers with DropConnect.

        Raises:
            TechniqueError: the network has no such layer.
        """
        module = copied(artifact)
        structure = {"p": self.p, "layers": self.layers}
        module = self.rebuild(module, structure)
        count = sum(isinstance(m, DropConnectLinear | DropConnectConv2d) for m in module.modules())
        if not count:
            raise TechniqueError(f"{artifact.lineage.source.name} has no linear layer", "those leave weights out", 'layers="all"')
        return changed(artifact, self, module, structure, f"{count} layers leave out weights")

    @staticmethod
    def rebuild(module: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Repeat the change on a newly built network, before its weights are loaded."""
        for m in module.modules():
            if type(m) in (nn.Linear, DropConnectLinear):
                m.__class__ = DropConnectLinear
            elif structure["layers"] == "all" and type(m) in (nn.Conv2d, DropConnectConv2d):
                m.__class__ = DropConnectConv2d
            else:
                continue
            m.p = structure["p"]
        return module


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class StochasticDepth:
    """Drops whole residual branches for single images during training. The drop probability rises linearly over the branches, to ``p`` at
    the last one. In a network that already has stochastic depth, its probabilities are set.

    Args:
        p: drop probability of the last branch.
    """

    p: float = Field(ge=0, lt=1)

    name: ClassVar[str] = "stochastic_depth"
    reference: ClassVar[str] = "Huang et al. 2016, arXiv:1603.09382"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"format": ("torch",), "precision": ("fp32",)}

    def __str__(self) -> str:
        return f"stochastic depth {self.p:g}"

    @property
    def changes(self) -> dict[str, str]:
        return {}

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Set the drop probabilities, or insert stochastic depth.

        Raises:
            TechniqueError: the network has no residual branch, or cannot be traced.
        """
        module = copied(artifact)
        branches = [] if _drops(module) else residual_branches(module)
        if not branches and not _drops(module):
            raise TechniqueError(
                f"{artifact.lineage.source.name} has no residual branch", "only what a shortcut passes by can be left out", "use dropout"
            )
        structure = {"p": self.p, "branches": branches}
        module = self.rebuild(module, structure)
        return changed(artifact, self, module, structure, f"{len(_drops(module))} branches are left out at times")

    @staticmethod
    def rebuild(module: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Repeat the change on a newly built network, before its weights are loaded."""
        for name in structure["branches"]:
            insert_after(module, name, DropBranch(0.0))
        drops = _drops(module)
        for number, drop in enumerate(drops, 1):
            p = structure["p"] * number / len(drops)
            setattr(drop, "drop_prob" if hasattr(drop, "drop_prob") else "p", p)
        return module


def _drops(module: nn.Module) -> list[nn.Module]:
    """The stochastic-depth modules of this package, torchvision and timm."""
    return [m for m in module.modules() if isinstance(m, DropBranch) or type(m).__name__ in ("StochasticDepth", "DropPath")]
