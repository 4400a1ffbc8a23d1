"""What brings accuracy back after pruning: one pruned network, trained for the same seconds with one setting changed at a time.

    .venv/bin/python benchmarks/recovery_study.py cifar10/all.csv --model benchmarks/originals/resnet20_cifar10 \
        --plan '[{"name": "block_pruning", "pruning_ratio": 0.3}]' --name cifar10_resnet20_blocks

Accuracy and the divergence from the original's probabilities are on validation, in float32; the divergence tells settings apart that
accuracy cannot. Trainings run one after the other, alone on the machine, in the order of rounds: each setting once per seed.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from planish.artifact import Artifact
from planish.commands.models import open_with_images
from planish.devices.machine import describe_machine
from planish.evaluation.evaluate import Evaluated, evaluate
from planish.evaluation.metrics.classification import kl_divergence
from planish.evaluation.torch_predictor import TorchPredictor
from planish.plan import Plan
from planish.settings import ModelSettings
from planish.task import Task
from planish.tasks import task_for
from planish.training import Distill

RESULTS = Path(__file__).parent / "results"
_PRETRAINED = {"learning_rate": 0.02, "batch_size": 32, "freeze": "early"}
VARIANTS: dict[str, dict[str, Any]] = {
    "recovery": {}, "from scratch": {"learning_rate": 0.1}, "pretrained": _PRETRAINED,
    "rate 0.02": {"learning_rate": 0.02}, "rate 0.005": {"learning_rate": 0.005}, "rate 0.2": {"learning_rate": 0.2},
    "batch 32": {"batch_size": 32}, "batch 128": {"batch_size": 128, "learning_rate": 0.1},
    "batch 256": {"batch_size": 256, "learning_rate": 0.2},
    "AdamW, 0.0005": {"optimizer": "adamw", "learning_rate": 5e-4}, "AdamW, 0.002": {"optimizer": "adamw", "learning_rate": 2e-3},
    "teacher alone": {"weight": 1.0}, "targets alone": {"weight": 0.0}, "temperature 2": {"temperature": 2.0},
    "decoupled": {"method": "decoupled"}, "early layers frozen": {"freeze": "early"}, "no augmentation": {"augmentation": "none"},
    **{f"pretrained, rate {rate:g}": _PRETRAINED | {"learning_rate": rate} for rate in (0.05, 0.01, 0.005, 0.002, 0.001, 0.0005)},
    "pretrained, all layers": _PRETRAINED | {"freeze": "none"},
    "pretrained, batch 64": _PRETRAINED | {"batch_size": 64}, "pretrained, no augmentation": _PRETRAINED | {"augmentation": "none"},
    "pretrained, temperature 2": _PRETRAINED | {"temperature": 2.0}, "pretrained, teacher alone": _PRETRAINED | {"weight": 1.0},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--model", required=True)
    parser.add_argument("--plan", default='[{"name": "channel_pruning", "pruning_ratio": 0.5}]')
    parser.add_argument("--name", required=True, help="of the files in benchmarks/results")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    given = parser.parse_args()
    opened, images = open_with_images(ModelSettings(given.model), given.data, seed=0, skip_bad=False)
    task = task_for(images.task, images.splits, images.class_names)
    original: Artifact = opened.artifact
    target = on_validation(original, task)
    plan = Plan.from_dicts(json.loads(given.plan))
    pruned = plan.apply(replace(original, original=original), task)
    found: dict[str, Any] = {
        "name": given.name, "model": given.model, "original": float(target.metrics["accuracy"].value), "plan": str(plan),
        "pruned": measured(pruned, task, target.logits), "seconds": given.seconds, "machine": describe_machine(), "rows": [],
    }  # fmt: skip
    print(f"original {found['original']:.2f} %, {plan}: {found['pruned']['accuracy']:.2f} %", file=sys.stderr)
    path = RESULTS / f"recovery_study_{given.name}.json"
    for seed in range(given.seeds):
        for name in given.only:
            distill = replace(Distill(), epochs=1000, max_seconds=given.seconds, seed=seed, **VARIANTS[name])
            trained = distill.apply(pruned, task)
            how = trained.lineage.steps[-1].structure
            row = {"variant": name, "seed": seed, "epochs": how["epochs"]} | measured(trained, task, target.logits)
            found["rows"].append(row)
            print(f"{name}, seed {seed}: {row['epochs']:.1f} epochs, {row['accuracy']:.2f} %, KL {row['kl']:.4f}", file=sys.stderr)
            path.write_text(json.dumps(found, indent=1) + "\n")
    path.with_suffix(".md").write_text(table(found))


def on_validation(artifact: Artifact, task: Task) -> Evaluated:
    """Evaluate a network in float32."""
    predictor = TorchPredictor(artifact.module, artifact.preprocessing)
    return evaluate(predictor, task, "validation", artifact.input_spec, artifact.preprocessing)


def measured(artifact: Artifact, task: Task, original: Any) -> dict[str, float]:
    """Accuracy on validation, and the mean divergence from the original's probabilities."""
    done = on_validation(artifact, task)
    return {"accuracy": done.metrics["accuracy"].value, "kl": kl_divergence(original, done.logits).value}


def table(found: dict[str, Any]) -> str:
    """A row for each setting, with the mean over seeds, best first."""
    rows = []
    for name in dict.fromkeys(row["variant"] for row in found["rows"]):
        of = [row for row in found["rows"] if row["variant"] == name]
        means = {key: float(np.mean([row[key] for row in of])) for key in ("epochs", "accuracy", "kl")}
        rows.append((means["kl"], f"| {name} | {means['epochs']:.1f} | {means['accuracy']:.2f} | {means['kl']:.4f} | {len(of)} |"))
    return "\n".join(
        [
            f"# Recovery of a pruned {found['model']} ({found['name']}): {found['seconds']:g} s each",
            "",
            f"{found['machine']['cpu']}, {found['machine']['usable_cores']} cores. The original has "
            f"{found['original']:.2f} % on validation; {found['plan']} has {found['pruned']['accuracy']:.2f} % before training. "
            "`recovery` is the shipped recipe, and `pretrained` what searches used for pretrained networks before decision 0145; "
            "the others change one setting of one of them.",
            "",
            "| setting | epochs | accuracy, % | divergence, nats | seeds |", "|---|---|---|---|---|",
            *(text for _, text in sorted(rows)), "",
        ]
    )  # fmt: skip


if __name__ == "__main__":
    main()
