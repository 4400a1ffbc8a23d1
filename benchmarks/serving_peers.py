"""The service beside LitServe and Ray Serve: the same model file, decoding and runtime, image files in, class names out.

    python -m venv peers && peers/bin/pip install -e . -r benchmarks/serving_peer_apps/requirements.txt
    .venv/bin/python -m benchmarks.serving_peers BUNDLE --peers-python peers/bin/python [--seconds 10] [--rounds 3]

Each runs one copy of the model with one thread of the runtime and batches of at most 16; the others wait at most 1 ms for one to
fill. Planish logs each request, the others do not. In each round each is started, asked by 32 clients without a pause, then at one
rate for all, half of what Planish answers, at random times; the order of the three changes from round to round. Clients run on the
same cores.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
from PIL import Image

from benchmarks.serving import BATCH, RESULTS, closed, opened
from planish.devices.machine import describe_machine

CLIENTS = 32
HEADERS = {"Content-Type": "application/octet-stream"}
QUIET, TRIES = 0.15, 1  # cores that others may use while one is measured, and how often it is measured again otherwise
NAMES = ("planish", "litserve", "ray")


def photo() -> bytes:
    """A JPEG file of 256 x 256 pixels, smooth as photographs are."""
    coarse = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((256, 256), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def start(name: str, bundle: Path, peers_python: str) -> tuple[subprocess.Popen[bytes], str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [peers_python, "-m", f"benchmarks.serving_peer_apps.{name}", str(bundle), str(port), str(BATCH)]
    if name == "planish":
        options = ["--port", str(port), "--threads", "1", "--max-batch", str(BATCH)]
        command = [sys.executable, "-m", "planish.cli", "serve", f"served={bundle}", *options]
    root = Path(__file__).parent.parent
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root), "RAY_USAGE_STATS_ENABLED": "0"}
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, start_new_session=True)
    return server, f"http://127.0.0.1:{port}/predict"


async def first_answer(url: str, body: bytes) -> str:
    """Asked until it comes."""
    ends = time.monotonic() + 120
    while True:
        try:
            async with aiohttp.ClientSession() as session, session.post(url, data=body, headers=HEADERS) as answer:
                if answer.status == 200:
                    return str((await answer.json())["class"])
        except aiohttp.ClientError:
            pass
        if time.monotonic() > ends:
            raise TimeoutError(f"{url} does not answer")
        await asyncio.sleep(0.5)


def busy(server: psutil.Process) -> float:
    """Seconds of computing that others than the server and this process have done since the machine started."""
    ours = [psutil.Process(), server, *server.children(recursive=True)]
    times, everybody = [process.cpu_times() for process in ours], psutil.cpu_times()
    return everybody.user + everybody.nice + everybody.system - sum(one.user + one.system for one in times)


def measure(name: str, arguments: argparse.Namespace, body: bytes, rate: float) -> dict[str, Any]:
    """One server, from start to stop; ``rate`` 0 for half of what it answers itself."""
    server, url = start(name, arguments.bundle, arguments.peers_python)
    try:
        said = asyncio.run(first_answer(url, body))
        asyncio.run(closed(url, body, HEADERS, CLIENTS, 2))
        process = psutil.Process(server.pid)
        begun, others = time.perf_counter(), busy(process)
        full = asyncio.run(closed(url, body, HEADERS, CLIENTS, arguments.seconds))
        half = asyncio.run(opened(url, body, HEADERS, rate or full["a_second"] / 2, arguments.seconds))
        others = (busy(process) - others) / (time.perf_counter() - begun)
        memory = sum(one.memory_full_info().pss for one in [process, *process.children(recursive=True)])
    finally:
        for process in [*psutil.Process(server.pid).children(recursive=True), psutil.Process(server.pid)]:
            process.send_signal(signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
    return {"class": said, "saturated": full, "half_load": half, "pss_bytes": memory, "cores_used_by_others": others}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--peers-python", default=sys.executable, help="of an environment with the requirements installed")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--note", default="", help="kept with the results, such as what else ran on the machine")
    arguments = parser.parse_args()
    body, rate = photo(), 0.0
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in NAMES}
    for number in range(arguments.rounds):
        order = NAMES[number % 3 :] + NAMES[: number % 3]
        for name in order:
            one = measure(name, arguments, body, rate)
            for _ in range(TRIES):
                if one["cores_used_by_others"] < QUIET:
                    break
                print(f"{name}: again, since others used {one['cores_used_by_others']:.2f} cores", flush=True)
                one = measure(name, arguments, body, rate)
            rate = rate or one["half_load"]["asked_a_second"]
            found[name].append(one)
            full, half = one["saturated"], one["half_load"]
            times = f"p50 {half['p50_ms']:.1f} p99 {half['p99_ms']:.1f} ms"
            print(f"{name}: {full['a_second']:.0f}/s; at {rate:.0f}/s {times}; others {one['cores_used_by_others']:.2f}", flush=True)
    classes = {one["class"] for rounds in found.values() for one in rounds}
    assert len(classes) == 1, f"they do not answer alike: {classes}"
    medians = {
        name: {
            "a_second": statistics.median(one["saturated"]["a_second"] for one in rounds),
            **{key: statistics.median(one["half_load"][key] for one in rounds) for key in ("p50_ms", "p99_ms")},
        }
        for name, rounds in found.items()
    }
    print(json.dumps(medians, indent=2))
    setting = {"batch": BATCH, "clients": CLIENTS, "note": arguments.note, "machine": describe_machine()}
    result = {"medians": medians, "rounds": found, **setting}
    RESULTS.joinpath("serving_peers.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
