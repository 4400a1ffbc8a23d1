"""Draws images that are far enough apart to be independent, for tests that assume independent images.

The frames of a video, the photos of a burst or the crops of one parcel resemble each other. If all of them were compared, a single
observation would count many times.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Generic, TypeVar

Item = TypeVar("Item")
_CHUNK = 161.803  # window lengths after which windows are drawn anew; not an integer, as many clients send on the minute
_EXCESS, _FLOODS = 0.02, 5
_MOST_WAITING = 20_000  # maximum number of images that are held back in a cycle


class Thinning(Generic[Item]):
    """Draws independent images from a stream of correlated ones.

    In windows of length ``correlation_s``, at random times and at least one length apart, one image of each source is drawn at random.
    It is kept with probability n / m, where n is the number of images of its source in the window and m the maximum of n over windows,
    so that every image has the same probability, in busy hours and in quiet ones. So that a single flood of images does not determine m
    and discard nearly everything else, m is lower: without the five largest n, the images in excess of m are 2 % of all. There is a
    window every 2.5 ``correlation_s`` on average.

    With a cycle, the drawn images are held back until the cycle is over and then returned in random order, so that changes that recur in
    every cycle do not show.

    Args:
        correlation_s: seconds after which two images of the same source are independent; 0 if all images are.
        cycle_s: length of a cycle in seconds; None for no cycle.
        cycle_start: start of any one cycle, in seconds since 1970.
    """

    def __init__(self, correlation_s: float, cycle_s: float | None = None, cycle_start: float = 0.0) -> None:
        self._correlation_s, self._cycle_s, self._cycle_start = correlation_s, cycle_s, cycle_start
        self._chunk = self._cycle = -(2**62)
        self._window = -math.inf  # start of the current window, in seconds since 1970
        self._gaps, self._random = random.Random(0), random.Random(0)  # for the gaps between windows; for the draws in a window
        self._drawn: dict[str, tuple[int, Item]] = {}  # number of images and the drawn one, by source, in the current window
        self._waiting: list[tuple[int, Item]] = []
        self._count = 0  # number of waiting images, including those dropped from the sample
        self.forget()

    def forget(self) -> None:
        """Forget the numbers of images per window, as a new period may be busier or quieter."""
        self._sizes = Counter[int]()  # number of windows by images of one source in the window

    def advance(self, at: float) -> list[Item]:
        """Return the images that are complete at this time, in seconds since 1970. Call it before ``add``."""
        if at >= self._window + self._correlation_s:
            for one in self._drawn.values():
                self._wait(*one)
            self._drawn = {}
            if self._correlation_s:
                self._next_window(at)
        if self._cycle_s is None:
            return self._release() if self._waiting else []
        cycle = math.floor((at - self._cycle_start) / self._cycle_s)
        if cycle <= self._cycle:
            return []
        self._cycle = cycle
        return self._release()

    def add(self, at: float, source: str, item: Item) -> None:
        """Add one image; an image that is earlier than the window is skipped."""
        if not self._correlation_s:
            self._wait(1, item)
        elif at >= self._window:
            count, kept = self._drawn.get(source, (0, item))
            count += 1
            self._drawn[source] = (count, item if self._random.random() * count < 1 else kept)

    def _next_window(self, at: float) -> None:
        """Move to the window that contains ``at`` or is the next one after it.

        Windows, and the random draws in them, are the same wherever a log begins.
        """
        length = self._correlation_s
        if (chunk := math.floor(at / (_CHUNK * length))) > self._chunk:
            self._begin(chunk)
        while at >= self._window + length:
            self._window += length * (2 + self._gaps.random())
            if self._window > length * (_CHUNK * (self._chunk + 1) - 2):  # too close to the windows of the next chunk
                self._begin(self._chunk + 1)
        self._random.seed(self._window)

    def _begin(self, chunk: int) -> None:
        self._chunk, self._gaps = chunk, random.Random(chunk)
        self._window = self._correlation_s * (_CHUNK * chunk + 2 * self._gaps.random())

    def _wait(self, count: int, item: Item) -> None:
        self._sizes[count] += 1
        self._count += 1
        if len(self._waiting) < _MOST_WAITING:
            self._waiting.append((count, item))
        elif (place := self._random.randrange(self._count)) < _MOST_WAITING:  # reservoir sampling: a random sample of all images
            self._waiting[place] = (count, item)

    def _release(self) -> list[Item]:
        """Return the waiting images, thinned and in random order."""
        most = self._most()
        found = [item for count, item in self._waiting if self._random.random() * most < count]
        self._random.shuffle(found)
        self._waiting, self._count = [], 0
        return found

    def _most(self) -> float:
        """Return m; see the class."""
        sizes = self._sizes.copy()
        for _ in range(_FLOODS):
            if sizes:
                sizes -= Counter([max(sizes)])
        ordered = sorted(sizes, reverse=True)
        allowed = _EXCESS * sum(size * windows for size, windows in sizes.items())
        larger = 0  # windows
        for size, next_size in zip(ordered, [*ordered[1:], 0], strict=False):
            larger += sizes[size]
            if allowed <= larger * (size - next_size):
                return size - allowed / larger
            allowed -= larger * (size - next_size)
        return 1.0
