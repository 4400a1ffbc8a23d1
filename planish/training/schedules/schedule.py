"""How many steps a training takes where its time is limited, and how far along it is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from time import monotonic
from typing import Any

from planish.decisions import decide

_WARM_STEPS = 4  # the first one is slow, and a few more are needed to say how long a step takes
_OFTEN = 0.01  # of the time, between two corrections at first
_LATER = 0.25  # of the steps that are left, between two corrections at most
_LATE = 1 / 32  # of the time; where no more is left, nothing is corrected


@dataclass(frozen=True)
class Planned:
    """How the training goes on, decided at one of its steps.

    Args:
        at: the step.
        seconds: that the training had taken.
        start: the step from which the progress below is counted.
        progress: there, 0 to 1.
        steps: from there to the end.
        correction: the step at which this is decided again.
    """

    at: int
    seconds: float
    start: int
    progress: float
    steps: int
    correction: int


class Schedule:
    """Progress from 0 to 1 by steps, so that the learning rate reaches 0 with the last one.

    Where the time allows fewer steps than the epochs have, their number follows from how long steps take, and is corrected a dozen times on
    the way. Each time is a decision that an interrupted run remembers (``planish.decisions``), so that the training, resumed, is the one
    that it was; its own seconds go on from where they were, and what the interruption took is not among them.

    Args:
        key: of the training, for its decisions.
        total_steps: of all epochs.
        steps_an_epoch: after each of which there is validation.
        max_seconds: that it may take, validation included; None for as long as it takes.
        first_validation: what that takes, in steps, as long as it was not measured; 0 for none.
        seconds: that were spent by now on making everything ready.

    Attributes:
        planned: all that was decided, in order.
    """

    def __init__(
        self,
        key: str,
        total_steps: int,
        steps_an_epoch: int,
        max_seconds: float | None,
        first_validation: float = 0.0,
        seconds: float = 0.0,
    ) -> None:
        self.key, self.total_steps, self.steps_an_epoch, self.max_seconds = key, total_steps, steps_an_epoch, max_seconds
        self._first_validation = first_validation
        steps = 0 if max_seconds is not None and max_seconds <= 0 else total_steps
        self.planned = [Planned(0, 0.0, 0, 0.0, steps, 1)]
        self._validation: float | None = None  # seconds of one
        self._validated = 0.0  # seconds of all since the last decision
        self._reserved = 0.0  # seconds that come on top of the last validation
        self._set_seconds(seconds)

    @property
    def seconds(self) -> float:
        """That the training has taken, without interruptions."""
        return self._seconds + monotonic() - self._since

    def _set_seconds(self, seconds: float) -> None:
        self._seconds, self._since = seconds, monotonic()

    def state(self) -> dict[str, Any]:
        """What ``restore`` needs, JSON values."""
        return {
            "planned": [asdict(planned) for planned in self.planned],
            "seconds": self.seconds,
            "validation": [self._validation, self._validated, self._reserved],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from where ``state`` was taken."""
        self.planned = [Planned(**each) for each in state["planned"]]
        self._validation, self._validated, self._reserved = state["validation"]
        self._set_seconds(state["seconds"])

    def progress(self, steps: float) -> float:
        """After that many steps; at most 1."""
        now = self.planned[-1]
        done = steps - now.start
        return 1.0 if done >= now.steps else now.progress + (1 - now.progress) * done / now.steps

    def expected_steps(self) -> int:
        """Of the whole training, as it is planned now."""
        return self.planned[-1].start + self.planned[-1].steps

    def validated(self, seconds: float, reserved: float = 0.0) -> None:
        """Tell what a validation took, and what will come on top of the last one, in seconds."""
        self._validation, self._reserved = seconds, reserved
        self._validated += seconds

    def correct(self, steps: int) -> None:
        """Decide again how many steps are left, where it is time for that; to be called before each step."""
        if self.max_seconds is None or steps != self.planned[-1].correction or self.progress(steps) >= 1:
            return
        limit = self.max_seconds
        self.planned.append(Planned(**decide(f"schedule:{self.key}:{len(self.planned)}", lambda: asdict(self._decided(steps, limit)))))
        self._validated = 0.0
        self._set_seconds(self.planned[-1].seconds)

    def _decided(self, steps: int, limit: float) -> Planned:
        now, seconds = self.planned[-1], self.seconds
        if steps == 1 and seconds < 0.5 * limit:  # from here on steps can be timed
            return Planned(1, seconds, 0, 0.0, self.total_steps, 1 + min(_WARM_STEPS, max(1, self.steps_an_epoch - 1)))
        a_step = max(1e-9, (seconds - now.seconds - self._validated) / (steps - now.at))
        validation = self._first_validation * a_step if self._validation is None else self._validation
        left = limit - seconds - validation - self._reserved
        to_go = max(0, min(self.total_steps - steps, int(left / (a_step + validation / self.steps_an_epoch))))
        wait = to_go if left < _LATE * limit else min(int(_LATER * to_go), int(max(_OFTEN * limit, seconds) / a_step))
        correction = steps + max(1, wait)
        if steps < self.steps_an_epoch:
            correction = min(correction, self.steps_an_epoch)  # where validation is known
        if steps + to_go == now.start + now.steps:  # nothing has changed
            return Planned(steps, seconds, now.start, now.progress, now.steps, correction)
        return Planned(steps, seconds, steps, self.progress(steps), to_go, correction)
