"""Drift detection: compares the inputs and predictions of a served model with the reference statistics of its bundle."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, Literal

from planish.errors import GoalError
from planish.evaluation.statistics.change_detection import MixChange, ValueChange
from planish.export.bundle.folder import REFERENCE
from planish.export.bundle.reference import LARGEST, DriftReference
from planish.files.schema import read_versioned
from planish.serving.monitoring.thinning import Thinning

Period = Literal["day", "week"]
Cycle = Literal["none", "day", "week"]
CLASSES = "class mix"
_SECONDS = {"day": 86_400, "week": 604_800}
_MONDAY = 4 * 86_400  # 1970 began on a Thursday
_MOST_IMAGES = 100_000  # images per statistical test; a busy period has several tests
_RECENT = 200  # most recent images that the report compares with the reference


@dataclass(frozen=True)
class DriftSettings:
    """Settings of drift detection, and its assumptions about images without drift.

    Args:
        false_alarms: share of the periods without drift that may raise an alarm.
        period: length of a period; each period starts a new test.
        correlation_s: seconds after which two images of the same source are independent; 0 if all images are.
        cycle: changes that recur every day (such as day and night) or every week are not drift; images are then compared at the end of
            each cycle.

    Raises:
        GoalError: a value is out of range.
    """

    false_alarms: float = 0.05
    period: Period = "week"
    correlation_s: float = 60.0
    cycle: Cycle = "none"

    def __post_init__(self) -> None:
        if not 0 < self.false_alarms < 1:
            raise GoalError(f"a share of {self.false_alarms:g} false alarms", "it is between 0 and 1", "for example 0.05")
        if not 0 <= self.correlation_s <= _SECONDS[self.period] / 4:
            raise GoalError(
                f"images that are correlated for {self.correlation_s:g} s, judged by the {self.period}",
                "it is at most a quarter of the period, which has too few independent images otherwise",
                "for example 60s",
            )
        if self.cycle == "week" and self.period == "day":
            raise GoalError("a cycle of a week, judged by the day", "a period is at least a cycle", "take the period week")


DEFAULT_DRIFT = DriftSettings()


@dataclass(frozen=True)
class DriftFinding:
    """The result of drift detection for one kind of value.

    Args:
        of: kind of value: ``brightness``, ``confidence``, ``class mix``, ...
        drifted: whether the evidence was sufficient at any time in this period.
        log10_evidence: highest evidence so far. At 3, the probability of ever reaching this without drift is at most 1 in 1000. None if
            only ``drifted`` is known.
        words: the most recent images compared with the reference, as text.
    """

    of: str
    drifted: bool
    log10_evidence: float | None
    words: str


class Drift:
    """Detects drift in a stream of predictions.

    In a period without drift the probability of any alarm is at most ``false_alarms``, no matter how often the result is read: it is
    divided among the kinds of values. A period is a day, or a week that starts on Monday, UTC.

    This holds if each image has the distribution of the reference, and images of different sources, and images of the same source more
    than ``correlation_s`` apart, are independent. Images that resemble each other for longer can raise an alarm, and so can slow
    recurring changes, such as day and night, unless ``cycle`` is set. See ``Thinning`` for which images are compared.

    Args:
        bundle: folder of the bundle with the reference.
        settings: settings and assumptions.

    Raises:
        BundleError: the bundle's reference is missing, damaged or of another version.
    """

    def __init__(self, bundle: Path, settings: DriftSettings = DEFAULT_DRIFT) -> None:
        found = read_versioned(bundle / REFERENCE, DriftReference, "drift is measured from it", "make the bundle again")
        self._values = {name: values for name, values in found.values.items() if values}
        self._classes = found.class_counts
        self.settings = settings
        kinds = [*self._values, *[CLASSES] * bool(self._classes)]
        self._enough = math.log10(len(kinds) / settings.false_alarms) if kinds else math.inf
        self._numbers = {name: number for number, name in enumerate(self._classes)}
        self.kinds = tuple(kinds)
        cycle_s = None if settings.cycle == "none" else _SECONDS[settings.cycle]
        self._thinning = Thinning[tuple[Mapping[str, Any], str | None]](settings.correlation_s, cycle_s, _MONDAY)
        self.start(0)

    def start(self, number: int) -> None:
        """Start a new period."""
        self.number, self.images, self.compared, self._runs = number, 0, 0, 0
        self._highest = dict.fromkeys(self.kinds, 0.0)
        self._recent: dict[str, deque[float]] = {name: deque(maxlen=_RECENT) for name in self.kinds}
        self._thinning.forget()
        self._test_anew()

    def _test_anew(self) -> None:
        """Start new tests.

        The tests of a period share its probability of a false alarm: the first gets nine tenths, and all later ones one tenth together.
        """
        self._runs += 1
        self._log10_share = math.log10(0.9 if self._runs == 1 else 0.1 / (self._runs * (self._runs - 1)))
        self._tests: dict[str, ValueChange | MixChange] = {name: ValueChange(values) for name, values in self._values.items()}
        if self._classes:
            self._tests[CLASSES] = MixChange(list(self._classes.values()))

    def add(self, values: Mapping[str, Any], predicted: str | None = None, at: float | None = None, source: str = "") -> None:
        """Add one prediction.

        Args:
            values: see ``planish.export.bundle.reference.image_values``; missing or non-finite values are skipped.
            predicted: the top class.
            at: seconds since 1970; None for now.
            source: source of the image, such as a camera or user.
        """
        at = time.time() if at is None else at
        number = int((at - _MONDAY) // _SECONDS[self.settings.period])
        if number < self.number:
            return
        self._compare_complete(at)  # images of the period that ends
        if number > self.number:
            self.start(number)
        self.images += 1
        self._thinning.add(at, source, (values, predicted))
        if not self.settings.correlation_s:
            self._compare_complete(at)

    def _compare_complete(self, at: float) -> None:
        for values, predicted in self._thinning.advance(at):
            self._compare(values, predicted)

    def _compare(self, values: Mapping[str, Any], predicted: str | None) -> None:
        self.compared += 1
        if self.compared > self._runs * _MOST_IMAGES:
            self._test_anew()
        given = {name: float(values[name]) for name in self._values if _is_number(values.get(name))}
        if isinstance(predicted, str) and predicted in self._numbers:
            given[CLASSES] = self._numbers[predicted]
        for name, value in given.items():
            self._tests[name].add(value)
            self._recent[name].append(value)
            self._highest[name] = max(self._highest[name], self._tests[name].log10_evidence + self._log10_share)

    def drifted(self, kind: str) -> bool:
        """Return whether the evidence was sufficient at any time in this period."""
        return self._highest[kind] >= self._enough

    def findings(self) -> list[DriftFinding]:
        """Return one finding for each kind of value, the strongest evidence first."""
        ordered = sorted(self._highest.items(), key=lambda one: -one[1])
        return [DriftFinding(name, self.drifted(name), highest, self._words(name)) for name, highest in ordered]

    def _words(self, name: str) -> str:
        recent = self._recent[name]
        if not recent:
            return "not seen"
        if name != CLASSES:
            usual = self._values[name]
            mean, now, spread = fmean(usual), fmean(recent), pstdev(usual)
            return f"{mean:.3g} → {now:.3g}" + (f" ({(now - mean) / spread:+.1f} SD)" if spread else "")
        total = sum(self._classes.values())
        shares = {
            name: (count / total, sum(one == self._numbers[name] for one in recent) / len(recent)) for name, count in self._classes.items()
        }
        most = max(shares, key=lambda one: abs(shares[one][1] - shares[one][0]))
        return f"{most}: {100 * shares[most][0]:.0f} % → {100 * shares[most][1]:.0f} %"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) <= LARGEST  # also False for NaN
