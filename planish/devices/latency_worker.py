"""The process in which one subject runs. Started by ``latency_process`` as ``python -m planish.devices.latency_worker``.

It speaks frames over its original stdin and stdout: two lengths, a JSON header, an array in npy format (never pickle). What libraries print
goes to stderr. It waits in a blocking read, and leaves when that read meets the end of the pipe, which is also what the death of
the parent looks like.
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
_WARM_SECONDS = 1.5  # at most; most models are steady after a tenth of it
_WINDOW = 5  # calls in each of the two groups that are compared to see whether it is steady


def pack(header: Header, array: Array | None = None) -> bytes:
    """One frame."""
    body = io.BytesIO()
    if array is not None:
        np.save(body, array, allow_pickle=False)
    text = json.dumps(header).encode()
    return _LENGTHS.pack(len(text), body.tell()) + text + body.getvalue()


def unpack(read: Callable[[int], bytes]) -> tuple[Header, Array | None]:
    """The next frame; ``read`` returns exactly as many bytes as it is asked for.

    Raises:
        EOFError: the other side is gone (raised by ``read``).
    """
    text, body = _LENGTHS.unpack(read(_LENGTHS.size))
    header: Header = json.loads(read(text))
    return header, np.load(io.BytesIO(read(body)), allow_pickle=False) if body else None


def resident_bytes(peak: bool) -> int:
    """Resident memory of this process now, or at its peak since ``reset_peak`` (since its start, where that is not supported)."""
    try:
        with open("/proc/self/status") as status:
            fields = dict(line.split(":", 1) for line in status)
        return int(fields["VmHWM" if peak else "VmRSS"].split()[0]) * 1024
    except (OSError, KeyError):
        import resource

        import psutil

        # macOS counts ru_maxrss in bytes, as the others that get here do not matter to us
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss if peak else int(psutil.Process().memory_info().rss)


def reset_peak() -> None:
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass  # not Linux, or not allowed: the peak then includes what importing took


class TimedModel:
    """A loaded model and the images it is fed, in turn."""

    def __init__(self, header: Header, images: Pixels) -> None:
        batch: int = header["batch"]
        # a sample smaller than the batch is repeated, so that each call gets a full one
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
        """Milliseconds of each of ``calls`` inferences."""
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
        """Run until two groups of calls agree to 5%, or time is up; returns milliseconds a call."""
        end = time.monotonic() + _WARM_SECONDS
        before, after = self.run(_WINDOW), self.run(_WINDOW)
        while abs(np.median(after) / np.median(before) - 1) > 0.05 and time.monotonic() < end:
            before, after = after, self.run(_WINDOW)
        return float(np.median(after))

    def answer(self, header: Header) -> tuple[Header, Array | None]:
        match header["do"]:
            case "warm_up":
                return {"call_ms": self.warm_up()}, None
            case "run":
                self.run(1)  # refills the caches and wakes the threads after the others' turns; not counted
                return {}, self.run(header["calls"])
            case _:
                return {"peak_memory_bytes": max(0, resident_bytes(peak=True) - self.empty_bytes)}, None


def main() -> None:
    # libraries print to stdout and may read stdin: both get substitutes, and only this function keeps the real ones
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
        # the parent kills us when time is up; should it be dead by then, the alarm does
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
