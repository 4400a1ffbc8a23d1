"""Every fault is seeded in a real file and must be found by name; healthy files must give no finding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from nets import artifact, convolutions, exported, healthy, wrongly
from onnx import numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import nn

import planish
from planish.artifact import Artifact
from planish.explanation import explain as explaining
from planish.explanation.findings.achievable_speed import AchievableSpeed
from planish.explanation.result import Explanation
from planish.models.storage import save_artifact


@pytest.fixture(scope="module")
def resnet() -> Artifact:
    return exported("resnet8", 64)


@pytest.fixture(scope="module")
def mobilenet() -> Artifact:
    return exported("torchvision:mobilenet_v2", 96)


def names(found: Explanation) -> list[str]:
    """Without what depends on the processor alone: whether integers pay."""
    return [finding.name for finding in found.findings if finding.name != "float_where_integers_pay"]


@pytest.fixture
def fast_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose integer units are never the limit: what a fault costs must not hang on what else runs here."""
    monkeypatch.setattr(explaining, "measure_peak_speed", lambda threads: AchievableSpeed(100.0, 1e5, threads))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("network", ["resnet", pytest.param("mobilenet", marks=pytest.mark.slow)])
def test_healthy_models_give_no_false_alarm(network: str, runtime: str, request: pytest.FixtureRequest) -> None:
    float_: Artifact = request.getfixturevalue(network)
    assert names(planish.explain(float_.files[0], runtime=runtime)) == []
    found = planish.explain(healthy(float_, runtime), runtime=runtime)
    assert names(found) == []
    layers = [x for x in found.layers if x.macs]
    assert {x.precision for x in layers} == {"int8"}


def test_signed_activations(resnet: Artifact, tmp_path: Path) -> None:
    file = wrongly(resnet, tmp_path, activation_type=QuantType.QInt8)
    assert names(planish.explain(file))[:1] == ["signed_activations"]
    assert "signed_activations" not in names(planish.explain(file, runtime="openvino")), "OpenVINO runs them in integers"


@pytest.mark.parametrize("network", ["resnet", pytest.param("mobilenet", marks=pytest.mark.slow)])
def test_pairs_that_block_fusion(network: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    options = {"OpTypesToExcludeOutputQuantization": ["Conv"]}
    file = wrongly(request.getfixturevalue(network), tmp_path, op_types_to_quantize=["Conv"], extra_options=options)
    assert names(planish.explain(file)) == ["blocked_fusion"]


def test_activation_without_an_integer_kernel(tmp_path: Path) -> None:
    found = planish.explain(wrongly(exported(convolutions(32, 32, 32, activation=nn.Hardswish), 48), tmp_path))
    assert names(found) == ["float_activation"]
    assert "HardSigmoid" in found.findings[0].what, "the quantizer takes hard-swish apart"


@pytest.mark.usefixtures("fast_integers")
def test_dynamic_quantization_of_convolutions(resnet: Artifact, tmp_path: Path) -> None:
    file = tmp_path / "dynamic.onnx"
    quantize_dynamic(str(resnet.files[0]), str(file), op_types_to_quantize=["Conv"], weight_type=QuantType.QUInt8)
    found = planish.explain(file)
    assert names(found) == ["dynamic_convolutions"]
    assert 0 < found.findings[0].cost_ms < found.latency_ms


@pytest.mark.usefixtures("fast_integers")
def test_unsigned_weights(resnet: Artifact, tmp_path: Path) -> None:
    assert names(planish.explain(wrongly(resnet, tmp_path, weight_type=QuantType.QUInt8))) == ["unsigned_weights"]


@pytest.mark.parametrize(("per_channel", "reduce_range"), [(True, False), (True, True)])
def test_overflow_without_vnni(
    resnet: Artifact, tmp_path: Path, per_channel: bool, reduce_range: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explaining, "instruction_sets", lambda: ("avx2",))
    found = planish.explain(wrongly(resnet, tmp_path, per_channel=per_channel, reduce_range=reduce_range))
    assert ("overflow" in names(found)) == (not reduce_range)
    if not reduce_range:
        assert names(found)[0] == "overflow", "wrong results come first"


def test_misaligned_channels() -> None:
    assert "misaligned_channels" in names(planish.explain(exported(convolutions(37, 35, 41), 48).files[0]))
    assert names(planish.explain(exported(convolutions(32, 48, 64), 48).files[0])) == []


@pytest.mark.usefixtures("fast_integers")
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_memory_bound_depthwise(runtime: str) -> None:
    quantized = healthy(exported(convolutions(32, depthwise=True), 96), runtime)
    found = (names(planish.explain(quantized, runtime=runtime)) for _ in range(3))  # the finding rests on measured times
    assert ["memory_bound_depthwise"] in found


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_sparse_weights(resnet: Artifact, runtime: str, tmp_path: Path) -> None:
    model = onnx.load(str(resnet.files[0]))
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        if values.ndim == 4 and values.shape[2] == 3:
            values.flat[::5] = 0
            values[abs(values) < abs(values).flatten()[abs(values).flatten().argsort()[int(0.8 * values.size)]]] = 0
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, str(tmp_path / "sparse.onnx"))
    found = planish.explain(tmp_path / "sparse.onnx", runtime=runtime)
    assert names(found) == ["sparse_weights"]
    what = next(one.what for one in found.findings if one.name == "sparse_weights")
    assert "80 %" in what or "81 %" in what


@pytest.mark.slow
def test_bf16_hint(resnet: Artifact) -> None:
    import openvino

    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bf16")
    found = planish.explain(resnet.files[0], runtime="openvino", settings={"INFERENCE_PRECISION_HINT": "bf16"})
    assert {x.precision for x in found.layers if x.kind == "convolution"} == {"bf16"}
    assert ("bf16_hint" in names(found)) == (found.alternatives["f32"].verdict == "faster")


def test_preprocessing_as_the_bottleneck(tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    save_artifact(artifact("resnet8", 32), tmp_path / "model")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(0, 256, (1200, 1600, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.jpg")
    found = planish.explain(tmp_path / "model", data=tmp_path / "photos")
    assert names(found) == ["preprocessing"]
    assert found.preprocessing_ms is not None
    assert found.preprocessing_ms > 5


def evidence(**changes: Any) -> Any:
    """For what depends on time alone, which no test should: profiles written by hand."""
    from planish.explanation.findings.finding import Evidence
    from planish.explanation.profiles.profile import LayerProfile, Profile

    layer = LayerProfile(
        "a", "Conv", "convolution", 1.0, changes.pop("precision", "fp32"), (1, 64, 8, 8), macs=10**8, weight=(64, 64, 3, 3)
    )
    profile = Profile(changes.pop("runtime", "onnxruntime"), changes.pop("threads", 1), changes.pop("batch", 1), 1.0, (layer,))
    return Evidence(profile, AchievableSpeed(100, 400, 1), **changes)


def test_findings_that_rest_on_time_say_nothing_where_nothing_differs() -> None:
    from planish.explanation.findings.finders import find_all
    from planish.explanation.findings.finding import Alternative

    def found(name: str, verdict: str, ms: float, **changes: Any) -> list[str]:
        given = evidence(alternatives={name: Alternative(ms, verdict, 1.0)}, **changes)
        return [f.name for f in find_all(given) if f.name != "float_where_integers_pay"]

    assert found("f32", "faster", 0.6, precision="bf16") == ["bf16_hint"]
    assert found("f32", "no difference", 0.9, precision="bf16") == []
    assert found("1 thread", "faster", 0.6, threads=2) == ["threads"]
    assert found("1 thread", "no difference", 0.6, threads=2, usable_cores=2) == []
    assert found("1 thread", "slower", 1.9, threads=2) == []
    assert found("1 thread", "no difference", 0.6, threads=2, usable_cores=1) == ["threads"]
    assert found("batch 1", "faster", 0.1, batch=8) == ["batch"]
    assert found("batch 1", "faster", 0.2, batch=4) == ["batch"]
    assert found("batch 1", "faster", 0.3, batch=4) == []
    assert [f.name for f in find_all(evidence(precision="int8", preprocessing_ms=3.0))] == ["preprocessing"]
    assert [f.name for f in find_all(evidence(precision="int8", preprocessing_ms=0.5))] == []


@pytest.mark.parametrize(
    ("runtime", "op", "weight", "said"),
    [
        ("openvino", "Convolution", (33, 64, 3, 3), ["33 → 32"]),
        ("openvino", "Deconvolution", (33, 64, 3, 3), []),
        ("openvino", "Deconvolution", (64, 33, 3, 3), ["33 → 32"]),
        ("onnxruntime", "ConvTranspose", (33, 64, 3, 3), []),
    ],
)
def test_the_channels_that_a_transposed_convolution_writes_are_aligned(
    runtime: str, op: str, weight: tuple[int, ...], said: list[str]
) -> None:
    from planish.explanation.findings.shapes import misaligned_channels

    given = evidence(runtime=runtime)
    profile = replace(given.profile, layers=(replace(given.profile.layers[0], op=op, weight=weight),))
    found = misaligned_channels(replace(given, profile=profile))
    assert ([] if found is None else [found.fix.split(": ")[1]]) == said


@pytest.mark.parametrize(("gain", "precision", "said"), [(4, "fp32", True), (1.1, "fp32", False), (4, "int8", False), (4, "bf16", False)])
def test_fp32_where_integers_pay(gain: float, precision: str, said: bool) -> None:
    from planish.explanation.findings.finders import find_all

    given = replace(evidence(precision=precision), reach=AchievableSpeed(100, 100 * gain, 1))
    found = {finding.name: finding for finding in find_all(given)}
    assert ("float_where_integers_pay" in found) == said
    if said:
        assert found["float_where_integers_pay"].cost_ms == pytest.approx(0.75)
        assert "4.0 times" in found["float_where_integers_pay"].why


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_whole_file_in_fp32_says_that_int8_pays_and_one_in_int8_does_not(
    resnet: Artifact, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:

    monkeypatch.setattr(explaining, "measure_peak_speed", lambda threads: AchievableSpeed(100, 350, 1))
    said = [{f.name for f in planish.explain(file, runtime=runtime).findings} for file in (resnet.files[0], healthy(resnet, runtime))]
    assert ["float_where_integers_pay" in one for one in said] == [True, False]
