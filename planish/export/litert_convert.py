"""Run by another Python, which need not have Planish: ``litert_convert.py TRACED.pt2 FILE.tflite [CALIBRATION.npy]``."""

import sys
from pathlib import Path

import litert_torch
import numpy as np
import torch


def convert(traced: str, file: str) -> None:
    """The traced network, which has one image a call, as a float file. Its outputs keep their names."""
    program = torch.export.load(traced)
    images = next(node for node in program.graph.nodes if node.name == "images").meta["val"]
    module = program.module(check_guards=False)
    for node in list(module.graph.nodes):  # of constants; the converter cannot trace them a second time
        if node.target is torch.ops.aten.detach_.default:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    module.recompile()
    litert_torch.convert(module, (torch.zeros(tuple(images.shape), dtype=torch.uint8),)).export(file)


def quantize(file: str, calibration: str) -> None:
    """The file with integer weights and activations."""
    from ai_edge_quantizer import quantizer, recipe

    work = quantizer.Quantizer(file)
    work.load_quantization_recipe(recipe.static_wi8_ai8())
    images = np.load(calibration, allow_pickle=False)
    found = work.calibrate({"serving_default": [{"args_0": images[i : i + 1]} for i in range(len(images))]})
    quantized = work.quantize(found)
    Path(file).unlink()
    quantized.export_model(file)


if __name__ == "__main__":
    convert(sys.argv[1], sys.argv[2])
    if len(sys.argv) > 3:
        quantize(sys.argv[2], sys.argv[3])
