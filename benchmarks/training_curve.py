"""Accuracy against minutes of training: a fresh network by a shipped recipe, once for each budget.

    PLANISH_DATA=FOLDER .venv/bin/python benchmarks/training_curve.py cifar10 --budgets 1m 5m 30m

Each point is a training of its own, whose learning rate reaches 0 when its budget ends: the network somebody has who stops there. Accuracy
is on test, which nothing was chosen with; minutes are those of training with its validation, after the images were read.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from planish import commands
from planish.devices.machine import describe_machine

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--recipe", default="scratch-long")
    parser.add_argument("--budgets", nargs="+", default=["1m", "5m", "30m"])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    points = []
    for budget in arguments.budgets:
        folder = Path(tempfile.mkdtemp()) / "model"
        trained = commands.train(
            arguments.data, model=arguments.model, recipe=arguments.recipe, budget=budget, out=folder, seed=arguments.seed
        )
        history = json.loads((folder / "history.json").read_text())
        points.append(
            {
                "budget": budget,
                "minutes": sum(epoch["seconds"] for epoch in history) / 60,
                "epochs": len(history),
                "accuracy": asdict(trained.metrics["accuracy"]),
                "history": history,
            }
        )
        print(f"{budget}: {trained.metrics['accuracy']} on test after {points[-1]['minutes']:.1f} min", file=sys.stderr)
    name = f"training_curve_{arguments.data}_{arguments.model.replace(':', '_')}"
    found = {
        "data": arguments.data, "model": arguments.model, "recipe": arguments.recipe, "seed": arguments.seed, "points": points,
        "machine": describe_machine(),
    }  # fmt: skip
    RESULTS.joinpath(f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    RESULTS.joinpath(f"{name}.md").write_text(table(found))


def table(found: dict) -> str:
    """The points, a row each, and the validation accuracy on the way to the last."""
    rows = [
        f"| {p['budget']} | {p['minutes']:.1f} | {p['epochs']} | {p['accuracy']['value']:.2f} "
        f"[{p['accuracy']['low']:.2f}, {p['accuracy']['high']:.2f}] |"
        for p in found["points"]
    ]
    machine, history = found["machine"], found["points"][-1]["history"]
    minutes = list(itertools.accumulate(epoch["seconds"] / 60 for epoch in history))
    shown = sorted({round(i * (len(history) - 1) / 9) for i in range(10)})
    way = ", ".join(f"{history[i]['validation_score']:.1f} after {minutes[i]:.1f} min" for i in shown)
    return "\n".join(
        [
            f"# Accuracy against minutes of training: {found['model']} on {found['data']}, recipe {found['recipe']}",
            "",
            f"{machine['cpu']}, {machine['usable_cores']} cores, {machine['instruction_sets']}. Seed {found['seed']}; "
            "a training for each budget; test accuracy with 95 % interval.",
            "",
            "| budget | minutes taken | epochs | test accuracy, % |",
            "|---|---|---|---|",
            *rows,
            "",
            f"On the way to the last point, on validation: {way}.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
