"""Replacement of a network's activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import nn
from torch.nn import functional as F

from planish.artifact import Artifact
from planish.errors import TechniqueError
from planish.models.surgery.graph import changed, copied, functions_as_modules, replaced

if TYPE_CHECKING:
    from planish.task import Task

Kind = Literal["sigmoid", "tanh", "relu", "relu6", "leaky_relu", "prelu", "elu", "selu", "gelu", "silu", "hard_swish", "mish"]
_MAKE: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU, "relu6": nn.ReLU6, "leaky_relu": partial(nn.LeakyReLU, 0.01),
    "prelu": nn.PReLU, "elu": nn.ELU, "selu": nn.SELU, "gelu": nn.GELU, "silu": nn.SiLU, "hard_swish": nn.Hardswish, "mish": nn.Mish,
}  # fmt: skip
# sigmoid and hard sigmoid are left out: they are the gates of squeeze-and-excitation
_ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Mish, nn.Tanh,
    nn.Softplus,
)  # fmt: skip
_TIMMS = {"Swish", "HardSwish", "Mish", "GELU", "GELUTanh", "QuickGELU", "PReLU", "HardMish", "Tanh"}
_FUNCTIONS: dict[Any, Callable[[], nn.Module]] = {
    F.relu: nn.ReLU, torch.relu: nn.ReLU, torch.relu_: nn.ReLU, "relu": nn.ReLU, "relu_": nn.ReLU, F.relu6: nn.ReLU6, F.silu: nn.SiLU,
    F.gelu: nn.GELU, F.hardswish: nn.Hardswish, F.elu: nn.ELU, F.selu: nn.SELU, F.mish: nn.Mish, F.leaky_relu: nn.LeakyReLU,
    torch.tanh: nn.Tanh, F.tanh: nn.Tanh, "tanh": nn.Tanh,
}  # fmt: skip
_WITHOUT_INT8 = {"tanh", "prelu", "elu", "selu", "gelu", "mish"}


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Activation:
    """Replaces all activations between a network's layers by one kind; gates (sigmoid, hard sigmoid) are kept.

    ``leaky_relu`` is ``x`` where ``x > 0`` and 0.01 ``x`` elsewhere; ``prelu`` learns that slope, one for each activation layer. ``selu``
    expects LeCun initialisation (``Initialization("matched")``) and alpha dropout, which replaces dropout.

    Args:
        kind: the new activation.

    Example:
        >>> print(Activation("elu"))
        activation elu
    """

    kind: Kind

    name: ClassVar[str] = "activation"
    reference: ClassVar[str] = (
        "He et al. 2015, arXiv:1502.01852 (PReLU); Clevert et al. 2016, arXiv:1511.07289 (ELU); Klambauer et al. 2017, arXiv:1706.02515 "
        "(SELU); Hendrycks and Gimpel 2016, arXiv:1606.08415 (GELU); Ramachandran et al. 2017, arXiv:1710.05941 (SiLU); Howard et al. "
        "2019, arXiv:1905.02244 (hard-swish); Misra 2020, arXiv:1908.08681 (Mish)"
    )
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"format": ("torch",), "precision": ("fp32",)}

    def __str__(self) -> str:
        return f"activation {self.kind}"

    @property
    def changes(self) -> dict[str, str]:
        return {}

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Replace the activations.

        Raises:
            TechniqueError: no activation was found.
        """
        module, count = _swapped(copied(artifact), self.kind)
        if not count:
            raise TechniqueError(
                f"no activation was found in {artifact.lineage.source.name}",
                "it is a module, or a function in code that can be traced",
                "write nn.ReLU() in place of what the network calls",
            )
        notes = f"{count} activations are {self.kind}"
        if self.kind in _WITHOUT_INT8:
            notes += "; ONNX Runtime has no integer kernel for it, so INT8 gains little"
        return changed(artifact, self, module, {"kind": self.kind}, notes)

    @staticmethod
    def rebuild(module: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Repeat the change on a newly built network, before its weights are loaded."""
        return _swapped(module, structure["kind"])[0]


def is_activation(module: nn.Module) -> bool:
    """Whether the module is an activation between layers, as opposed to a gate."""
    return isinstance(module, _ACTIVATIONS) or (type(module).__module__.startswith("timm.") and type(module).__name__ in _TIMMS)


def with_activation_modules(module: nn.Module) -> nn.Module:
    """The network, with activations that its code calls as functions replaced by modules."""
    return functions_as_modules(module, [(lambda node: node.target in _FUNCTIONS, lambda node: _FUNCTIONS[node.target]())])


def _swapped(module: nn.Module, kind: str) -> tuple[nn.Module, int]:
    module = with_activation_modules(module)
    count = replaced(module, is_activation, lambda _: _MAKE[kind]())
    if kind == "selu":
        replaced(module, lambda m: type(m) is nn.Dropout, lambda m: nn.AlphaDropout(m.p))  # type: ignore[arg-type]
    return module, count
