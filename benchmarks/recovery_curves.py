"""Recoveries of compressed networks, for the prior of ``planish.search.trials.prediction``.

``python -m benchmarks.recovery_curves DATA MODEL --image-size 96 --out FOLDER`` trains MODEL on DATA, compresses it at several levels, and
trains each for several durations and learning rates. A row of ``recoveries.jsonl`` has the drop before and after, on validation. Run it
again to go on after an interruption.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from planish.compression import LatencyPruning
from planish.plan import Plan
from planish.runs.original import stored_original
from planish.runs.runner import Runner, extend
from planish.runs.store import Store
from planish.search.choice import standard_error
from planish.search.trials.proposals import Level
from planish.settings import ModelSettings, OriginalSettings
from planish.training import Distill
from planish.training.original import original_settings
from planish.training.prepare import prepare_job

LEVELS = (Level(1.5), Level(2.5), Level(4.0), Level(1.0, 0.75), Level(2.0, 0.75), Level(blocks=0.5))


def measure(data: str, model: ModelSettings, epochs: int, lengths: list[int], rates: list[float], folder: Path) -> None:
    """Train, compress and recover; append to ``recoveries.jsonl`` what is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    store = Store(folder, None)
    job = prepare_job(data, model, seed=0)
    settings = original_settings(job, OriginalSettings(epochs=epochs), seed=0, mixed_precision="auto")
    runner = Runner(store, folder / "work", job.task, stored_original(job, folder, store, settings, mode="always"))
    runner.folder.mkdir(exist_ok=True)
    score = runner.score(Plan(), "torch", "validation")
    file = folder / "recoveries.jsonl"
    done = {tuple(json.loads(line)["key"]) for line in file.read_text().splitlines()} if file.exists() else set()
    images = len(job.task.split("train"))
    for level in LEVELS:
        start = level.plans(LatencyPruning(speedup=2, runtime="openvino", precision="int8"))[0]
        before = runner.drop(start, "torch", (Plan(), "torch"), "validation")
        for epochs_of_recovery in lengths:
            for rate in rates:
                key = (str(start), epochs_of_recovery, rate)
                if key in done:
                    continue
                plan = extend(start, Distill(epochs=epochs_of_recovery, learning_rate=rate))
                after = runner.drop(plan, "torch", (Plan(), "torch"), "validation")
                seconds = runner.artifact(plan).lineage.steps[-1].structure["seconds"]
                row: dict[str, Any] = {
                    "key": key, "level": asdict(level), "original": score, "before": before.value, "after": after.value,
                    "error": standard_error(after), "epochs": epochs_of_recovery, "learning_rate": rate,
                    "steps": epochs_of_recovery * images / 64, "seconds": seconds,
                }  # fmt: skip
                with file.open("a") as lines:
                    lines.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("model")
    parser.add_argument("--weights")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.02, 0.005])
    parser.add_argument("--out", type=Path, default=Path("recoveries"))
    given = parser.parse_args()
    model = ModelSettings(model=given.model, weights=given.weights, image_size=given.image_size)
    measure(given.data, model, given.epochs, given.lengths, given.rates, given.out)


if __name__ == "__main__":
    main()
