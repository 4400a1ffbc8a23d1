"""Carry out a plan of your own instead of a search: half of the channels, two epochs of distillation, INT8."""

from pathlib import Path

import planish
from planish.plan import Plan
from planish.testing import write_shapes

data = write_shapes(Path("shapes"), per_class=100)
planish.train(data, model="resnet8x0.5", changes=["epochs=20"], out="model")

plan = Plan.from_dicts(
    [
        {"name": "channel_pruning", "pruning_ratio": 0.5},
        {"name": "distill", "epochs": 2},
        {"name": "to_onnx"},
        {"name": "int8"},
    ]
)  # the same as a YAML file: planish compress model shapes --plan plan.yaml
done = planish.compress("model", data, plan=plan, out="compressed")

print(f"accuracy {done.before['accuracy']} → {done.after['accuracy']}")
print(f"{done.size_bytes_before / done.size_bytes_after:.1f} times smaller")
