"""Finders for quantization: layers that run in float, slow integer kernels, and overflow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from planish.explanation.findings.finding import Evidence, Finder, Finding, slowest
from planish.explanation.profiles.profile import ACTIVATIONS, LayerProfile, Profile

_QUANTIZE = {"QuantizeLinear", "FakeQuantize", "Quantize"}
_DEQUANTIZE = {"DequantizeLinear"}
_FUSED = {"Relu", "Clip"}  # runtimes compute these inside an integer convolution
_PAYS = 1.3  # smallest integer speed-up for which quantization is recommended, since quantizing and converting also take time
_USEFUL = 0.8  # share of the peak speed that a good integer convolution reaches


@dataclass(frozen=True)
class Island:
    """Connected layers that run in float between integer layers, with the conversions around them."""

    layers: tuple[LayerProfile, ...]

    @property
    def matrix_layers(self) -> list[LayerProfile]:
        return [layer for layer in self.layers if layer.macs]

    @property
    def activations(self) -> list[LayerProfile]:
        """Activations that runtimes do not fuse into a convolution."""
        return [layer for layer in self.layers if layer.op in ACTIVATIONS - _FUSED]

    def cost_ms(self, evidence: Evidence) -> float:
        """Return the time that integer execution would save: all of the conversions, and the machine's integer saving on the rest."""
        saved = evidence.int8_saving
        return sum(evidence.profile.ms(x) * (1.0 if x.kind == "conversion" else saved) for x in self.layers)


def islands(profile: Profile) -> list[Island]:
    """Return the groups of connected float layers between integer layers.

    Layers before the first integer layer and after the last one are not counted, since pixels and logits are float. A float convolution
    with a quantized input counts wherever it is.
    """
    integer = {x.name for x in profile.layers if x.precision == "int8" and x.kind != "conversion"}
    after = _spread((x for x in profile.layers if x.name in integer or x.op in _DEQUANTIZE), profile.readers, integer)
    before = _spread((x for x in profile.layers if x.name in integer or x.op in _QUANTIZE), profile.sources, integer)
    between = {name for name in after & before if name not in integer}
    between |= {x.name for x in profile.layers if x.macs and x.kind != "linear" and x.name not in integer and _was_quantized(profile, x)}
    return [Island(tuple(part)) for part in _connected(profile, between)]


def _spread(start: Iterable[LayerProfile], step: object, integer: set[str]) -> set[str]:
    """Return the names of all float layers that can be reached from ``start`` through float layers, including those in ``start``."""
    assert callable(step)
    waiting = list(start)
    reached = {x.name for x in waiting if x.name not in integer}
    while waiting:
        for other in step(waiting.pop()):
            if other.name not in reached and other.name not in integer:
                reached.add(other.name)
                waiting.append(other)
    return reached


def _was_quantized(profile: Profile, layer: LayerProfile) -> bool:
    above = profile.sources(layer)
    for _ in range(3):
        if any(x.op in _DEQUANTIZE for x in above):
            return True
        above = [y for x in above if x.kind == "conversion" for y in profile.sources(x)]
    return False


def _connected(profile: Profile, names: set[str]) -> list[list[LayerProfile]]:
    left, parts = dict.fromkeys(x.name for x in profile.layers if x.name in names), []
    by_name = {x.name: x for x in profile.layers}
    while left:
        part, waiting = [], [by_name[next(iter(left))]]
        del left[waiting[0].name]
        while waiting:
            part.append(waiting.pop())
            for other in (*profile.sources(part[-1]), *profile.readers(part[-1])):
                if other.name in left:
                    del left[other.name]
                    waiting.append(other)
        parts.append(part)
    return parts


def _signed_blocks(evidence: Evidence) -> bool:
    p = evidence.profile
    return p.runtime == "onnxruntime" and evidence.x86 and p.signed_activations > p.unsigned_activations


def signed_activations(evidence: Evidence) -> Finding | None:
    """Signed activations, which ONNX Runtime on x86 fuses into only some of the convolutions."""
    profile = evidence.profile
    found = islands(profile)
    floats = [x for island in found for x in island.matrix_layers]
    if not _signed_blocks(evidence) or not floats:
        return None
    return Finding(
        "signed_activations",
        f"the file quantizes {profile.signed_activations} activations to signed 8 bits, and {len(floats)} of {len(profile.matrix_layers)} "
        "convolution and linear layers run in float",
        "ONNX Runtime's integer kernels on x86 take unsigned activations; signed ones it turns into unsigned only where the pattern around "
        "a layer is simple, and dequantizes the others",
        "quantize activations as unsigned and weights as signed 8 bits: activation_type=QUInt8, weight_type=QInt8, or Planish's int8",
        sum(island.cost_ms(evidence) for island in found),
        slowest(profile, floats),
    )


def blocked_fusion(evidence: Evidence) -> Finding | None:
    """Q/DQ pairs in places where the runtime cannot fuse them."""
    profile = evidence.profile
    if _signed_blocks(evidence):
        return None
    found = [
        island for island in islands(profile) if not island.activations and any(x.op in _QUANTIZE | _DEQUANTIZE for x in island.layers)
    ]
    layers = [x for island in found for x in island.layers]
    if not layers:
        return None
    pairs = [x for x in layers if x.op in _QUANTIZE | _DEQUANTIZE]
    floats = [x for x in layers if x.macs]
    return Finding(
        "blocked_fusion",
        f"{len(pairs)} quantize and dequantize nodes are executed between layers"
        + (f", and {len(floats)} of {len(profile.matrix_layers)} convolution and linear layers run in float" if floats else ""),
        "a layer runs in integers only if its inputs, its output and what follows it (additions, pooling, activations) are quantized; "
        "otherwise the pairs around it are carried out one by one",
        "quantize the outputs and every operation between the layers too: do not limit op_types_to_quantize, run quant_pre_process first; "
        "or use Planish's int8",
        sum(island.cost_ms(evidence) for island in found),
        slowest(profile, floats or pairs),
    )


def float_activation(evidence: Evidence) -> Finding | None:
    """Activations without an integer kernel, around which the runtime converts to float and back."""
    profile = evidence.profile
    if _signed_blocks(evidence):
        return None
    found = [island for island in islands(profile) if island.activations]
    if not found:
        return None
    activations = [x for island in found for x in island.activations]
    kinds = ", ".join(sorted({x.op for x in activations}))
    floats = [x for island in found for x in island.matrix_layers]
    return Finding(
        "float_activation",
        f"{len(activations)} activations ({kinds}) run in float between integer layers"
        + (f", and with them {len(floats)} convolution and linear layers" if floats else ""),
        f"{_name(profile.runtime)} has no integer kernel for them: each is dequantized, computed and quantized again",
        "train with ReLU or ReLU6 in their place (a few epochs of distillation recover most), or try OpenVINO, which computes many "
        "activations inside the convolution",
        sum(island.cost_ms(evidence) for island in found),
        slowest(profile, activations),
    )


def dynamic_convolutions(evidence: Evidence) -> Finding | None:
    """Dynamically quantized convolutions, whose activations are quantized again in every call."""
    profile = evidence.profile
    convolutions = [x for x in profile.layers if x.op == "ConvInteger"]
    if not convolutions:
        return None
    around = [x for x in profile.layers if x.op == "DynamicQuantizeLinear"]
    for layer in convolutions:
        waiting = profile.readers(layer)  # these cast the int32 result, scale it twice and add the bias
        for _ in range(4):
            around += [x for x in waiting if x.kind != "activation" and x not in around and not x.macs and x.op != "DynamicQuantizeLinear"]
            waiting = [y for x in waiting if x in around for y in profile.readers(x)]
    least = sum(2 * x.macs for x in convolutions) / (_USEFUL * evidence.reach.int8_gops * 1e6)
    return Finding(
        "dynamic_convolutions",
        f"{len(convolutions)} convolutions are quantized dynamically",
        "the range of every activation is searched and the activation quantized in each call, the result goes back to float, and the "
        "kernel for it is slow: dynamic quantization is made for large linear layers",
        "quantize statically with calibration images: quantize_static, or Planish's int8",
        max(0.0, profile.total_ms(convolutions) + profile.total_ms(around) - least),
        slowest(profile, convolutions),
    )


def unsigned_weights(evidence: Evidence) -> Finding | None:
    """Unsigned 8-bit weights, for which x86 has no fast product with unsigned activations."""
    profile = evidence.profile
    layers = [x for x in profile.matrix_layers if x.precision == "int8" and x.weight_type == "uint8" and x.op.startswith("Q")]
    if profile.runtime != "onnxruntime" or not evidence.x86 or not layers:
        return None
    least = sum(2 * x.macs for x in layers) / (_USEFUL * evidence.reach.int8_gops * 1e6)
    return Finding(
        "unsigned_weights",
        f"{len(layers)} integer layers have unsigned 8-bit weights",
        "the processor multiplies unsigned activations with signed weights; unsigned weights are widened to 16 bits first",
        "quantize weights as signed 8 bits: weight_type=QInt8, or Planish's int8",
        max(0.0, profile.total_ms(layers) - least),
        slowest(profile, layers),
    )


def float_where_integers_pay(evidence: Evidence) -> Finding | None:
    """A model that runs entirely in fp32 on a processor with faster integer arithmetic."""
    profile, gain = evidence.profile, evidence.reach.int8_gain
    layers = [x for x in profile.matrix_layers if x.precision == "fp32"]
    if gain < _PAYS or len(layers) < len(profile.matrix_layers) or any(x.op in _QUANTIZE | _DEQUANTIZE for x in profile.layers):
        return None
    return Finding(
        "float_where_integers_pay",
        f"all {len(layers)} convolution and linear layers run in fp32",
        f"on this processor 8-bit integers multiply {gain:.1f} times as fast as 32-bit floats",
        "quantize it: Planish's int8, or compress --plan with to_onnx and int8; what that costs in accuracy is measured there. The time is "
        "an estimate of the most that is saved",
        evidence.int8_saving * profile.total_ms(layers),
        slowest(profile, layers),
    )


def overflow(evidence: Evidence) -> Finding | None:
    """Full-range 8-bit weights on an x86 processor without VNNI, where sums of two products can overflow 16 bits."""
    profile = evidence.profile
    layers = [x for x in profile.matrix_layers if x.precision == "int8"]
    vnni = any("vnni" in name or name == "amx_int8" for name in evidence.instruction_sets)
    if not evidence.x86 or vnni or not layers or evidence.overflow_share == 0:
        return None
    exact = profile.settings.get("session.x64quantprecision") == "1"
    return Finding(
        "overflow",
        f"this processor has no VNNI, and in {100 * evidence.overflow_share:.0f} % of the output channels two neighbouring products "
        "can exceed 16 bits",
        "without VNNI pairs of 8-bit products are added in 16 bits and saturate, silently. A scale per channel makes every channel use "
        "all 8 bits, so it happens more often than with one scale per layer"
        + (". Planish loads the file with session.x64quantprecision=1: exact but slow kernels; other programs do not" if exact else ""),
        "quantize weights to 7 bits: Planish's int8 with weight_bits: 7, reduce_range=True elsewhere; or run on a processor with VNNI",
        0.0,
        slowest(profile, layers),
        wrong_results=True,
    )


def _name(runtime: str) -> str:
    return {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}.get(runtime, runtime)


FINDERS: tuple[Finder, ...] = (
    signed_activations,
    blocked_fusion,
    float_activation,
    dynamic_convolutions,
    unsigned_weights,
    float_where_integers_pay,
    overflow,
)
