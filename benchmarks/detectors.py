"""Our detector and torchvision's SSDLite on the same backbone, each trained from scratch for the same wall time on ``fashion-scenes``.

    OMP_NUM_THREADS=1 taskset -c 0 .venv/bin/python benchmarks/detectors.py --minutes 22 --arms "planish, 192 px" &
    OMP_NUM_THREADS=1 taskset -c 1 .venv/bin/python benchmarks/detectors.py --minutes 22 --arms "ssdlite, 256 px"

Both have torchvision's MobileNetV3-Large, whose tail torchvision's SSDLite halves where no weights are given, the recipe that is theirs
(``objects``, ``objects-torchvision``) with as many epochs as the time allows, and the same images. SSDLite was made for 320 pixels and its
finest map is of stride 16: it is best at twice the scenes' own 128 pixels. Each is judged once, on the 1,000 test scenes.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

from planish.devices.machine import describe_machine
from planish.evaluation.evaluate import evaluate
from planish.evaluation.torch_predictor import TorchPredictor
from planish.settings import ModelSettings
from planish.training.original import train_original
from planish.training.prepare import prepare_job
from planish.training.recipe import load_recipe, recipe_for

FILE = Path(__file__).parent / "results" / "detectors.json"
ARMS = {
    "planish, 128 px": ("torchvision:mobilenet_v3_large", 128),
    "planish, 192 px": ("torchvision:mobilenet_v3_large", 192),
    "ssdlite, 128 px": ("torchvision:ssdlite320_mobilenet_v3_large", 128),
    "ssdlite, 256 px": ("torchvision:ssdlite320_mobilenet_v3_large", 256),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion-scenes")
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    arguments = parser.parse_args()
    for name in arguments.arms:
        model, size = ARMS[name]
        job = prepare_job(arguments.data, ModelSettings(model, task="detection", image_size=size))
        settings = replace(load_recipe(recipe_for("objects", model)).training, epochs=1000)
        trained = train_original(job, settings, mode="always", seconds=60 * arguments.minutes)
        artifact, history = trained.artifact, trained.history
        spec, how = artifact.input_spec, artifact.preprocessing
        metrics = evaluate(TorchPredictor(artifact.module, how), job.task, "test", spec, how).metrics
        found = json.loads(FILE.read_text()) if FILE.exists() else {}  # arms may be run side by side
        found[name] = {
            "model": model,
            "parameters": sum(p.numel() for p in artifact.module.parameters()),
            "train_images": len(job.task.split("train")),
            "epochs": len(history),
            "seconds": sum(epoch.seconds for epoch in history),
            "metrics": {key: asdict(measured) for key, measured in metrics.items()},
            "history": [asdict(epoch) for epoch in history],
            "machine": describe_machine(),
        }
        print(name, f"{len(history)} epochs,", *(f"{key} {measured};" for key, measured in metrics.items()))
        FILE.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
