"""Draws images that are far enough apart to be independent, so that a test for independent images can judge a stream of dependent ones.

The frames of a video, the photos of a burst, the crops of one parcel resemble each other. Compared one by one they count as many
observations and are one.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Generic, TypeVar

Item = TypeVar("Item")
_CHUNK = 161.803  # windows' lengths after which windows are drawn anew; no whole number, as many services are asked on the minute
_EXCESS, _FLOODS = 0.02, 5
_MOST_WAITING = 20_000  # of a cycle


class Thinning(Generic[Item]):
    """In windows of ``correlation_s``, at random times and at least as far apart, one image of each source is drawn at random. It is kept
    with probability n / m, n being the images of its source in the window and m the most that a source has in one: each image has the same
    chance, those of busy hours as those of quiet ones. Were a single flood of images to decide on m, hardly anything else would be kept:
    m is so low that, beside those of the five busiest windows, 2 % of all images are in excess of it. There is a window every 2.5
    ``correlation_s`` on average.

    With a cycle, what was drawn is held back until the cycle is over and then given in random order: changes that come back in every cycle
    no longer show.

    Args:
        correlation_s: seconds after which two images of one source are independent; 0 where all images are.
        cycle_s: seconds of a cycle; None for none.
        cycle_start: seconds since 1970 of the beginning of a cycle.
    """

    def __init__(self, correlation_s: float, cycle_s: float | None = None, cycle_start: float = 0.0) -> None:
        self._correlation_s, self._cycle_s, self._cycle_start = correlation_s, cycle_s, cycle_start
        self._chunk = self._cycle = -(2**62)
        self._window = -math.inf  # its beginning, in seconds since 1970
        self._gaps, self._random = random.Random(0), random.Random(0)  # between windows; of what is drawn in one
        self._drawn: dict[str, tuple[int, Item]] = {}  # in the window, by source
        self._waiting: list[tuple[int, Item]] = []
        self._count = 0  # of the waiting, those that were passed over included
        self.forget()

    def forget(self) -> None:
        """How many images there were, as a new period may be busier or quieter."""
        self._sizes = Counter[int]()  # windows by the images that a source had in them

    def advance(self, at: float) -> list[Item]:
        """What is complete by this time, in seconds since 1970; call it before ``add``."""
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
        """Take in one image; one that is earlier than the window is passed over."""
        if not self._correlation_s:
            self._wait(1, item)
        elif at >= self._window:
            count, kept = self._drawn.get(source, (0, item))
            count += 1
            self._drawn[source] = (count, item if self._random.random() * count < 1 else kept)

    def _next_window(self, at: float) -> None:
        """The one that ``at`` is in or before. Where windows are, and what is drawn in one, is the same wherever a log begins."""
        length = self._correlation_s
        if (chunk := math.floor(at / (_CHUNK * length))) > self._chunk:
            self._begin(chunk)
        while at >= self._window + length:
            self._window += length * (2 + self._gaps.random())
            if self._window > length * (_CHUNK * (self._chunk + 1) - 2):  # too near to those of the next chunk
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
        elif (place := self._random.randrange(self._count)) < _MOST_WAITING:  # a random sample of all
            self._waiting[place] = (count, item)

    def _release(self) -> list[Item]:
        most = self._most()
        found = [item for count, item in self._waiting if self._random.random() * most < count]
        self._random.shuffle(found)
        self._waiting, self._count = [], 0
        return found

    def _most(self) -> float:
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
