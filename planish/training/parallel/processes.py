"""Training in several processes: the first one runs the command, the others take part in its trainings.

``accelerate launch`` starts the same command in every process. Only the first one runs it, so that images are split, results written and
latencies measured once. It sends each of its trainings to the others, and then all of them train: each computes the gradients of its share
of every batch, and the mean of the gradients changes the weights in all of them alike.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import cloudpickle
import torch
from accelerate import Accelerator
from torch import distributed, nn

from planish.errors import PlanishError, TrainingError
from planish.training.parallel.pickling import pickled

T = TypeVar("T")
_LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_WAIT = timedelta(days=365)  # between two trainings, for example while latency is measured


@dataclass(frozen=True)
class Processes:
    """The processes that train together, as one of them sees them.

    Args:
        rank: number of this process, from 0, which is the first.
        count: number of processes.
        messages: connection for everything but gradients, over the CPU; None for a single process.
    """

    rank: int = 0
    count: int = 1
    messages: distributed.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def start(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        """In the first process, have all others call a function with these arguments."""
        if self.count > 1 and self.first:
            self._send((function, arguments, options))

    def take_part(self) -> None:
        """Run the functions that the first process starts, until it ends. If it fails, this process ends too, with exit code 1."""
        while True:
            try:
                call = self._send(None)
            except RuntimeError:  # the connection is closed
                sys.exit(1)
            if call is None:
                return
            function, arguments, options = call
            with suppress(PlanishError):  # the first process raises it as well
                function(*arguments, **options)

    def end(self) -> None:
        """Let the other processes end, after a command that succeeded; if the first fails, its launcher stops them."""
        if self.count > 1 and self.first:
            self._send(None)

    def shared(self, work: Callable[[], T]) -> T:
        """Return in every process what ``work`` returned in the first, the only one that calls it.

        Raises:
            PlanishError: raised by ``work``.
        """
        if self.count == 1:
            return work()
        answer: tuple[Any, PlanishError | None] = None, None
        if self.first:
            try:
                answer = work(), None
            except PlanishError as raised:
                answer = None, raised
        value, error = self._send(answer)
        if error is not None:
            raise error
        found: T = value
        return found

    def mean(self, value: float) -> float:
        """The mean of a number over all processes."""
        if self.count == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        distributed.all_reduce(total, group=self.messages)
        return float(total) / self.count

    def average_gradients(self, module: nn.Module) -> None:
        """Replace the gradients by their means over all processes, which must have gradients for the same parameters."""
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        together = torch.cat([gradient.reshape(-1) for gradient in gradients]) / self.count
        distributed.all_reduce(together)
        for gradient, mean in zip(gradients, torch.split(together, [gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(mean.view(gradient.shape))

    def _send(self, value: Any) -> Any:
        """Return the value of the first process."""
        sent = [pickled(value) if self.first else b""]
        distributed.broadcast_object_list(sent, src=0, group=self.messages, device=torch.device("cpu"))
        return cloudpickle.loads(sent[0])


ALONE = Processes()
_now = ALONE


def connect() -> Processes:
    """Connect the processes that ``accelerate launch`` or ``torchrun`` started; to be called at the start of each of them.

    Programs that a process starts are not part of the connection.

    Example:
        >>> connect().count
        1
    """
    global _now
    if _now.count == 1 and _launched() > 1:
        state = Accelerator().state
        _now = Processes(state.process_index, state.num_processes, distributed.new_group(timeout=_WAIT, backend="gloo"))  # type: ignore[arg-type]
        for name in _LAUNCHED:
            os.environ.pop(name, None)
    return _now


def current_processes() -> Processes:
    """Return the processes that train together.

    Raises:
        TrainingError: this is one of several processes that were started together, and they are not connected.
    """
    if _now.count == 1 and (count := _launched()) > 1:
        raise TrainingError(
            f"this program was started in {count} processes, and each of them would train on all images",
            "they train together after planish.training.parallel.connect()",
            "accelerate launch -m planish, which does it",
        )
    return _now


def _launched() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))
