"""The order in which a network calls its modules and reads its tensors, recorded in one forward pass."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Call:
    """One call of a module.

    Args:
        start: event number at which the call began.
        end: event number at which it ended.
        size_bytes: size of its output; None if the call cannot be replaced by its output, because that is not a tensor or because the call
            changes its inputs in place.
    """

    start: int
    end: int
    size_bytes: int | None


@dataclass(frozen=True)
class _Read:
    """A function read a tensor that the modules ``sources`` returned while the modules ``within`` were running."""

    sources: tuple[str, ...]
    within: tuple[str, ...]


class CallRecord:
    """What happened during a forward pass, in events numbered from 1.

    Args:
        module: the network, in eval mode.
        image: a normalised image ``(1, C, H, W)``.

    Attributes:
        calls: the calls of each module, by name.
        seconds: for each event, the seconds since the start of the pass; the last entry is the whole pass.
    """

    def __init__(self, module: nn.Module, image: Tensor) -> None:
        recorder = _Recorder(module)
        with torch.no_grad():
            module(image)  # the first pass takes longer
            recorder.run(image)
        self.calls, self.seconds = recorder.calls, recorder.seconds
        self._reads, self._first_read = recorder.reads, recorder.first_read

    def first_read(self, names: Iterable[str]) -> int:
        """The first event at which one of these parameters and buffers is read; 0 if one of them was not seen to be read."""
        return min((self._first_read.get(name, 0) for name in names), default=0)

    def share_after(self, event: int) -> float:
        """The share of the time of a forward pass that is spent after an event."""
        return 1 - self.seconds[event] / self.seconds[-1]

    def finished_before(self, event: int) -> set[str]:
        """The outermost modules that were called once, ended before ``event`` and can be replaced by their outputs."""
        finished = {
            name
            for name, calls in self.calls.items()
            if name and len(calls) == 1 and calls[0].end < event and calls[0].size_bytes is not None
        }
        return {name for name in finished if not any(name[:at] in finished for at, letter in enumerate(name) if letter == ".")}

    def read_outside(self, modules: set[str]) -> set[str]:
        """Those of ``modules`` whose outputs are read while none of ``modules`` is running, so that they must be known."""
        return {name for read in self._reads if not modules.intersection(read.within) for name in modules.intersection(read.sources)}


class _Recorder(TorchFunctionMode):
    """Records calls and reads within this context."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.calls: dict[str, list[Call]] = {}
        self.reads: list[_Read] = []
        self.first_read: dict[str, int] = {}
        self.seconds = [0.0]
        self._module = module
        tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
        self._names: dict[int, list[str]] = {}
        for name, tensor in tensors:
            self._names.setdefault(id(tensor), []).append(name)
        self._running: list[str] = []
        self._started: list[tuple[int, list[tuple[Tensor, int]]]] = []
        self._outputs: dict[int, tuple[list[str], Tensor]] = {}  # by id(); tensors are kept alive so that no id is reused
        self._begun = 0.0

    def run(self, image: Tensor) -> None:
        handles = []
        for name, part in self._module.named_modules():
            handles.append(part.register_forward_pre_hook(self._enter(name), with_kwargs=True, prepend=True))
            handles.append(part.register_forward_hook(self._exit(name)))
        self._begun = time.perf_counter()
        try:
            with self:
                returned = self._module(image)
        finally:
            for handle in handles:
                handle.remove()
        self._read(returned)
        self._event()

    def _event(self) -> int:
        self.seconds.append(time.perf_counter() - self._begun)
        return len(self.seconds) - 1

    def _enter(self, name: str) -> Any:
        def hook(_: nn.Module, args: Any, kwargs: Any) -> None:
            self._running.append(name)
            with torch._C.DisableTorchFunction():  # what the recorder reads itself does not count
                given = [(value, value._version) for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
            self._started.append((self._event(), given))

        return hook

    def _exit(self, name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            self._running.pop()
            start, given = self._started.pop()
            size = None
            if type(output) is Tensor:
                self._outputs.setdefault(id(output), ([], output))[0].append(name)
                with torch._C.DisableTorchFunction():
                    kept = all(value._version == version and not _share_memory(value, output) for value, version in given)
                    size = output.numel() * output.element_size() if kept else None
            self.calls.setdefault(name, []).append(Call(start, self._event(), size))

        return hook

    def _read(self, values: Any) -> None:
        for value in tree_leaves(values):
            if not isinstance(value, Tensor):
                continue
            if id(value) in self._outputs:
                self.reads.append(_Read(tuple(self._outputs[id(value)][0]), tuple(self._running)))
            for name in self._names.get(id(value), ()):
                self.first_read.setdefault(name, len(self.seconds))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._read((args, kwargs))
        self._event()
        return func(*args, **(kwargs or {}))


def _share_memory(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
