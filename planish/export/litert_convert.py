"""Conversion script for another Python, which need not have Planish: ``litert_convert.py TRACED.pt2 FILE.tflite [CALIBRATION.npy]``."""

import sys
from pathlib import Path

import litert_torch
import numpy as np
import torch


def convert(traced: str, file: str) -> bool:
    """Convert the network, traced with batch size 1, to a float file that keeps the output names; returns whether there are any."""
    program = torch.export.load(traced)
    images = next(node for node in program.graph.nodes if node.name == "images").meta["val"]
    module = program.module(check_guards=False)
    for node in list(module.graph.nodes):  # for constants; the converter cannot trace these nodes a second time
        if node.target is torch.ops.aten.detach_.default:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    module.recompile()
    litert_torch.convert(module, (torch.zeros(tuple(images.shape), dtype=torch.uint8),)).export(file)
    return program.call_spec.out_spec.type is dict


def quantize(file: str, calibration: str, named: bool) -> None:
    """Quantize the weights and activations of the layers to INT8; the decoding of their outputs belongs to no layer and stays float."""
    from ai_edge_quantizer import quantizer, recipe

    work = quantizer.Quantizer(file)
    chosen = recipe.static_wi8_ai8()
    if named:
        chosen.append({"regex": "^[^/]+$", "operation": "*", "algorithm_key": "no_quantize", "op_config": {}})
    work.load_quantization_recipe(chosen)
    images = np.load(calibration, allow_pickle=False)
    found = work.calibrate({"serving_default": [{"args_0": images[i : i + 1]} for i in range(len(images))]})
    quantized = work.quantize(found)
    Path(file).unlink()
    quantized.export_model(file)


if __name__ == "__main__":
    named = convert(sys.argv[1], sys.argv[2])
    if len(sys.argv) > 3:
        quantize(sys.argv[2], sys.argv[3], named)
