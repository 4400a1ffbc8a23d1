"""What is read from the runtimes, against numbers from elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from nets import artifact, convolutions, exported, foreign, healthy, wrongly
from onnxruntime.quantization import QuantType
from torch.utils.flop_counter import FlopCounterMode

import planish
from planish.artifact import Artifact
from planish.evaluation.kernels import onnxruntime_kernels
from planish.explanation.model_file import ModelFile
from planish.explanation.onnxruntime_profile import profile_onnxruntime
from planish.explanation.openvino_profile import profile_openvino
from planish.explanation.overflow import full_range
from planish.explanation.reach import measure_reach
from planish.explanation.signal_to_noise import measure_errors

PROFILERS = {"onnxruntime": profile_onnxruntime, "openvino": profile_openvino}


@pytest.fixture(scope="module")
def mobilenet() -> Artifact:
    return exported("torchvision:mobilenet_v2", 64)


@pytest.fixture(scope="module")
def resnet() -> Artifact:
    return exported("resnet8", 32)


@pytest.mark.parametrize("runtime", PROFILERS)
def test_multiplications_are_those_that_torch_counts(mobilenet: Artifact, runtime: str) -> None:
    counter, network = FlopCounterMode(display=False), artifact("torchvision:mobilenet_v2", 64).module
    with counter, torch.no_grad():
        network(torch.zeros(3, 3, 64, 64))
    for file in (mobilenet.files[0], healthy(mobilenet)):
        profile = PROFILERS[runtime](ModelFile(file, runtime, batch=3))
        assert 2 * sum(x.macs for x in profile.layers) == counter.get_total_flops()
        assert sum(x.kind == "depthwise" for x in profile.layers) == 17
        assert sum(x.kind == "linear" for x in profile.layers) == 1
        assert sum(profile.ms(x) for x in profile.layers) <= profile.latency_ms * 1.0001


def test_layers_that_run_in_integers_are_those_of_the_optimised_graph(resnet: Artifact, tmp_path: Path) -> None:
    for file in (resnet.files[0], healthy(resnet), wrongly(resnet, tmp_path, activation_type=QuantType.QInt8)):
        kernels = onnxruntime_kernels(file)
        layers = profile_onnxruntime(ModelFile(file, "onnxruntime")).matrix_layers
        assert sum(x.precision == "int8" for x in layers) == len(kernels["int8"])
        assert sum(x.precision == "fp32" for x in layers) == len(kernels["float"])


def test_conversions_around_a_layer_are_counted(resnet: Artifact, tmp_path: Path) -> None:
    options = {"OpTypesToExcludeOutputQuantization": ["Conv"]}
    file = wrongly(resnet, tmp_path, op_types_to_quantize=["Conv"], extra_options=options)
    found = planish.explain(file)
    floats = [x for x in found.layers if x.kind == "convolution" and x.precision == "fp32"]
    assert floats
    assert any("DequantizeLinear" in x.conversions for x in floats)
    assert all(x.conversions_ms > 0 for x in floats if x.conversions)


def test_reach_is_that_of_numpys_matrix_product_or_so() -> None:
    reach = measure_reach(1)
    assert reach.int8_gops > reach.fp32_gops / 2
    assert 1 < reach.fp32_gops < 10_000


@pytest.mark.parametrize("runtime", PROFILERS)
def test_errors_are_those_of_the_outputs(resnet: Artifact, runtime: str) -> None:
    file = healthy(resnet, runtime)
    pixels = np.random.default_rng(1).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    batches = [{"images": pixels[i : i + 1]} for i in range(8)]
    against_float = measure_errors(ModelFile(file, runtime), batches, resnet.files[0])
    assert against_float is not None
    expected = onnxruntime.InferenceSession(str(resnet.files[0])).run(None, {"images": pixels})[0]
    run = ModelFile(file, runtime).load()
    found = np.concatenate([run(inputs)["logits"] for inputs in batches])
    snr = 10 * np.log10((expected**2).sum() / ((found - expected) ** 2).sum())
    assert against_float.final_db == pytest.approx(snr, abs=1.5), "outputs beside the last one cost a fusion here and there"
    alone = measure_errors(ModelFile(file, runtime), batches)
    assert alone is not None
    assert alone.final_db > against_float.final_db - 1, "the rounding of weights is missing"
    assert alone.images == 8
    for errors in (alone, against_float):
        assert len(errors.layers_db) >= 8
        assert all(15 < db < 80 for db in errors.layers_db.values()), errors.layers_db


def test_a_layer_quantized_too_coarsely_stands_out(resnet: Artifact, tmp_path: Path) -> None:
    model = onnx.load(str(healthy(resnet)))
    constants = {t.name: t for t in model.graph.initializer}
    quantizers = [n for n in model.graph.node if n.op_type == "QuantizeLinear"]
    made_by = {out: n for n in model.graph.node for out in n.output}
    spoilt = next(q for q in quantizers[4:] if made_by[q.input[0]].op_type == "Conv" or made_by[q.input[0]].op_type == "Relu")
    layer = made_by[spoilt.input[0]]
    layer = layer if layer.op_type == "Conv" else made_by[layer.input[0]]
    scale = onnx.numpy_helper.to_array(constants[spoilt.input[1]])
    constants[spoilt.input[1]].CopyFrom(onnx.numpy_helper.from_array(scale * 40, spoilt.input[1]))
    onnx.save(model, str(tmp_path / "spoilt.onnx"))
    pixels = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    errors = measure_errors(ModelFile(tmp_path / "spoilt.onnx", "onnxruntime"), [{"images": pixels[i : i + 1]} for i in range(4)])
    assert errors is not None
    order = list(errors.layers_db)
    earlier = [errors.layers_db[name] for name in order[: order.index(layer.name)]]
    assert errors.layers_db[layer.name] < min(earlier) - 10


def test_a_float_file_has_no_error_of_its_own(resnet: Artifact) -> None:
    pixels = np.zeros((1, 32, 32, 3), dtype=np.uint8)
    assert measure_errors(ModelFile(resnet.files[0], "onnxruntime"), [{"images": pixels}]) is None


def test_weights_that_can_overflow_are_counted(resnet: Artifact, tmp_path: Path) -> None:
    assert full_range(resnet.files[0]) == 0
    assert full_range(wrongly(resnet, tmp_path, reduce_range=False)) > 0.5
    assert full_range(wrongly(resnet, tmp_path, reduce_range=True)) == 0


@pytest.mark.parametrize("runtime", PROFILERS)
def test_files_of_others(runtime: str, tmp_path: Path) -> None:
    file = foreign(convolutions(16, 16), 40, tmp_path / "theirs.onnx")
    found = planish.explain(file, runtime=runtime)
    assert [x.kind for x in found.layers if x.macs] == ["convolution", "convolution", "linear"]
    np.save(tmp_path / "inputs.npy", np.zeros((3, 3, 40, 40), dtype=np.float32))
    assert planish.explain(file, runtime=runtime, data=tmp_path / "inputs.npy").errors is None
