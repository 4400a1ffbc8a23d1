"""Detection of removable residual blocks by running the network, independent of how it is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_ADDS = frozenset({"add", "iadd", "radd"})


@dataclass
class _Call:
    """A call of a module: its input, a copy of the input, and the number of sums in its own code that have the input as a term."""

    name: str
    given: Tensor | None
    kept: Tensor | None
    sums: int = 0


class _Sums(TorchFunctionMode):
    """Counts the sums that have the running module's input as a term.

    Args:
        empty: replace the other term by zeros.
    """

    def __init__(self, empty: bool) -> None:
        super().__init__()
        self.empty = empty
        self.running: list[_Call] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_sum = getattr(func, "__name__", "").strip("_") in _ADDS and len(args) == 2 and all(isinstance(a, Tensor) for a in args)
        if is_sum and self.running and args[0].shape == args[1].shape:
            own = [_is_same(a, self.running[-1].given) for a in args]
            if any(own):
                self.running[-1].sums += 1
                # only in the outermost module, the one being tested; residual blocks within it keep their branches
                if self.empty and len(self.running) == 1:
                    args = tuple(a if mine else torch.zeros_like(a) for a, mine in zip(args, own, strict=True))
        return func(*args, **(kwargs or {}))


def _is_same(tensor: Tensor, given: Tensor | None) -> bool:
    """Whether the tensor is the module's input, possibly passed through an identity or an inactive dropout."""
    return given is not None and tensor.data_ptr() == given.data_ptr() and tensor.shape == given.shape and tensor.stride() == given.stride()


def find_blocks(module: nn.Module, images: Tensor) -> list[str]:
    """The names of the residual blocks that return their input unchanged when their branch is zero, in the order in which they run.

    A block is a module whose own code adds something to its input. Whether its output then equals its input bit for bit is tested on
    real activations. A ReLU after the sum is therefore allowed if the input is never negative; a projection in the shortcut, a change of
    shape or any other operation is not. Blocks within such a block are not listed.

    Args:
        module: the network, in eval mode; not changed.
        images: some normalised images ``(N, C, H, W)``.
    """
    calls: dict[str, list[_Call]] = {}

    def note(call: _Call, output: Any) -> None:
        same_shape = isinstance(output, Tensor) and call.given is not None and output.shape == call.given.shape
        calls.setdefault(call.name, []).append(call)
        if not same_shape or call.sums != 1:
            call.given = call.kept = None

    with torch.no_grad():
        with _watching(module, _Sums(empty=False), note):
            module(images)
        found = []
        for name, each in calls.items():
            if len(each) == 1 and name and each[0].kept is not None:
                block = module.get_submodule(name)
                with _watching(block, _Sums(empty=True), lambda call, output: None):
                    output = block(each[0].kept.clone())
                if torch.equal(output, each[0].kept):
                    found.append(name)
    return [name for name in found if not any(name.startswith(f"{outer}.") for outer in found)]


@contextmanager
def _watching(module: nn.Module, mode: _Sums, note: Callable[[_Call, Any], None]) -> Iterator[None]:
    """Within this block, ``mode.running`` holds the stack of running modules, and ``note(call, output)`` is called after each of them."""

    def enter(inputs: tuple[Any, ...], name: str, is_leaf: bool) -> None:
        given = inputs[0] if len(inputs) == 1 and isinstance(inputs[0], Tensor) and not is_leaf else None
        mode.running.append(_Call(name, given, None if given is None else given.clone()))

    hooks = []
    for name, layer in module.named_modules():
        is_leaf = not any(layer.children())
        hooks.append(layer.register_forward_pre_hook(lambda m, inputs, n=name, leaf=is_leaf: enter(inputs, n, leaf)))
        hooks.append(layer.register_forward_hook(lambda m, inputs, output: note(mode.running.pop(), output)))
    try:
        with mode:
            yield
    finally:
        for hook in hooks:
            hook.remove()
