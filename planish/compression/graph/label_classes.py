"""Storage and union of the labels that ``channel_labels`` propagates through a network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Ints = npt.NDArray[np.int64]
Dim = tuple[str, int]  # name of a parameter or buffer, and one of its dimensions
FROZEN = 0
ATTRIBUTE = "_planish_channel_labels"


class UnionFind:
    """Disjoint classes of the integers 0, 1, ...; the smallest member represents its class, so a class united with ``FROZEN`` is frozen."""

    def __init__(self) -> None:
        self._parent: Ints = np.zeros(1, np.int64)

    def new(self, n: int) -> Ints:
        """Add ``n`` classes of one member each, and return the members."""
        start = len(self._parent)
        self._parent = np.concatenate([self._parent, np.arange(start, start + n)])
        return np.arange(start, start + n)

    def find(self, members: Ints) -> Ints:
        """Return the class of each member, in the same shape."""
        root = self._parent[members]
        while True:
            above = self._parent[root]
            if np.array_equal(above, root):
                self._parent[members] = root
                return root
            root = above

    def unite(self, a: Ints, b: Ints) -> None:
        """Unite ``a[i]`` with ``b[i]`` for every i."""
        while True:
            a, b = self.find(a), self.find(b)
            differ = a != b
            if not differ.any():
                return
            a, b = a[differ], b[differ]
            np.minimum.at(self._parent, np.maximum(a, b), np.minimum(a, b))


def compact(labels: Tensor) -> Tensor:
    """Reduce broadcast axes (stride 0) to one element, as the others are copies of it."""
    return labels[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in labels.stride())]


class LabelledTensors(TorchFunctionMode):
    """The labels of the tensors of a running network, and their classes.

    Args:
        module: the network that runs within this mode.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.classes = UnionFind()
        self.dims: dict[Dim, Ints] = {}
        # Sizes that modules store as plain integers: (module, attribute, index in a list or -1) -> the labels of the counted channels.
        self.sizes: dict[tuple[str, str, int], Ints] = {}
        self._names = {id(t): n for n, t in [*module.named_parameters(), *module.named_buffers()]}
        self._running: list[tuple[str, nn.Module]] = []

    @contextmanager
    def watching(self, module: nn.Module) -> Iterator[None]:
        """Within this block, ``_running`` holds the stack of running submodules."""
        hooks = []
        for name, child in module.named_modules():
            hooks.append(child.register_forward_pre_hook(lambda m, _, name=name: self._running.append((name, m))))
            hooks.append(child.register_forward_hook(lambda *_: (self._running.pop(), None)[1], always_call=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def dim(self, name: str, dim: int, size: int) -> Tensor:
        """Return the labels of the slices of a parameter along one dimension, created at the first call."""
        if (name, dim) not in self.dims:
            self.dims[name, dim] = self.classes.new(size)
        return torch.from_numpy(self.dims[name, dim])

    def _labels(self, tensor: Tensor) -> Tensor:
        """Return the labels of a tensor; those of constants are frozen."""
        if hasattr(tensor, ATTRIBUTE):
            # Return a new tensor object, so that functions that change a shape in place do not change the stored labels.
            labels: Tensor = getattr(tensor, ATTRIBUTE).detach()
            return labels
        name = self._names.get(id(tensor))
        wide = [d for d, size in enumerate(tensor.shape) if size > 1]
        if name is not None and len(wide) == 1:
            return self.dim(name, wide[0], tensor.shape[wide[0]]).view(tensor.shape)
        if name is not None:
            self._freeze_parameter(tensor)
        return torch.zeros(()).long().expand(tensor.shape)

    def _unite(self, a: Tensor, b: Tensor) -> None:
        shape = np.broadcast_shapes(a.shape, b.shape)
        a, b = a.expand(shape), b.expand(shape)
        once = tuple(slice(0, 1) if s == 0 == t else slice(None) for s, t in zip(a.stride(), b.stride(), strict=True))
        self.classes.unite(a[once].numpy().ravel(), b[once].numpy().ravel())

    def _freeze(self, labels: Tensor) -> None:
        self._unite(labels, torch.zeros(()).long())

    def _freeze_parameter(self, tensor: Tensor) -> None:
        for d, size in enumerate(tensor.shape):
            self._freeze(self.dim(self._names[id(tensor)], d, size))

    def _varying(self, labels: Tensor) -> list[int]:
        """The axes along which the class varies."""
        roots = self.classes.find(compact(labels).numpy())
        return [axis for axis in range(roots.ndim) if roots.shape[axis] > 1 and (roots != roots.take([0], axis)).any()]

    def _unite_along(self, labels: Tensor, axis: int) -> None:
        self._unite(labels, labels.narrow(axis, 0, 1))

    def _channels(self, labels: Tensor, axis: int) -> Tensor:
        """Unite the labels along every axis but ``axis``, and return those along ``axis`` as a vector."""
        axis %= labels.ndim
        for other in self._varying(labels):
            if other != axis:
                self._unite_along(labels, other)
        return labels[tuple(slice(None) if a == axis else 0 for a in range(labels.ndim))]

    @staticmethod
    def _spread(vector: Tensor, axis: int, shape: torch.Size) -> Tensor:
        axis %= len(shape)
        return vector.view([-1 if a == axis else 1 for a in range(len(shape))]).expand(shape)

    def _hold(self, value: int | list[int], *parts: Tensor) -> bool:
        """Find the attributes of the running module that equal this size and record them to be updated; return False if there are none."""
        name, module = self._running[-1]
        found = [key for key, held in vars(module).items() if key[0] != "_" and _same_sizes(held, value)]
        for key in found:
            for place, labels in enumerate(parts):
                vector = self._channels(labels, 0).numpy()
                self.sizes[name, key, place if isinstance(value, list) else -1] = vector
        return bool(found)


def _same_sizes(held: Any, value: int | list[int]) -> bool:
    if isinstance(value, list):
        return isinstance(held, (list, tuple)) and list(held) == value
    return isinstance(held, int) and not isinstance(held, bool) and held == value
