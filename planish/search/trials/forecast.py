"""Forecasts of a search: how far trials, and levels that were not screened yet, will probably get in the time that is left."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import stats

from planish.measurement import Measurement
from planish.search.choice import drop_upper_bound, standard_error
from planish.search.state import Search
from planish.search.time_estimates import training_step_seconds
from planish.search.trials.expected_improvement import Floats, success
from planish.search.trials.prediction import Recovery, RecoveryPrior, ScreenedLevel, predict_levels, predict_recoveries
from planish.search.trials.proposals import GRID, Level, Trial, value, value_of

_LEAST_ERROR = 0.2  # smallest standard error of a drop on validation, in points
_TRAINED_ERROR = 1.5  # standard error of a trained network's drop, relative to that of INT8 alone, which changes fewer predictions
_PERSISTENT = 0.85  # correlation, over validation images, of a network's drops before and after more training; 0.82 to 0.95 were measured
_STUDENT_SHARE = 0.6  # of a training step; the rest goes into images and teachers
_DIFFERENT = 0.15  # by how much the values of two proposed levels must differ


@dataclass(frozen=True)
class Prospect:
    """What is known of a trial, or of a level that was not screened yet.

    Args:
        name: name of the trial.
        level: how strongly it is compressed.
        before: drop before any training, in points.
        steps: training steps so far.
        step_seconds: seconds of one training step.
        value: see ``proposals.value``.
        floor: see ``Recovery``.
        slope: see ``Recovery``.
        uncertainty: standard deviation of the log of ``before``: of a prediction, or of a measurement on few images; 0 once it is trained,
            since the drop after training then says more.
    """

    name: str
    level: Level
    before: float
    steps: float
    step_seconds: float
    value: float
    floor: float
    slope: float
    uncertainty: float = 0.0

    def after(self, seconds: float) -> Recovery:
        """Return the recovery by so many more seconds of training, to be predicted."""
        steps = self.steps + seconds / self.step_seconds
        known = {"floor": self.floor, "slope": self.slope, "uncertainty": self.uncertainty}
        return Recovery(self.name, self.level, self.before, steps, **known)


@dataclass(frozen=True)
class Forecast:
    """What a search knows, and what it expects from it.

    Args:
        search: state of the search.
        screened: all screened trials, including those stopped.
        trained: trained trials.
        refused: levels of which no plan applies.
    """

    search: Search
    screened: Sequence[Trial]
    trained: Sequence[Trial]
    refused: Collection[Level] = ()

    @property
    def best(self) -> tuple[float, Trial | None]:
        """Value of the best candidate within all limits so far, and its trial; None for the uncompressed network."""
        kept, goal = self._uncompressed, self.search.goal
        found: list[tuple[float, Trial | None]] = [(value(1.0, kept["latency_ms"].value, kept["size_bytes"].value, goal), None)]
        found += [(value_of(t, goal), t) for t in self.trained if self.is_within(t)]
        return max(found, key=lambda pair: pair[0])

    def is_within(self, trial: Trial) -> bool:
        """Whether a trial is within the limit on the drop as it is, judging by validation."""
        return drop_upper_bound(trial.last_drop, self.search.goal) + self._cost <= self.search.goal.max_drop_points

    def prospect(self, trial: Trial) -> Prospect:
        """Return what is known of a trial."""
        steps, before = trial.history[-1][0] if trial.history else 0.0, self._before(trial)
        error = self._error_of(trial.measurements["drop_untrained"])
        uncertainty = 0.0 if trial.history else min(1.0, error / max(before, error, _LEAST_ERROR))
        return Prospect(
            trial.name, trial.level, before, steps, self._step_seconds(trial.gain), value_of(trial, self.search.goal),
            self._prior.floor(trial.level, trial.gain), self._prior.slope, uncertainty,
        )  # fmt: skip

    def within(self, prospects: Sequence[Prospect], seconds: Sequence[float]) -> Floats:
        """Return the probability ``(quantiles, prospects, durations)`` of being within the limit after so many seconds of training.

        What is measured after more training of a network deviates from the true drop as before, since the images are the same ones.
        """
        observed, measured = self._observed(), {t.name: t.last_drop.value / self.search.goal.point for t in self.trained}
        wanted = [p.after(s) for p in prospects for s in seconds]
        drops = np.exp(predict_recoveries(observed, wanted).quantiles()).reshape(-1, len(prospects), len(seconds))
        errors = np.full(len(prospects), self._error)
        for i, p in enumerate(prospects):
            if p.name in measured:
                now = np.exp(predict_recoveries(observed, [p.after(0)]).quantiles())
                drops[:, i] += _PERSISTENT * (measured[p.name] - now)
                errors[i] *= (1 - _PERSISTENT**2) ** 0.5
        return success(drops, self._limit, errors[:, None])

    def drop_after(self, trial: Trial, seconds: float) -> float:
        """Return the median of the predicted drop after so many more seconds of training, in points."""
        return float(np.exp(predict_recoveries(self._observed(), [self.prospect(trial).after(seconds)]).mean[0]))

    def promising_levels(self, seconds: float, count: int) -> list[tuple[Level, float]]:
        """Return the levels that were not screened with the largest expected improvement, and that improvement.

        Args:
            seconds: seconds of training to come.
            count: maximum number of levels; two of a kind differ in speed.
        """
        known = [ScreenedLevel(t.level, t.gain, self._before(t) / self._knowledge()) for t in self.screened if not t.level.student]
        tried = {s.level for s in known}.union(self.refused)
        kinds = {(s.level.resolution < 1, s.level.blocks > 0, s.level.speedup > 1) for s in known}
        levels = [level for level in GRID if level not in tried and _can_apply(level, kinds)]
        if not levels:
            return []
        speed, drop = predict_levels(known, levels)
        gains, shares = np.exp(speed.mean), 1 / (1 + np.exp(-drop.mean))
        kept, goal = self._uncompressed, self.search.goal
        prospects = [
            Prospect(
                str(level), level, share * self._knowledge(), 0.0, self._step_seconds(gain),
                value(gain, kept["latency_ms"].value / gain, kept["size_bytes"].value * (1 - level.blocks) / level.speedup, goal),
                self._prior.floor(level, gain), self._prior.slope, spread * (1 - share),
            )
            for level, gain, share, spread in zip(levels, gains, shares, drop.deviation, strict=True)
        ]  # fmt: skip
        odds = self.within(prospects, [seconds]).mean(0)[:, 0]
        improvements = odds * np.maximum(0.0, np.array([p.value for p in prospects]) - self.best[0])
        found: list[tuple[Prospect, float]] = []
        for index in np.argsort(-improvements, kind="stable"):
            prospect = prospects[index]
            if len(found) == count or improvements[index] <= 0:
                break
            if all(abs(prospect.value - other.value) > _DIFFERENT for other, _ in found):
                found.append((prospect, float(improvements[index])))
        return [(prospect.level, improvement) for prospect, improvement in found]

    @property
    def _uncompressed(self) -> dict[str, Measurement]:
        """Measurements of the uncompressed network, as candidates are deployed."""
        return self.search.journal.candidates[str(self.search.deployment)].measurements

    @property
    def _error(self) -> float:
        """Standard error of a drop on validation, in points: the median of those seen."""
        drops = [t.drop for t in self.trained if t.drop is not None]
        errors = [self._error_of(drop) for drop in drops] or [_TRAINED_ERROR * self._error_of(self._uncompressed["drop_validation"])]
        return max(_LEAST_ERROR, float(np.median(errors)))

    def _error_of(self, drop: Measurement) -> float:
        return standard_error(drop) / self.search.goal.point

    @property
    def _limit(self) -> float:
        """What a network may lose before it is deployed, in points, so that its drop is within the limit with the accepted risk."""
        goal = self.search.goal
        return (goal.max_drop_points - self._cost) / goal.point - float(stats.norm.isf(goal.risk)) * self._error

    @property
    def _cost(self) -> float:
        """Drop by deployment in INT8, as that of the uncompressed network."""
        return max(0.0, self._uncompressed["drop_validation"].value) if self.search.deployment.precision == "int8" else 0.0

    def _knowledge(self) -> float:
        return max(1.0, self.search.knowledge() / self.search.goal.point)

    @cached_property
    def _prior(self) -> RecoveryPrior:
        original = self.search.runner.original
        parameters = sum(weight.numel() for weight in original.module.parameters())
        side = min(original.input_spec.height, original.input_spec.width)
        return RecoveryPrior(100 - self._knowledge(), parameters, side, self.search.trained_before)

    def _before(self, trial: Trial) -> float:
        return trial.measurements["drop_untrained"].value / self.search.goal.point

    def _observed(self) -> list[Recovery]:
        found = []
        for trial in self.trained:
            for steps, drop in trial.history:
                after = drop.value / self.search.goal.point
                floor, slope = self._prior.floor(trial.level, trial.gain), self._prior.slope
                found.append(Recovery(trial.name, trial.level, self._before(trial), steps, after, self._error_of(drop), floor, slope))
        return found

    def _step_seconds(self, gain: float) -> float:
        """Estimate the seconds of a training step from that of the original, of which the student's passes are a part.

        The steps that were timed correct this.
        """
        original = training_step_seconds(self.search)
        timed = [t.step_seconds / (original * _relative_step(t.gain)) for t in self.trained if t.step_seconds]
        return original * _relative_step(gain) * (float(np.median(timed)) if timed else 1.0)


def _relative_step(gain: float) -> float:
    return 1 - _STUDENT_SHARE + _STUDENT_SHARE / gain


def _can_apply(level: Level, kinds: Collection[tuple[bool, bool, bool]]) -> bool:
    """Whether each change of a level was already part of a screened one."""
    return all(
        not wanted or any(kind[i] for kind in kinds) for i, wanted in enumerate((level.resolution < 1, level.blocks > 0, level.speedup > 1))
    )
