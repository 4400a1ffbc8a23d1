"""Finders for layers in which fewer MACs save no time: misaligned channels, memory-bound layers, unstructured sparsity."""

from __future__ import annotations

import math

from planish.explanation.findings.finding import Evidence, Finder, Finding, slowest
from planish.explanation.profiles.profile import LayerProfile

_SPARSE = 0.5  # share of zero weights from which a layer counts as pruned; rounding to 8 bits alone yields fewer
_SLOW = 0.5  # share of the peak speed below which a depthwise layer is memory-bound; dense layers reach more
_DOMINANT = 0.4  # share of a call's latency from which slow depthwise layers are reported


def channel_block(instruction_sets: tuple[str, ...]) -> int:
    """Return the number of channels that a convolution kernel computes at once: the floats in one vector register."""
    return 16 if "avx512f" in instruction_sets else 8


def padding_waste(layer: LayerProfile, block: int) -> float:
    """Return the share of a convolution's work spent on channels that only pad a block."""
    # ONNX Runtime computes a transposed convolution as one matrix product, which needs no blocks
    if layer.kind != "convolution" or layer.op == "ConvTranspose" or len(layer.weight) < 3:
        return 0.0
    # kernels accept any number of input channels, but multiples of 4 are faster; 1 and 3 (images) have dedicated kernels
    out, read = _channels(layer)
    useful = out / (block * math.ceil(out / block))
    if read > 4:
        useful *= read / (4 * math.ceil(read / 4))
    return 1 - useful


def _channels(layer: LayerProfile) -> tuple[int, int]:
    """Return the output and input channels of a convolution; a transposed one has the input channels first in its weight."""
    first, second = layer.weight[:2]
    return (second, first) if layer.op == "Deconvolution" else (first, second)


def misaligned_channels(evidence: Evidence) -> Finding | None:
    """Convolutions whose number of output channels is not a multiple of the kernel's block."""
    profile, block = evidence.profile, channel_block(evidence.instruction_sets)
    waste = {x.name: padding_waste(x, block) for x in profile.layers}
    layers = [x for x in profile.layers if waste[x.name] > 0.1]
    if not layers:
        return None
    out = [_channels(x)[0] for x in sorted(layers, key=profile.ms, reverse=True)]
    widths = list(dict.fromkeys(width for width in out if width % block))
    if not widths:
        return None
    return Finding(
        "misaligned_channels",
        f"{len(layers)} convolutions have a number of channels that is no multiple of {block}: {', '.join(map(str, widths[:4]))}",
        f"kernels compute {block} channels at once, and fill up what is missing",
        f"prune or widen to multiples of {block}: {widths[0]} → {_nearest(widths[0], block)}",
        sum(profile.ms(x) * waste[x.name] for x in layers),
        slowest(profile, layers),
    )


def _nearest(width: int, block: int) -> int:
    return max(block, block * round(width / block))


def memory_bound_depthwise(evidence: Evidence) -> Finding | None:
    """Memory-bound depthwise layers that take a large share of the time."""
    profile = evidence.profile
    # ConvInteger is slow for another reason, see dynamic_convolutions
    depthwise = [x for x in profile.layers if x.kind == "depthwise" and x.op != "ConvInteger"]
    slow = [x for x in depthwise if x.gops < _SLOW * (evidence.reach.gops(x.precision) or 0)]
    time, everything = profile.total_ms(slow), sum(x.macs for x in profile.layers)
    if not slow or time < _DOMINANT * profile.latency_ms:
        return None
    macs = sum(x.macs for x in slow)
    return Finding(
        "memory_bound_depthwise",
        f"{len(slow)} depthwise convolutions take {100 * time / profile.latency_ms:.0f} % of the time for "
        f"{100 * macs / max(1, everything):.0f} % of the multiplications",
        "each value read is used for a few products only, so loading values sets the pace and not arithmetic",
        "give them fewer or smaller maps: prune the channels of these layers, feed smaller images, stride earlier; where maps are large "
        "and channels few, one dense 3x3 convolution in place of the pair is often faster",
        time - sum(2 * x.macs / (_SLOW * (evidence.reach.gops(x.precision) or math.inf) * 1e6) for x in slow),
        slowest(profile, slow),
    )


def sparse_weights(evidence: Evidence) -> Finding | None:
    """Unstructured sparsity, from which dense kernels gain nothing."""
    profile = evidence.profile
    layers = [x for x in profile.matrix_layers if x.zeros >= _SPARSE]
    if not layers:
        return None
    share = sum(x.zeros * math.prod(x.weight) for x in layers) / sum(math.prod(x.weight) for x in layers)
    return Finding(
        "sparse_weights",
        f"{100 * share:.0f} % of the weights of {len(layers)} layers are 0",
        "the runtime has dense kernels only: it multiplies zeros like other numbers, so unstructured sparsity makes the compressed file "
        "smaller and no call faster",
        "prune whole channels instead (Planish's channel_pruning), which removes them from the file",
        sum(profile.ms(x) * x.zeros for x in layers),
        slowest(profile, layers),
    )


FINDERS: tuple[Finder, ...] = (misaligned_channels, memory_bound_depthwise, sparse_weights)
