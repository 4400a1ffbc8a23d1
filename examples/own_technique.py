"""A technique of your own: weights far from a layer's mean are clipped, so that INT8 has finer steps for the others.

A package registers it, so that plans can name it: entry point "planish.techniques", clip_weights = "own_technique:ClipWeights".
"""

import copy
from pathlib import Path

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

import planish
from planish.artifact import Step
from planish.compression import Int8
from planish.export import ToOnnx
from planish.plan import Plan
from planish.testing import write_shapes


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ClipWeights:
    """Clip each convolution's weights at so many standard deviations."""

    deviations: float = Field(default=3.0, gt=0)
    name, reference, requires, changes = "clip_weights", "an example", {"format": ("torch",)}, {}

    def apply(self, artifact, task):
        module = copy.deepcopy(artifact.module)
        for layer in module.modules():
            if isinstance(layer, torch.nn.Conv2d):
                limit = self.deviations * layer.weight.data.std()
                layer.weight.data.clamp_(-limit, limit)
        return artifact.with_step(Step(self.name, {"deviations": self.deviations}, self.changes), module=module)


data = write_shapes(Path("shapes"), per_class=100)
planish.train(data, model="resnet8x0.5", changes=["epochs=20"], out="model")
done = planish.compress("model", data, plan=Plan(ClipWeights(2.5), ToOnnx(), Int8()), out="compressed")
print(f"accuracy {done.before['accuracy']} → {done.after['accuracy']}")
