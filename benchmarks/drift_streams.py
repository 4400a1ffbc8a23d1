"""How often the monitor gives a false alarm where images are not independent, and what it costs to prevent that.

    .venv/bin/python benchmarks/drift_streams.py [--weeks 200] [--repeats 40]

Streams are made of Fashion-MNIST's 10,000 test images: brightness, contrast and sharpness as the service computes them, and the true class
in place of the predicted one. Each simulated week has an image a minute, 10,080 in all. Its reference is 1000 images drawn
independently from the distribution that the stream has in the long run, so that no week without a change has drifted. Where images are
correlated, one's rank in brightness is an autoregressive process (AR(1), a Gaussian copula), or one's class comes in runs.

After a week's first half every image is darker by a quarter, blurred, or a class no longer comes: how many images later is there an alarm?
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from scipy.ndimage import gaussian_filter
from scipy.signal import lfilter

from planish.artifact import InputSpec, Preprocessing
from planish.data import load_images
from planish.devices.machine import describe_machine
from planish.export.bundle.folder import REFERENCE
from planish.export.bundle.reference import CLASS, image_values, reference_values
from planish.serving.monitoring.drift import Drift, DriftSettings

RESULTS = Path(__file__).parent / "results"
MONDAY, DAY, WEEK, EVERY_S, REFERENCE_IMAGES = 4 * 86_400, 86_400, 604_800, 60, 1000
IMAGES = WEEK // EVERY_S
BLUR_PIXELS = 0.7
SETTINGS = {
    "every image (as before)": DriftSettings(correlation_s=0),
    "10 min (10 images)": DriftSettings(correlation_s=600),
    "1 h (60 images)": DriftSettings(correlation_s=3600),
    "4 h (240 images)": DriftSettings(correlation_s=4 * 3600),
    "10 min, cycle of a day": DriftSettings(correlation_s=600, cycle="day"),
}


@dataclass(frozen=True)
class Week:
    """A simulated stream: seconds since Monday, images of the pool, sources; and images drawn from its long-run distribution."""

    times: Any
    images: Any
    reference: Any
    sources: Any = None


class Streams:
    """Makes weeks.

    Args:
        brightness: of the pool's images.
        labels: likewise.
    """

    def __init__(self, brightness: Any, labels: Any) -> None:
        self._order, self._n = np.argsort(brightness, kind="stable"), len(labels)
        self._of_class = [np.flatnonzero(labels == c) for c in range(labels.max() + 1)]
        self._times = np.arange(IMAGES) * EVERY_S

    def _ranked(self, u: Any) -> Any:
        """Images at these shares of the order by brightness."""
        return self._order[np.minimum((u * self._n).astype(int), self._n - 1)]

    def _reference(self, rng: np.random.Generator) -> Any:
        return rng.integers(0, self._n, REFERENCE_IMAGES)

    def autoregressive(self, rng: np.random.Generator, rho: float) -> Week:
        return Week(self._times, self._ranked(stats.norm.cdf(_ar(rng, rho, IMAGES))), self._reference(rng))

    def runs(self, rng: np.random.Generator, length: int) -> Week:
        """Images of one class, so many in a row, of another then."""
        classes = np.repeat(rng.integers(0, len(self._of_class), IMAGES // length + 1), length)[:IMAGES]
        return Week(self._times, np.array([rng.choice(self._of_class[c]) for c in classes]), self._reference(rng))

    def bursts(self, rng: np.random.Generator) -> Week:
        """Every ten minutes on average a class is photographed: one image of the first class, 2, 3, 4, ... and 82 of the last, one a
        second, all of them five images over and over."""
        counts = np.round(np.geomspace(1, 82, len(self._of_class))).astype(int)
        times, images, begin = [], [], 0.0
        while (begin := begin + rng.exponential(600)) < WEEK:
            c = rng.integers(len(counts))
            near = (rng.integers(len(self._of_class[c])) + np.arange(counts[c]) % 5) % len(self._of_class[c])
            times.append(begin + np.arange(counts[c]))
            images.append(self._of_class[c][near])
        order = np.argsort(np.concatenate(times), kind="stable")
        classes = rng.choice(len(counts), REFERENCE_IMAGES, p=counts / counts.sum())
        reference = np.array([rng.choice(self._of_class[c]) for c in classes])
        return Week(np.concatenate(times)[order], np.concatenate(images)[order], reference)

    def day_and_night(self, rng: np.random.Generator, busy: bool) -> Week:
        """Brightness follows the hour; in the busy stream 19 of 20 images come by day."""
        times = self._times
        if busy:
            by_day = rng.random(IMAGES) < 0.95
            hours = np.where(by_day, rng.uniform(6, 18, IMAGES), rng.uniform(18, 30, IMAGES) % 24)
            times = np.sort(rng.integers(0, 7, IMAGES) * DAY + hours * 3600)
        level = _daylight(times) + rng.normal(size=IMAGES)
        usual = np.sort(_daylight(times) + rng.normal(size=IMAGES))  # each day is like the others
        share = np.searchsorted(usual, level) / IMAGES
        return Week(times, self._ranked(share), self._reference(rng))

    def weather(self, rng: np.random.Generator) -> Week:
        """Each day has a brightness of its own."""
        level = np.repeat(rng.normal(size=7), IMAGES // 7)
        return Week(self._times, self._ranked(stats.norm.cdf((level + rng.normal(size=IMAGES)) / np.sqrt(2))), self._reference(rng))

    def cameras(self, rng: np.random.Generator, named: bool) -> Week:
        """Eight cameras, one brighter than the other, images of each correlated by 0.9 with its last; in turn, or nearly."""
        cameras = np.concatenate([rng.permutation(8) for _ in range(IMAGES // 8)])
        levels = stats.norm.ppf((np.arange(8) + 0.5) / 8)
        z = np.empty(IMAGES)
        for camera in range(8):
            z[cameras == camera] = levels[camera] + _ar(rng, 0.9, IMAGES // 8)
        share = np.mean([stats.norm.cdf(z - level) for level in levels], axis=0)  # of all cameras' images that are darker
        return Week(self._times, self._ranked(share), self._reference(rng), cameras if named else None)


def _ar(rng: np.random.Generator, rho: float, n: int) -> Any:
    noise = rng.normal(size=n) * np.sqrt(1 - rho**2)
    noise[0] = rng.normal()
    return lfilter([1], [1, -rho], noise)


def _daylight(times: Any) -> Any:
    return -2 * np.cos(2 * np.pi * times / DAY)


def pool() -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """What the monitor is told of each image, as it is and changed, and the class names."""
    images = load_images("fashion-mnist")
    split = images.splits["test"]
    pixels = split.images(InputSpec(1, 28, 28), Preprocessing(28, "squash", (0.0,), (1.0,)))
    logits = np.eye(len(images.class_names), dtype=np.float32)[split.targets] * 9

    def values(pixels: Any) -> list[dict[str, Any]]:
        kept = ("brightness", "contrast", "sharpness", CLASS)
        return [
            {name: one[name] for name in kept} for one in image_values("classification", images.class_names, pixels, {"logits": logits})
        ]

    return {
        "as ever": values(pixels),
        "darker by a quarter": values((pixels * 0.75).round().astype(np.uint8)),
        "blurred": values(gaussian_filter(pixels, (0, BLUR_PIXELS, BLUR_PIXELS, 0))),
    }, images.class_names


class Judge:
    """Looks at weeks with the product's own code."""

    def __init__(self, values: dict[str, list[dict[str, Any]]], class_names: list[str], folder: Path) -> None:
        self.values, self.class_names, self._folder = values, class_names, folder

    def first_alarm(self, week: Week, settings: DriftSettings, change: str = "", after: int = 0) -> tuple[int | None, int]:
        """The image at which there was one, None where there was none; and how many were compared until then."""
        usual = self.values["as ever"]
        later = self.values.get(change, usual)
        reference = reference_values([usual[i] for i in week.reference], self.class_names)
        (self._folder / REFERENCE).write_text(json.dumps(reference))
        drift = Drift(self._folder, settings)
        compared = 0
        sources = [""] * len(week.images) if week.sources is None else [str(source) for source in week.sources]
        for number, (at, image, source) in enumerate(zip(week.times.tolist(), week.images.tolist(), sources, strict=True)):
            one = (later if number >= after else usual)[image]
            drift.add(one, one[CLASS], MONDAY + at, source)
            if drift.compared != compared:
                compared = drift.compared
                if any(drift.drifted(kind) for kind in drift.kinds):
                    return number, compared
        return None, compared


def false_alarms(judge: Judge, make: Callable[[np.random.Generator], Week], settings: DriftSettings, weeks: int) -> dict[str, Any]:
    alarms, compared = 0, []
    for seed in range(weeks):
        first, count = judge.first_alarm(make(np.random.default_rng(seed)), settings)
        alarms += first is not None
        compared += [count] * (first is None)
    low, high = stats.binomtest(alarms, weeks).proportion_ci(0.95, "exact")
    return {"weeks": weeks, "with_alarm": alarms, "percent": 100 * alarms / weeks, "interval_percent": [100 * low, 100 * high],
            "compared_images": float(np.median(compared)) if compared else None}  # fmt: skip


def delays(judge: Judge, streams: Streams, change: str, rho: float, settings: DriftSettings, repeats: int) -> dict[str, Any]:
    found = []
    for seed in range(repeats):
        rng = np.random.default_rng(10_000 + seed)
        week = streams.autoregressive(rng, rho)
        if change == "missing class":
            gone = np.array([judge.values["as ever"][image][CLASS] == judge.class_names[0] for image in week.images])
            gone[: IMAGES // 2] = False
            week = Week(week.times[~gone], week.images[~gone], week.reference)
        first, _ = judge.first_alarm(week, settings, change, IMAGES // 2)
        found.append(first)
    before = sum(first is not None and first < IMAGES // 2 for first in found)
    late = sorted(first - IMAGES // 2 for first in found if first is not None and first >= IMAGES // 2)
    return {"of": repeats, "false_alarms_before": before, "noticed": len(late), "median_images": float(np.median(late)) if late else None,
            "median_hours": float(np.median(late)) * EVERY_S / 3600 if late else None,
            "most_images": late[-1] if late else None}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--weeks", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=40)
    arguments = parser.parse_args()
    values, class_names = pool()
    labels = np.array([class_names.index(one[CLASS]) for one in values["as ever"]])
    streams = Streams(np.array([one["brightness"] for one in values["as ever"]]), labels)
    kinds: dict[str, Callable[[np.random.Generator], Week]] = {
        "independent": lambda rng: streams.autoregressive(rng, 0.0),
        **{f"AR(1), {rho:g}": lambda rng, rho=rho: streams.autoregressive(rng, rho) for rho in (0.5, 0.9, 0.99, 0.999)},
        **{f"classes in runs of {length}": lambda rng, length=length: streams.runs(rng, length) for length in (1, 10, 100)},
        "bursts of 1 to 82 images": streams.bursts,
        "8 cameras, not named": lambda rng: streams.cameras(rng, named=False),
        "8 cameras, named": lambda rng: streams.cameras(rng, named=True),
        "day and night": lambda rng: streams.day_and_night(rng, busy=False),
        "day and night, 19 of 20 images by day": lambda rng: streams.day_and_night(rng, busy=True),
        "each day another level": streams.weather,
    }
    found: dict[str, Any] = {"images_a_week": IMAGES, "seconds_between_images": EVERY_S, "reference_images": REFERENCE_IMAGES,
                             "promised_percent": 5, "machine": describe_machine(), "false_alarms": {}, "delays": {}}  # fmt: skip

    def store() -> None:
        (RESULTS / "drift_streams.json").write_text(json.dumps(found, indent=1) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        judge = Judge(values, class_names, Path(folder))
        for kind, make in kinds.items():
            for name, settings in SETTINGS.items():
                found["false_alarms"].setdefault(kind, {})[name] = one = false_alarms(
                    judge, make, settings, arguments.weeks if settings.correlation_s else arguments.weeks // 2
                )
                print(f"{kind} | {name}: {one['percent']:.1f} % {one['interval_percent']} of {one['compared_images']}", flush=True)
            store()
        for change in ("darker by a quarter", "blurred", "missing class"):
            for name, settings in SETTINGS.items():
                for rho in (0.0, 0.9):
                    if settings.correlation_s or not rho:
                        found["delays"].setdefault(change, {}).setdefault(name, {})[f"AR(1), {rho:g}"] = delays(
                            judge, streams, change, rho, settings, arguments.repeats
                        )
            print(change, json.dumps(found["delays"][change]), flush=True)
            store()


if __name__ == "__main__":
    main()
