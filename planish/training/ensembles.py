"""Several networks, or several views of an image, as one network; and several networks' weights as one network's."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from planish.errors import ModelError


class Ensemble(nn.Module):
    """The mean of the probabilities of several networks that take the same images; returns its logarithm, which serves as logits.

    Args:
        networks: each returns logits ``(N, classes)``.

    Reference: Lakshminarayanan, Pritzel, Blundell 2017 (arXiv:1612.01474); of snapshots: Huang et al. 2017 (arXiv:1704.00109).

    Example:
        >>> Ensemble([nn.Linear(4, 3), nn.Linear(4, 3)])(torch.zeros(2, 4)).exp().sum(1).shape
        torch.Size([2])
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _mean(torch.stack([network(x) for network in self.networks]))


class Views(nn.Module):
    """Test-time augmentation: the mean of the probabilities that one network gives to several views of an image, as logits.

    Args:
        network: takes images ``(N, C, H, W)``.
        flip: also look at the mirrored image; False where that changes the class (digits, letters, arrows).
        shift: pixels by which the image is also moved, up, down, left and right; its border is repeated there. 0 for none.

    Reference: Krizhevsky, Sutskever, Hinton 2012, ImageNet classification with deep convolutional neural networks.

    Raises:
        ModelError: there is no view but the image itself.
    """

    def __init__(self, network: nn.Module, *, flip: bool = True, shift: int = 0) -> None:
        super().__init__()
        if not flip and shift < 1:
            raise ModelError("views without flip and shift", "there must be another view than the image itself", "set flip, or shift=1")
        self.network, self.flip, self.shift = network, flip, shift

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        views = [x]
        if self.shift:
            by, (height, width) = self.shift, x.shape[2:]
            wide = functional.pad(x, (by, by, by, by), mode="replicate")
            views += [wide[:, :, y : y + height, z : z + width] for y, z in ((0, by), (2 * by, by), (by, 0), (by, 2 * by))]
        if self.flip:
            views += [view.flip(3) for view in views]
        return _mean(self.network(torch.cat(views)).unflatten(0, (len(views), -1)))

    def extra_repr(self) -> str:
        return f"flip={self.flip}, shift={self.shift}"


@dataclass(frozen=True)
class Soup:
    """One network made of the mean of several networks' weights.

    Args:
        module: in eval mode.
        members: which of the given networks are in it, the first chosen first.
    """

    module: nn.Module
    members: tuple[int, ...]


def uniform_soup(networks: Sequence[nn.Module], fit_statistics: Callable[[nn.Module], None]) -> Soup:
    """The mean of the weights of all networks, which must be copies of one network that were trained on.

    Args:
        networks: of one architecture.
        fit_statistics: estimates batch-norm statistics anew, in place; the mean of the networks' own does not fit their mean weights.

    Reference: Wortsman et al. 2022 (arXiv:2203.05482).
    """
    soup = copy.deepcopy(networks[0]).eval()
    states = [network.state_dict() for network in networks]
    for name, value in soup.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.stack([state[name].double() for state in states]).mean(0))
    fit_statistics(soup)
    return Soup(soup, tuple(range(len(networks))))


def greedy_soup(networks: Sequence[nn.Module], score: Callable[[nn.Module], float], fit_statistics: Callable[[nn.Module], None]) -> Soup:
    """The best network, and every other, best first, that does not make the mean of the weights worse.

    So the soup is on the images that it was chosen with at least as good as the best network.

    Args:
        networks: of one architecture.
        score: of a network, on validation images; higher is better.
        fit_statistics: see ``uniform_soup``; the best network alone keeps its own.

    Reference: Wortsman et al. 2022 (arXiv:2203.05482), recipe 1.
    """
    scores = [score(network) for network in networks]
    first, *others = sorted(range(len(networks)), key=lambda i: -scores[i])
    best, reached = Soup(networks[first], (first,)), scores[first]
    for i in others:
        members = (*best.members, i)
        soup = uniform_soup([networks[member] for member in members], fit_statistics).module
        if (found := score(soup)) >= reached:
            best, reached = Soup(soup, members), found
    return best


def _mean(logits: torch.Tensor) -> torch.Tensor:
    """The logarithm of the mean of probabilities; ``(networks, N, classes)`` to ``(N, classes)``."""
    return functional.log_softmax(logits, dim=2).logsumexp(0) - math.log(len(logits))
