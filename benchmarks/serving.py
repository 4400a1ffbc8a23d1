"""The service under load on this machine's loopback, beside its own runtime in a bare loop.

    .venv/bin/python benchmarks/serving.py BUNDLE [--seconds 10] [--minutes 1]

Three questions. At saturation, how much of the bare runtime's throughput is left (turn by turn, so that the machine's drift meets both)?
At half of that load, with requests that come at random times, how long do answers take, against the bare runtime's batch of one, and
against a queue before the bare runtime that costs no time of its own (computed from the bare runtime's times)? At twice the capacity, is
every request answered, with 200 or 429, and does memory stay flat? Clients run in a process of their own on the same
cores, which costs throughput; tensors are sent in binary by the Open Inference Protocol.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil

from planish.devices.machine import describe_machine
from planish.export.bundle.folder import read_bundle
from planish.export.runtimes.registry import load

RESULTS = Path(__file__).parent / "results"
BATCH, ROUNDS = 16, 3


def bare(bundle: Path, batch: int, seconds: float) -> tuple[float, float]:
    """Images a second, and the median milliseconds of a call."""
    described = read_bundle(bundle)
    predictor = load([bundle / name for name in described.files], described.runtime, threads=1, batch=batch)
    spec = described.input_spec
    images = np.random.default_rng(0).integers(0, 256, (batch, spec.height, spec.width, spec.channels), np.uint8)
    predictor(images)
    times, ends = [], time.perf_counter() + seconds
    while time.perf_counter() < ends:
        begun = time.perf_counter()
        predictor(images)
        times.append(time.perf_counter() - begun)
    return batch * len(times) / sum(times), 1000 * float(np.median(times))


def queue(rate: float, one_ms: float, batch_a_second: float) -> tuple[float, float]:
    """Median and 99th percentile of milliseconds from request to answer where a queue costs nothing but the wait for the runtime.

    Requests come at random times; those that wait while a batch runs are the next batch, whose time grows evenly from that of one image.
    """
    rng, more_ms = np.random.default_rng(0), (1000 * BATCH / batch_a_second - one_ms) / (BATCH - 1)
    due = np.cumsum(rng.exponential(1000 / rate, 100_000))
    took, free, first = np.empty(len(due)), 0.0, 0
    while first < len(due):
        begun = max(free, due[first])
        last = min(first + BATCH, max(first + 1, int(np.searchsorted(due, begun, "right"))))
        free = begun + one_ms + (last - first - 1) * more_ms
        took[first:last], first = free - due[first:last], last
    p50, p99 = np.percentile(took, [50, 99])
    return float(p50), float(p99)


def request(bundle: Path) -> tuple[bytes, dict[str, str]]:
    spec = read_bundle(bundle).input_spec
    shape = [1, spec.height, spec.width, spec.channels]
    size = int(np.prod(shape))
    tensor = {"name": "images", "datatype": "UINT8", "shape": shape, "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return head + bytes(size), {"Inference-Header-Content-Length": str(len(head))}


async def closed(url: str, body: bytes, headers: dict[str, str], clients: int, seconds: float) -> dict[str, Any]:
    """Each client sends its next request when the last is answered."""
    ends, statuses = time.perf_counter() + seconds, Counter[str]()

    async def client(session: aiohttp.ClientSession) -> None:
        while time.perf_counter() < ends:
            async with session.post(url, data=body, headers=headers) as answer:
                await answer.read()
                statuses[str(answer.status)] += 1

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        begun = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(clients)))
        return {"a_second": statuses["200"] / (time.perf_counter() - begun), "statuses": statuses}


async def opened(url: str, body: bytes, headers: dict[str, str], rate: float, seconds: float) -> dict[str, Any]:
    """Requests at random times, so many a second, whether or not earlier ones are answered."""
    statuses, times, rng = Counter[str](), list[float](), np.random.default_rng(0)

    async def one(session: aiohttp.ClientSession) -> None:
        begun = time.perf_counter()
        try:
            async with session.post(url, data=body, headers=headers) as answer:
                await answer.read()
                statuses[str(answer.status)] += 1
                if answer.status == 200:
                    times.append(time.perf_counter() - begun)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            statuses[type(error).__name__] += 1

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        tasks, due, ends = set[asyncio.Task[None]](), time.perf_counter(), time.perf_counter() + seconds
        while due < ends:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            task = asyncio.create_task(one(session))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            due += rng.exponential(1 / rate)
        await asyncio.gather(*tasks)
    p50, p99 = np.percentile(times, [50, 99]) * 1000 if times else (float("nan"), float("nan"))
    return {"asked_a_second": rate, "statuses": statuses, "p50_ms": float(p50), "p99_ms": float(p99)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--minutes", type=float, default=1, help="of twice the capacity")
    parser.add_argument("--clients", type=int, default=2 * BATCH)
    arguments = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "planish.cli", "serve", f"served={arguments.bundle}", "--port", str(port), "--threads", "1"]
    server = subprocess.Popen([*command, "--max-batch", str(BATCH)], stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    url = f"http://127.0.0.1:{port}/v2/models/served/infer"
    body, headers = request(arguments.bundle)
    try:
        while server.poll() is None and not _listens(port):
            time.sleep(0.2)
        rounds = []
        asyncio.run(closed(url, body, headers, arguments.clients, 1))
        for _ in range(ROUNDS):
            alone, _median = bare(arguments.bundle, BATCH, arguments.seconds)
            rounds.append({"bare": alone, **asyncio.run(closed(url, body, headers, arguments.clients, arguments.seconds))})
            print(f"bare {alone:.0f} images/s, served {rounds[-1]['a_second']:.0f}: {rounds[-1]['a_second'] / alone:.3f}", flush=True)
        capacity = float(np.median([one["a_second"] for one in rounds]))
        _rate, one_ms = bare(arguments.bundle, 1, arguments.seconds)
        half = asyncio.run(opened(url, body, headers, capacity / 2, arguments.seconds))
        ideal = queue(capacity / 2, one_ms, float(np.median([one["bare"] for one in rounds])))
        print(f"half load: p50 {half['p50_ms']:.2f} ms, p99 {half['p99_ms']:.2f} ms; bare {one_ms:.2f} ms", flush=True)
        print(f"a queue alone: p50 {ideal[0]:.2f} ms, p99 {ideal[1]:.2f} ms", flush=True)
        process = psutil.Process(server.pid)
        before = process.memory_info().rss
        over = asyncio.run(opened(url, body, headers, 2 * capacity, 60 * arguments.minutes))
        after = process.memory_info().rss
        print(f"twice the capacity: {dict(over['statuses'])}, memory {before / 1e6:.0f} -> {after / 1e6:.0f} MB", flush=True)
    finally:
        server.terminate()
        server.wait()
    found = {
        "rounds": rounds, "bare_batch_1_ms": one_ms, "half_load": half, "queue_alone_ms": ideal, "overload": over,
        "rss_bytes": [before, after],
        "runtime": read_bundle(arguments.bundle).runtime, "batch": BATCH, "clients": arguments.clients, "machine": describe_machine(),
    }  # fmt: skip
    RESULTS.joinpath("serving.json").write_text(json.dumps(found, indent=2) + "\n")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    main()
