"""The process in which one subject runs. Started by ``latency_process`` as ``python -m planish.devices.latency_worker``.

It exchanges frames over its original stdin and stdout: two lengths, a JSON header, arrays in npy format (never pickle). What libraries
print goes to stderr. It waits in a blocking read, and exits at the end of the pipe, which also occurs when the parent dies.
"""

from __future__ import annotations

import gc
import importlib
import io
import json
import os
import random
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable, Sequence
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
_ROUNDS = 7  # of layers that are timed in turn
_TURN_S = 0.004  # seconds for each of them in each round


def pack(header: Header, arrays: Sequence[Array] = ()) -> bytes:
    """Encode one frame."""
    body = io.BytesIO()
    for array in arrays:
        np.save(body, array, allow_pickle=False)
    text = json.dumps(header).encode()
    return _LENGTHS.pack(len(text), body.tell()) + text + body.getvalue()


def unpack(read: Callable[[int], bytes]) -> tuple[Header, list[Array]]:
    """Read the next frame with ``read(size)``, which returns exactly that many bytes.

    Raises:
        EOFError: the other process has ended (raised by ``read``).
    """
    text, size = _LENGTHS.unpack(read(_LENGTHS.size))
    header: Header = json.loads(read(text))
    body, arrays = io.BytesIO(read(size)), []
    while body.tell() < size:
        arrays.append(np.load(body, allow_pickle=False))
    return header, arrays


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
        self.batch = batch
        for name in header["imports"]:
            importlib.import_module(name)
        load = _function(header["loader"])
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

    def outputs(self, images: Pixels) -> tuple[Header, list[Array]]:
        """Run the model on images; returns the names of the outputs, and their values."""
        found = []
        for i in range(0, len(images), self.batch):
            part = images[i : i + self.batch]
            full = part if len(part) == self.batch else np.concatenate([part] * self.batch)[: self.batch]
            found.append({name: np.array(values[: len(part)]) for name, values in self.predictor(full).items()})
        return {"names": list(found[0])}, [np.concatenate([one[name] for one in found]) for name in found[0]]

    def answer(self, header: Header, arrays: list[Array]) -> tuple[Header, list[Array]]:
        if header["do"] == "warm_up":  # no match statement: on a device this runs with Python 3.9
            return {"call_ms": self.warm_up()}, []
        if header["do"] == "run":
            self.run(1)  # not timed: refills the caches and wakes the threads after other models ran
            return {}, [self.run(header["calls"])]
        if header["do"] == "outputs":
            return self.outputs(arrays[0])
        return {"peak_memory_bytes": max(0, resident_bytes(peak=True) - self.empty_bytes)}, []


def take_turns(loader: str, files: Sequence[str], shapes: Sequence[Sequence[int]], runtime: str, threads: int) -> list[float]:
    """Time files in turn in this process.

    Args:
        loader: ``package.module:function``, as of a model; see ``TimedModel``.
        files: of one model each, with one float input.
        shapes: of the inputs ``(N, C, H, W)``.
        runtime: name of the runtime.
        threads: number of threads of the runtime.

    Returns:
        The median over rounds of the median latency of each file in milliseconds.
    """
    load, numbers = _function(loader), np.random.default_rng(0)
    data = [numbers.random(tuple(shape), dtype=np.float32) for shape in shapes]
    predictors = [load([file], runtime, threads=threads, batch=shapes[0][0]) for file in files]
    calls = [_calls(predictor, x) for predictor, x in zip(predictors, data)]  # noqa: B905 Python 3.9 has no strict
    times: list[list[float]] = [[] for _ in files]
    order, shuffle = list(range(len(files))), random.Random(0)
    for _ in range(_ROUNDS):
        shuffle.shuffle(order)
        for i in order:
            predictors[i](data[i])  # not timed: refills the caches after the turns of the others
            times[i].append(float(np.median([_once(predictors[i], data[i]) for _ in range(calls[i])])))
    return [float(np.median(each)) for each in times]


def _once(predictor: Predictor, data: Any) -> float:
    begun = time.perf_counter()
    predictor(data)
    return 1e3 * (time.perf_counter() - begun)


def _calls(predictor: Predictor, data: Any) -> int:
    predictor(data)
    return max(1, min(50, round(1e3 * _TURN_S / min(_once(predictor, data) for _ in range(2)))))


def _function(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


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
            header, arrays = unpack(read)
        except EOFError:
            return
        # the parent kills this process at the timeout; if the parent is dead by then, the alarm does
        signal.alarm(int(header["timeout"]) + 5)
        try:
            if header.get("do") == "take_turns":
                reply = pack({"milliseconds": take_turns(**header["arguments"])})
            elif subject is None:
                subject, reply = TimedModel(header, arrays[0]), pack({})
            else:
                reply = pack(*subject.answer(header, arrays))
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
