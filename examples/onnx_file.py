"""Optimize an ONNX file from anywhere: it is converted to PyTorch layers, then pruned, distilled and quantized."""

from pathlib import Path

import torch

import planish
from planish.models.storage import load_artifact
from planish.testing import write_shapes

data = write_shapes(Path("shapes"), per_class=100)
planish.train(data, model="resnet8", changes=["epochs=20"], out="model")

# Any exporter will do. This file takes float images, normalised as the network was trained: (N, 1, 24, 24).
artifact = load_artifact(Path("model"))
torch.onnx.export(
    artifact.module.eval(), (torch.zeros(2, 1, 24, 24),), "classifier.onnx", dynamo=True, input_names=["images"],
    dynamic_shapes=({0: torch.export.Dim("batch")},),
)  # fmt: skip

mean, std = artifact.preprocessing.mean, artifact.preprocessing.std
result = planish.optimize(data, model="classifier.onnx", mean=mean, std=std, budget="40s", max_drop=5, out="runs/onnx")
print(result.verdict)
