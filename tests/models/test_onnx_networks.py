"""Networks of torchvision and timm, exported to ONNX and made networks again."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
import torchvision
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from planish.compression import ChannelPruning
from planish.export import ToOnnx
from planish.export.runtimes.registry import load
from planish.models.onnx import convert
from planish.models.storage import fingerprint
from planish.settings import ModelSettings
from planish.testing import write_shapes
from planish.training.prepare import Job, prepare_job

FAST = ["resnet18", "mobilenet_v2", "shufflenet_v2_x0_5", "squeezenet1_1", "timm:mobilenetv4_conv_small"]
SLOW = [
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3", "maxvit_t",
    "mnasnet0_5", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnext50_32x4d", "swin_t", "swin_v2_t", "vgg11_bn",
    "vit_b_32", "wide_resnet50_2",
    *(f"timm:{name}" for name in (
        "efficientnet_lite0", "ghostnet_100", "repvgg_a0", "hrnet_w18_small", "res2net50_26w_4s", "resnest14d", "mixnet_s", "regnetz_b16",
        "fastvit_t8", "mobileone_s0", "dla34", "vovnet39a", "xception41", "convnextv2_atto", "mobilevit_xxs",
        "lcnet_050", "rexnet_100", "skresnet18", "repghostnet_050", "starnet_s1", "repvit_m1",
    )),
]  # fmt: skip
NOT_STATIC = ["vit_b_32"]  # the batch stands between other axes, as in PyTorch's attention
SIDES = {"alexnet": 224, "vgg11_bn": 224, "inception_v3": 96, "maxvit_t": 224, "swin_t": 224, "swin_v2_t": 224, "vit_b_32": 224}


def network(name: str, classes: int = 5) -> nn.Module:
    """A network with random weights and statistics of images, as a trained one has."""
    torch.manual_seed(0)
    more = {"init_weights": False, "aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    built: nn.Module = (
        timm.create_model(name.removeprefix("timm:"), num_classes=classes)
        if name.startswith("timm:")
        else torchvision.models.get_model(name, weights=None, num_classes=classes, **more)
    )
    for layer in built.modules():
        if isinstance(layer, nn.Linear) and not layer.weight.any():
            nn.init.normal_(layer.weight, std=0.05)
    side = SIDES.get(name, 64)
    with torch.no_grad():
        built.train()(torch.randn(8, 3, side, side))
    return built.eval()


def exported(module: nn.Module, side: int, *, dynamo: bool = False, static: bool = False) -> Any:
    images = torch.randn(1 if static else 2, 3, side, side)
    file = io.BytesIO()
    if dynamo:
        dynamic = None if static else ({0: torch.export.Dim.DYNAMIC},)
        program = torch.onnx.export(module, (images,), dynamo=True, dynamic_shapes=dynamic, verbose=False)
        assert program is not None
        program.save(file)
    else:
        axes = None if static else {"x": {0: "N"}, "y": {0: "N"}}
        torch.onnx.export(module, (images,), file, dynamo=False, dynamic_axes=axes, input_names=["x"], output_names=["y"], opset_version=17)
    return onnx.load_from_string(file.getvalue())


def compare(model: Any, module: nn.Module, side: int) -> nn.Module:
    """Convert; three images at once must give what ONNX Runtime gives one by one, and what the network gave in double precision."""
    converted = convert(model).module
    images = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 3, side, side)).astype(np.float32))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    expected = np.concatenate([session.run(None, {name: image[None].numpy()})[0] for image in images])
    with torch.no_grad():
        np.testing.assert_allclose(converted(images).numpy(), expected, rtol=0, atol=1e-4 * np.abs(expected).max())
        exact = module.double()(images.double())
        torch.testing.assert_close(converted.double()(images.double()), exact, rtol=0, atol=1e-5 * float(exact.abs().max()))
    return converted.float()


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("name", [*FAST, *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)])
def test_torchscript_exporter(name: str, static: bool) -> None:
    if static and name in NOT_STATIC:
        pytest.skip("not covered")
    module, side = network(name), SIDES.get(name, 64)
    converted = compare(exported(module, side, static=static), module, side)
    assert len(list(converted.parameters())) <= len(list(module.parameters()))


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("name", ["squeezenet1_1", *(pytest.param(n, marks=pytest.mark.slow) for n in [*FAST[:3], *SLOW])])
def test_dynamo_exporter(name: str, static: bool) -> None:
    if static and name in NOT_STATIC:
        pytest.skip("not covered")
    module, side = network(name), SIDES.get(name, 64)
    compare(exported(module, side, dynamo=True, static=static), module, side)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"])
def test_segmenters(name: str) -> None:
    class Out(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=5)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.inner(images)["out"]

    torch.manual_seed(0)
    module = Out()
    with torch.no_grad():
        module.train()(torch.randn(4, 3, 64, 64))
    compare(exported(module.eval(), 64), module, 64)


def test_names_of_layers_are_those_of_the_network() -> None:
    module = network("squeezenet1_1")
    converted = convert(exported(module, 64, dynamo=True)).module
    assert {n for n, m in converted.named_modules() if isinstance(m, nn.Conv2d)} == {
        n for n, m in module.named_modules() if isinstance(m, nn.Conv2d)
    }


def test_optimized_by_onnxruntime(tmp_path: Path) -> None:
    module = network("resnet18")
    (tmp_path / "net.onnx").write_bytes(exported(module, 64).SerializeToString())
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(str(tmp_path / "optimized.onnx"))
    assert any(node.op_type == "FusedConv" for node in optimized.graph.node)
    compare(optimized, module, 64)


def test_the_same_file_gives_the_same_network() -> None:
    model = exported(network("squeezenet1_1"), 64)
    assert fingerprint(convert(model).module) == fingerprint(convert(model).module)


def nhwc_file() -> Any:
    """A residual network of convolutions, each between transposes, as for Keras: channels last, bias apart, SAME padding, batch norm."""
    rng = np.random.default_rng(0)
    nodes, constants = [], []
    count = 0

    def add(op_type: str, inputs: list[Any], **attributes: Any) -> str:
        nonlocal count
        count += 1
        names = []
        for value in inputs:
            if isinstance(value, np.ndarray):
                constants.append(numpy_helper.from_array(value, f"constant_{count}_{len(names)}"))
                names.append(constants[-1].name)
            else:
                names.append(value)
        nodes.append(helper.make_node(op_type, names, [f"t{count}"], f"node_{count}", **attributes))
        return f"t{count}"

    def weights(*shape: int) -> Any:
        return (rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)

    def conv(x: str, inputs: int, outputs: int, size: int, stride: int = 1, group: int = 1) -> str:
        x = add("Transpose", [x], perm=[0, 3, 1, 2])
        x = add("Conv", [x, weights(outputs, inputs // group, size, size)], auto_pad="SAME_UPPER", strides=[stride] * 2, group=group)
        statistics = [weights(outputs, 1).reshape(-1) * 0.1 + shift for shift in (1, 0, 0)]
        x = add("BatchNormalization", [x, *statistics, np.abs(weights(outputs, 1).reshape(-1)) + 0.5])
        return add("Relu", [add("Add", [add("Transpose", [x], perm=[0, 2, 3, 1]), weights(outputs, 1).reshape(-1) * 0.1])])

    x = conv("images", 3, 32, 3, stride=2)
    for _ in range(2):
        inner = conv(conv(x, 32, 64, 1), 64, 64, 3, group=64)
        x = add("Add", [x, conv(inner, 64, 32, 1)])
    scale = add("ReduceMean", [x], axes=[1, 2], keepdims=1)
    x = add("Mul", [x, add("Sigmoid", [conv(scale, 32, 32, 1)])])
    x = add("ReduceMean", [x], axes=[1, 2], keepdims=0)
    x = add("Add", [add("MatMul", [x, weights(32, 5)]), weights(5, 1).reshape(-1)])
    graph = helper.make_graph(
        nodes,
        "nhwc",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 64, 64, 3])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["N", 5])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    shapes = write_shapes(tmp_path_factory.mktemp("photos") / "shapes", per_class=8, size=64, channels=3)
    return prepare_job(shapes, ModelSettings("torchvision:resnet18", image_size=64))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "shufflenet_v2_x0_5", "nhwc"])
def test_pruned_and_exported(name: str, job: Job) -> None:
    classes = len(job.artifact.class_names)
    model = nhwc_file() if name == "nhwc" else exported(network(name, classes), 64)
    artifact = replace(job.artifact, module=convert(model).module)
    pruned = ChannelPruning(0.3).apply(artifact, job.task)
    assert pruned.size_bytes < 0.65 * artifact.size_bytes
    widths = [[m.out_channels for m in a.module.modules() if isinstance(m, nn.Conv2d)] for a in (artifact, pruned)]
    assert sum(widths[1]) < 0.8 * sum(widths[0])
    images = np.ascontiguousarray(job.task.split("validation").images(pruned.input_spec, pruned.preprocessing))
    found = load(ToOnnx().apply(pruned, job.task).files, "onnxruntime")(images)["logits"]
    mean, std = (np.array(values, np.float32) for values in (pruned.preprocessing.mean, pruned.preprocessing.std))
    normalised = torch.from_numpy(((images / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32).copy())
    with torch.no_grad():
        expected = pruned.module(normalised).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
