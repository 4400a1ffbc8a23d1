"""The process in which one subject runs. Started by ``latency_process`` as ``python -m planish.devices.latency_worker``.

It exchanges frames over its original stdin and stdout: two lengths, a JSON header, an array in npy format (never pickle). What libraries
print goes to stderr. It waits in a blocking read, and exits at the end of the pipe, which also occurs when the parent dies.
"""

from __future__ import annotations

import gc
import importlib
import io
import json
import os
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from planish.artifact import Pixels, Predictor

Array = npt.NDArray[Any]
Header = dict[str, Any]
_LENGTHS = struct.Struct(">IQ")
_WARM_SECONDS = 1.5  # limit; the latency of most models is stable after a tenth of it
_WINDOW = 5  # calls in each of the two groups that are compared to see whether the latency is stable


def pack(header: Header, array: Array | None = None) -> bytes:
    """Encode one frame."""
    body = io.BytesIO()
    if array is not None:
        np.save(body, array, allow_pickle=False)
    text = json.dumps(header).encode()
    return _LENGTHS.pack(len(text), body.tell()) + text + body.getvalue()


def unpack(read: Callable[[int], bytes]) -> tuple[Header, Array | None]:
    """Read the next frame with ``read(size)``, which returns exactly that many bytes.

    Raises:
        EOFError: the other process has ended (raised by ``read``).
    """
    text, body = _LENGTHS.unpack(read(_LENGTHS.size))
    header: Header = json.loads(read(text))
    return header, np.load(io.BytesIO(read(body)), allow_pickle=False) if body else None


def resident_bytes(peak: bool) -> int:
    """Return the resident memory of this process now, or its peak since ``reset_peak`` (or since its start, if that is not supported)."""
    try:
        with open("/proc/self/status") as status:
            fields = dict(line.split(":", 1) for line in status)
        return int(fields["VmHWM" if peak else "VmRSS"].split()[0]) * 1024
    except (OSError, KeyError):
        import resource

        import psutil

        # ru_maxrss is in bytes on macOS; other systems without /proc are not supported
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss if peak else int(psutil.Process().memory_info().rss)


def reset_peak() -> None:
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass  # not Linux, or not allowed: the peak then includes the memory of the imports


class TimedModel:
    """A loaded model and the batches of images that it runs on in turn."""

    def __init__(self, header: Header, images: Pixels) -> None:
        batch: int = header["batch"]
        # a sample smaller than the batch size is repeated, so that each call gets a full batch
        images = np.concatenate([images] * -(-batch // len(images))) if len(images) < batch else images
        self.batches = [np.ascontiguousarray(images[i : i + batch]) for i in range(0, len(images) - batch + 1, batch)]
        self.next = 0
        module, _, function = header["loader"].partition(":")
        for name in header["imports"]:
            importlib.import_module(name)
        load = getattr(importlib.import_module(module), function)
        gc.collect()
        reset_peak()
        self.empty_bytes = resident_bytes(peak=False)
        self.predictor: Predictor = load(**header["arguments"])
        self.predictor(self.batches[0])

    def run(self, calls: int) -> npt.NDArray[np.float64]:
        """Run ``calls`` inferences and return the latency of each in milliseconds."""
        times = np.empty(calls, dtype=np.int64)
        clock, predictor, batches, start = time.perf_counter_ns, self.predictor, self.batches, self.next
        for i in range(calls):
            batch = batches[(start + i) % len(batches)]
            begun = clock()
            predictor(batch)
            times[i] = clock() - begun
        self.next = (start + calls) % len(batches)
        return times / 1e6

    def warm_up(self) -> float:
        """Run until the medians of two groups of calls agree within 5%, or time is up; returns the milliseconds per call."""
        end = time.monotonic() + _WARM_SECONDS
        before, after = self.run(_WINDOW), self.run(_WINDOW)
        while abs(np.median(after) / np.median(before) - 1) > 0.05 and time.monotonic() < end:
            before, after = after, self.run(_WINDOW)
        return float(np.median(after))

    def answer(self, header: Header) -> tuple[Header, Array | None]:
        if header["do"] == "warm_up":  # no match statement: on a device this runs with Python 3.9
            return {"call_ms": self.warm_up()}, None
        if header["do"] == "run":
            self.run(1)  # not timed: refills the caches and wakes the threads after other models ran
            return {}, self.run(header["calls"])
        return {"peak_memory_bytes": max(0, resident_bytes(peak=True) - self.empty_bytes)}, None


def main() -> None:
    # libraries print to stdout and may read stdin: both are replaced, and only this function keeps the original ones
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches us too; the parent decides

    def read(size: int) -> bytes:
        data = incoming.read(size)
        if len(data) < size:
            raise EOFError
        return data

    subject: TimedModel | None = None
    gc.disable()
    while True:
        try:
            header, array = unpack(read)
        except EOFError:
            return
        # the parent kills this process at the timeout; if the parent is dead by then, the alarm does
        signal.alarm(int(header["timeout"]) + 5)
        try:
            if subject is None:
                assert array is not None, "the first frame carries the images"
                subject, reply = TimedModel(header, array), pack({})
            else:
                reply = pack(*subject.answer(header))
        except BaseException as error:  # whatever a third party's loader raises is reported, SystemExit included
            traceback.print_exc()
            reply = pack({"error": f"{type(error).__name__}: {error}"})
        signal.alarm(0)
        try:
            outgoing.write(reply)
            outgoing.flush()
        except BrokenPipeError:
            sys.stderr.close()
            os._exit(0)


if __name__ == "__main__":
    main()
