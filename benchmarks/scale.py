"""How sharing a run among workers scales: cross-validation with 1, 2 and 4 workers of one thread, and a simulation of many.

    .venv/bin/python benchmarks/scale.py fashion-mini --folds 8 --epochs 1

Each number of workers is a local Ray cluster with as many cores declared, whatever the machine has. The simulation gives each step the
duration that was recorded with one worker, and the run the time that it spent on packing each step and on keeping its outcome.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from planish.commands import crossval
from planish.devices.machine import describe_machine
from planish.runs.workers import share
from planish.runs.workers.parcel import Outcome, Parcel, pack
from planish.runs.workers.ray_cluster import RayWorkers

RESULTS = Path(__file__).parent / "results"
COUNTS = (1, 2, 4)
SIMULATED = (1, 2, 4, 8, 16, 32, 64, 100)
SIMULATED_STEPS = 200  # an experiment of 40 arms and 5 seeds, whose seeds follow one another: the first two together


class Recorded:
    """Workers whose steps are timed, and what the run itself spends on them."""

    def __init__(self, workers: RayWorkers, count: int) -> None:
        self.count, self._workers = count, workers
        self.seconds: list[float] = []
        self.wall = self.keeping = 0.0

    def results(self, parcels: Iterable[Parcel]) -> Iterator[tuple[int, Outcome]]:
        begun = perf_counter()
        for index, outcome in self._workers.results(parcels):
            self.seconds.append(outcome.seconds)
            given = perf_counter()
            yield index, outcome
            self.keeping += perf_counter() - given
        self.wall = perf_counter() - begun


def measure(given: argparse.Namespace, count: int, folder: Path) -> dict[str, Any]:
    """Run the cross-validation with so many workers."""
    packing = [0.0]

    def timed(*arguments: Any) -> Parcel:
        begun = perf_counter()
        made = pack(*arguments)
        packing[0] += perf_counter() - begun
        return made

    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    subprocess.run([*ray, "start", "--head", "--num-cpus", str(count), "--include-dashboard=false"], check=True, capture_output=True)
    try:
        with RayWorkers("", 1) as workers, patch.object(share, "pack", timed):
            recorded = Recorded(workers, count)
            with share.using_workers(recorded):
                changes = ["mixed_precision=off"]
                crossval(given.data, model=given.model, folds=given.folds, epochs=given.epochs, changes=changes, out=folder)
    finally:
        subprocess.run([*ray, "stop", "--force"], check=True, capture_output=True)
    steps = len(recorded.seconds)
    return {
        "workers": count, "wall_seconds": recorded.wall, "step_seconds": recorded.seconds,
        "packing_seconds_a_step": packing[0] / steps, "keeping_seconds_a_step": recorded.keeping / steps,
    }  # fmt: skip


def simulated(steps: Sequence[float], packing: float, keeping: float, workers: int) -> float:
    """Return the seconds of an experiment: rounds of steps that the run packs and sends in turn, and whose outcomes it keeps."""
    drawn = np.resize(np.array(steps), SIMULATED_STEPS)
    first = SIMULATED_STEPS * 2 // 5
    now = 0.0
    for round_ in (drawn[:first], *np.split(drawn[first:], 3)):
        free = [now] * workers
        ended = []
        for place, seconds in enumerate(round_, 1):
            start = max(heapq.heappop(free), now + packing * place)
            heapq.heappush(free, start + seconds)
            ended.append(start + seconds)
        for end in sorted(ended):
            now = max(now, end) + keeping
    return now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--folds", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=1)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="scale-"))
    rows = [measure(given, count, folder / str(count)) for count in COUNTS]
    shutil.rmtree(folder)
    one = rows[0]
    for row in rows:
        row["speedup"] = one["wall_seconds"] / row["wall_seconds"]
        row["seconds_beside_steps"] = row["wall_seconds"] - sum(row["step_seconds"]) / min(row["workers"], len(row["step_seconds"]))
    costs = one["packing_seconds_a_step"], one["keeping_seconds_a_step"]
    alone = simulated(one["step_seconds"], *costs, 1)
    simulation = {count: alone / simulated(one["step_seconds"], *costs, count) for count in SIMULATED}
    found = {"machine": describe_machine(), "settings": vars(given), "rows": rows, "simulated_speedup": simulation}
    (RESULTS / "scale.json").write_text(json.dumps(found, indent=1))
    for row in rows:
        print(
            f"{row['workers']} workers: {row['wall_seconds']:.1f} s, {row['speedup']:.2f}x, steps of {np.mean(row['step_seconds']):.1f} s"
        )
    print(f"packing {1000 * costs[0]:.0f} ms and keeping {1000 * costs[1]:.0f} ms a step")
    print(", ".join(f"{count}: {ratio:.1f}x" for count, ratio in simulation.items()))


if __name__ == "__main__":
    main()
