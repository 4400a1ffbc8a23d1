"""Ensembles of networks, test-time augmentation, and model soups (averages of weights)."""

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
    """An ensemble that averages the probabilities of several networks; returns the logarithm of the mean, which serves as logits.

    Args:
        networks: networks that take the same images and return logits ``(N, classes)``.

    Reference: Lakshminarayanan, Pritzel, Blundell 2017 (arXiv:1612.01474); snapshot ensembles: Huang et al. 2017 (arXiv:1704.00109).

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
    """Test-time augmentation: the mean of one network's probabilities over several views of an image, as logits.

    Args:
        network: takes images ``(N, C, H, W)`` and returns logits.
        flip: whether to include horizontally flipped views; False if flipping changes the class (digits, letters, arrows).
        shift: pixels by which further views are shifted up, down, left and right, with replicated borders; 0 for none.

    Reference: Krizhevsky, Sutskever, Hinton 2012, ImageNet classification with deep convolutional neural networks.

    Raises:
        ModelError: neither flip nor shift is set.
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
    """A network whose weights are the mean of several networks' weights.

    Args:
        module: the network in eval mode.
        members: indices of the networks that are averaged, in the order in which they were added.
    """

    module: nn.Module
    members: tuple[int, ...]


def uniform_soup(networks: Sequence[nn.Module], fit_statistics: Callable[[nn.Module], None]) -> Soup:
    """Average the weights of all networks, which must be fine-tuned copies of one network.

    Args:
        networks: networks of one architecture.
        fit_statistics: re-estimates batch-norm statistics in place, as the mean of the networks' statistics does not fit the mean weights.

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
    """Start from the best network and add the others, best first, keeping each that does not lower the score of the averaged weights.

    On the images used for scoring, the soup is therefore at least as good as the best network.

    Args:
        networks: networks of one architecture.
        score: returns the score of a network on validation images; higher is better.
        fit_statistics: see ``uniform_soup``; not applied if the soup is the best network alone.

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
    """The logarithm of the mean probabilities, from logits ``(networks, N, classes)`` to ``(N, classes)``."""
    return functional.log_softmax(logits, dim=2).logsumexp(0) - math.log(len(logits))
