"""Drift: whether what a model is shown, and what it says, still looks as it did when its bundle was made."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Literal

from planish.errors import BundleError
from planish.evaluation.change import MixChange, ValueChange
from planish.export.bundle import REFERENCE

Period = Literal["day", "week"]
CLASSES = "class mix"
_SECONDS: dict[Period, int] = {"day": 86_400, "week": 604_800}
_MONDAY = 4 * 86_400  # 1970 began on a Thursday
_MOST_IMAGES = 100_000  # that a period has; a busy service has more periods than weeks
_RECENT = 200  # images that the report compares with the reference


@dataclass(frozen=True)
class Finding:
    """What one kind of value says.

    Args:
        of: ``brightness``, ``confidence``, ``class mix``, ...
        drifted: whether the evidence was ever enough in this period.
        log10_evidence: highest so far; 3: without drift the chance of ever seeing this is at most 1 in 1000. None where only that is known.
        words: the last images beside the reference.
    """

    of: str
    drifted: bool
    log10_evidence: float | None
    words: str


class Drift:
    """Looks at predictions one by one. In a period without drift the chance of any alarm is at most ``false_alarms``, no matter how often
    one looks: each kind of value gets its share of it. A period is a day or a week (from Monday, UTC), or 100,000 images if they come
    sooner.

    Args:
        bundle: folder that holds the reference.
        false_alarms: share of the periods without drift that may give an alarm.
        period: after which it starts anew.

    Raises:
        BundleError: the bundle's reference is missing or damaged.
    """

    def __init__(self, bundle: Path, false_alarms: float = 0.05, period: Period = "week") -> None:
        try:
            found = json.loads((bundle / REFERENCE).read_bytes())
            self._values: dict[str, list[float]] = found["values"]
            self._classes: dict[str, int] = found.get("classes", {})
        except (OSError, ValueError, KeyError) as error:
            raise BundleError(
                f"{bundle / REFERENCE} cannot be read: {error}", "drift is measured from it", "make the bundle again"
            ) from error
        self._period = period
        kinds = [*self._values, *[CLASSES] * bool(self._classes)]
        self._enough = math.log10(len(kinds) / false_alarms)
        self._numbers = {name: number for number, name in enumerate(self._classes)}
        self.kinds = tuple(kinds)
        self.start(0)

    def start(self, number: int) -> None:
        """A new period."""
        self.number, self.images = number, 0
        self._tests: dict[str, ValueChange | MixChange] = {name: ValueChange(values) for name, values in self._values.items()}
        if self._classes:
            self._tests[CLASSES] = MixChange(list(self._classes.values()))
        self._highest = dict.fromkeys(self._tests, 0.0)
        self._recent: dict[str, deque[float]] = {name: deque(maxlen=_RECENT) for name in self._tests}

    def add(self, values: Mapping[str, float], predicted: str | None = None, at: float | None = None) -> None:
        """Take in one prediction.

        Args:
            values: see ``planish.export.reference.image_values``; those that are missing are passed over.
            predicted: the top class.
            at: seconds since 1970; None for now.
        """
        number = int(((time.time() if at is None else at) - _MONDAY) // _SECONDS[self._period])
        if number < self.number:  # of a replica whose log is read later
            return
        if number > self.number or self.images == _MOST_IMAGES:
            self.start(number)
        self.images += 1
        given = {name: values[name] for name in self._values if name in values}
        if predicted in self._numbers:
            given[CLASSES] = self._numbers[predicted]
        for name, value in given.items():
            self._tests[name].add(value)
            self._recent[name].append(value)
            self._highest[name] = max(self._highest[name], self._tests[name].log10_evidence)

    def drifted(self, kind: str) -> bool:
        """Whether there was enough evidence in this period."""
        return self._highest[kind] >= self._enough

    def findings(self) -> list[Finding]:
        """One for each kind of value, the strongest first."""
        ordered = sorted(self._highest.items(), key=lambda one: -one[1])
        return [Finding(name, self.drifted(name), highest, self._words(name)) for name, highest in ordered]

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
