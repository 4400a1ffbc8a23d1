"""The number of steps of a training, shortened to a time limit, and the progress of the training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from time import monotonic
from typing import Any

from planish.decisions import decide

_WARM_STEPS = 4  # timed after the slow first step, before the duration of a step is estimated
_OFTEN = 0.01  # share of the time limit, between the first corrections
_LATER = 0.25  # maximum share of the remaining steps between two corrections
_PARTS = 200  # of the rest of the training, over which the cost of steps is averaged
_LATE = 1 / 32  # share of the time limit; with less time left there are no more corrections


@dataclass(frozen=True)
class SchedulePlan:
    """The plan for the rest of the training, decided at one of its steps.

    Args:
        at: step of the decision.
        seconds: training time until then.
        start: step from which ``progress`` and ``steps`` count.
        progress: progress at ``start``, 0 to 1.
        steps: number of steps from ``start`` to the end.
        correction: step of the next decision.
    """

    at: int
    seconds: float
    start: int
    progress: float
    steps: int
    correction: int


class Schedule:
    """The progress of a training from 0 to 1 by its steps, so that the learning rate reaches 0 at the last step.

    If the time limit allows fewer steps than the epochs have, the number of steps is estimated from the duration of a step and corrected
    about a dozen times during training. Each correction is a decision that is stored with the run (``planish.decisions``), so that a
    resumed training repeats it exactly. Training time is restored as well, and does not include the interruption.

    Args:
        key: identity of the training, for its decisions.
        total_steps: number of steps of all epochs.
        steps_per_epoch: number of steps per epoch, after which validation follows.
        max_seconds: time limit for training and validation; None for no limit.
        first_validation: estimated duration of a validation in training steps, used until one is measured; 0 without validation.
        seconds: time already spent on setting up the training.
        cost: the relative duration of a step at a progress, if steps differ in it.

    Attributes:
        planned: all plans so far, in order.
    """

    def __init__(
        self,
        key: str,
        total_steps: int,
        steps_per_epoch: int,
        max_seconds: float | None,
        first_validation: float = 0.0,
        seconds: float = 0.0,
        cost: Callable[[float], float] = lambda _: 1.0,
    ) -> None:
        self.key, self.total_steps, self.steps_per_epoch, self.max_seconds = key, total_steps, steps_per_epoch, max_seconds
        self._first_validation, self._cost = first_validation, cost
        steps = 0 if max_seconds is not None and max_seconds <= 0 else total_steps
        self.planned = [SchedulePlan(0, 0.0, 0, 0.0, steps, 1)]
        self._validation: float | None = None  # seconds of the latest validation
        self._validated = 0.0  # seconds of all validations since the last decision
        self._reserved = 0.0  # seconds reserved for work besides the final validation
        self._set_seconds(seconds)

    @property
    def seconds(self) -> float:
        """Training time so far, without interruptions."""
        return self._seconds + monotonic() - self._since

    def seconds_per_step(self, steps: int) -> float:
        """Seconds of one of the steps so far; without the first one and the preparations before it, if others were timed."""
        first = self.planned[1] if len(self.planned) > 1 and 0 < self.planned[1].at < steps else self.planned[0]
        return (self.seconds - first.seconds) / max(1, steps - first.at)

    def _set_seconds(self, seconds: float) -> None:
        self._seconds, self._since = seconds, monotonic()

    def state(self) -> dict[str, Any]:
        """The state for ``restore``, as JSON values."""
        return {
            "planned": [asdict(planned) for planned in self.planned],
            "seconds": self.seconds,
            "validation": [self._validation, self._validated, self._reserved],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state returned by ``state``."""
        self.planned = [SchedulePlan(**each) for each in state["planned"]]
        self._validation, self._validated, self._reserved = state["validation"]
        self._set_seconds(state["seconds"])

    def progress(self, steps: float) -> float:
        """The progress after a number of steps; at most 1."""
        now = self.planned[-1]
        done = steps - now.start
        return 1.0 if done >= now.steps else now.progress + (1 - now.progress) * done / now.steps

    def expected_steps(self) -> int:
        """The total number of steps by the current plan."""
        return self.planned[-1].start + self.planned[-1].steps

    def validated(self, seconds: float, reserved: float = 0.0) -> None:
        """Record the seconds that a validation took, and the seconds to reserve for work besides the final validation."""
        self._validation, self._reserved = seconds, reserved
        self._validated += seconds

    def correct(self, steps: int, shared: Callable[[Callable[[], Any]], Any] = lambda work: work()) -> None:
        """Re-estimate the number of remaining steps if a correction is due; to be called before each step.

        Args:
            steps: number of steps so far.
            shared: see ``Processes.shared``: all processes that train together follow the decision of the first.
        """
        if self.max_seconds is None or steps != self.planned[-1].correction or self.progress(steps) >= 1:
            return
        limit, key = self.max_seconds, f"schedule:{self.key}:{len(self.planned)}"
        self.planned.append(SchedulePlan(**shared(lambda: decide(key, lambda: asdict(self._decided(steps, limit))))))
        self._validated = 0.0
        self._set_seconds(self.planned[-1].seconds)

    def _mean_cost(self, progress: float) -> float:
        """The mean of the cost from this progress to the end."""
        return sum(self._cost(progress + (1 - progress) * (k + 0.5) / _PARTS) for k in range(_PARTS)) / _PARTS

    def _decided(self, steps: int, limit: float) -> SchedulePlan:
        now, seconds = self.planned[-1], self.seconds
        if steps == 1 and seconds < 0.5 * limit:  # steps can be timed from here on
            return SchedulePlan(1, seconds, 0, 0.0, self.total_steps, 1 + min(_WARM_STEPS, max(1, self.steps_per_epoch - 1)))
        cost = sum(self._cost(self.progress(step + 0.5)) for step in range(now.at, steps))
        a_step = max(1e-9, (seconds - now.seconds - self._validated) / cost) * self._mean_cost(self.progress(steps))
        validation = self._first_validation * a_step if self._validation is None else self._validation
        left = limit - seconds - validation - self._reserved
        to_go = max(0, min(self.total_steps - steps, int(left / (a_step + validation / self.steps_per_epoch))))
        wait = to_go if left < _LATE * limit else min(int(_LATER * to_go), int(max(_OFTEN * limit, seconds) / a_step))
        correction = steps + max(1, wait)
        if steps < self.steps_per_epoch:
            correction = min(correction, self.steps_per_epoch)  # when the duration of a validation is known
        if steps + to_go == now.start + now.steps:  # the plan is still right
            return SchedulePlan(steps, seconds, now.start, now.progress, now.steps, correction)
        return SchedulePlan(steps, seconds, steps, self.progress(steps), to_go, correction)
