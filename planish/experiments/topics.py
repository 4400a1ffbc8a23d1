"""Topics of ``planish compare``: strategies at several levels, with the same recovery for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from planish.compression import (
    BlockPruning,
    ChannelPruning,
    Factorize,
    HalfPrecision,
    Int8,
    IterativePruning,
    LatencyPruning,
    LearnedRounding,
    NMPruning,
    QuantizeAware,
    Resolution,
    UnstructuredPruning,
    WeightSharing,
)
from planish.compression.quantization.activation_ranges import Calibrator
from planish.errors import PlanError
from planish.export import Pack, ToOnnx
from planish.plan import Plan
from planish.technique import Technique
from planish.training import Distill


@dataclass(frozen=True)
class Strategy:
    """One strategy at one level.

    Args:
        strategy: name in the table.
        level: strength, such as ``channels −50 %``; empty if the strategy has one level only.
        plan: from the original to the ONNX file, with ``Pack`` where the file is not smaller without it.
    """

    strategy: str
    level: str
    plan: Plan


def pruning(recovery: Distill, runtime: str) -> list[Strategy]:
    """Return arms with structured and unstructured pruning at three levels; random channels are the control."""
    arms: list[Strategy] = []

    def add(strategy: str, *steps: Technique, level: str = "", pack: bool = False) -> None:
        arms.append(Strategy(strategy, level or str(steps[0]), Plan(*steps, ToOnnx(), *([Pack()] if pack else []))))

    for ratio in (0.3, 0.5, 0.7):
        by_norm = ChannelPruning(pruning_ratio=ratio)
        for strategy, channels in (
            ("channels by L2 norm", by_norm),
            ("channels by Taylor expansion", ChannelPruning(pruning_ratio=ratio, importance="taylor")),
            ("channels at random", ChannelPruning(pruning_ratio=ratio, importance="random")),
        ):
            add(strategy, channels, recovery)
        rounds = replace(recovery, epochs=max(1, recovery.epochs // 2))  # two rounds cost as much as one recovery
        add("channels in two rounds", IterativePruning(pruning=by_norm, rounds=2, distill=rounds), level=str(by_norm))
        add("blocks", BlockPruning(pruning_ratio=ratio), recovery)
    for speedup in (1.5, 2.5, 4.0):
        add("channels by milliseconds", LatencyPruning(speedup=speedup, runtime=runtime), recovery)
    for sparsity in (0.5, 0.8, 0.9):
        add("single weights", UnstructuredPruning(sparsity=sparsity), recovery, pack=True)
    for n in (2, 1):
        add("N:M", NMPruning(n=n, m=4), recovery, pack=True)
    return arms


def quantization(recovery: Distill, runtime: str) -> list[Strategy]:
    """Return arms with INT8 by calibration method, INT8 with common improvements, learned INT8 scales, 16-bit and low-bit weights."""
    max_slowdown = 0.1
    variants = {f"INT8, {method}": Int8(method=method) for method in get_args(Calibrator)}
    variants["INT8, one weight scale per layer"] = Int8(per_channel=False)
    variants["INT8, one scale per layer, equalised"] = Int8(per_channel=False, equalise=True)
    variants["INT8, 7-bit weights"] = Int8(weight_bits=7)
    variants["INT8, biases not corrected"] = Int8(correct_bias=False)
    arms = [Strategy(strategy, "", Plan(ToOnnx(), step)) for strategy, step in variants.items()]
    arms.append(
        Strategy(
            "INT8 and float layers",
            f"at most {100 * max_slowdown:g} % slower",
            Plan(ToOnnx(), Int8(max_slowdown=max_slowdown, runtime=runtime)),
        )
    )
    halves = (HalfPrecision(), HalfPrecision(kind="bf16"))
    arms += [Strategy("16-bit weights", half.kind, Plan(ToOnnx(), half)) for half in halves]
    exact = Int8.for_device().weight_bits
    learned = QuantizeAware(
        weight_bits=exact, epochs=recovery.epochs, augmentation=recovery.augmentation, mixed_precision=recovery.mixed_precision
    )
    arms.append(Strategy("INT8, scales learned in training", "", Plan(learned, ToOnnx())))
    for bits in (4, 2):
        rounded, sharing = LearnedRounding(bits=bits), WeightSharing(bits=bits)
        arms.append(Strategy("weights with learned rounding", f"{bits} bits", Plan(rounded, ToOnnx(), Pack())))
        arms.append(Strategy("shared weights", f"{2**bits} values per layer", Plan(sharing, recovery, ToOnnx(), Pack())))
    return arms


def planning(recovery: Distill, runtime: str) -> list[Strategy]:
    """Return arms that choose widths uniformly, by MACs or by latency, with and without low rank, and each technique alone, all in INT8."""
    arms: list[Strategy] = []
    int8 = Int8.for_device()

    def add(strategy: str, technique: Technique) -> None:
        arms.append(Strategy(strategy, str(technique), Plan(technique, recovery, ToOnnx(), int8)))

    for ratio in (0.3, 0.45, 0.6):
        add("all layers alike", ChannelPruning(pruning_ratio=ratio))
    for speedup in (1.5, 2.0, 3.0):
        by_milliseconds = LatencyPruning(speedup=speedup, runtime=runtime, precision="int8")
        add("by multiplications", replace(by_milliseconds, cost="macs"))
        add("by milliseconds", by_milliseconds)
        add("by milliseconds, with ranks and precisions", replace(by_milliseconds, low_rank=True, mixed_precision=True))
    for speedup in (1.2, 1.5, 2.0):
        add("ranks alone", Factorize(speedup=speedup, runtime=runtime, precision="int8"))
    for ratio in (0.25, 0.5):
        add("blocks alone", BlockPruning(pruning_ratio=ratio))
    for scale in (0.75, 0.5):
        add("resolution alone", Resolution(scale=scale))
    arms.append(Strategy("INT8 alone", "", Plan(ToOnnx(), int8)))
    return arms


TOPICS: dict[str, Callable[[Distill, str], Sequence[Strategy]]] = {"pruning": pruning, "quantization": quantization, "planning": planning}


def strategies_of(topic: str, recovery: Distill, runtime: str = "onnxruntime") -> Sequence[Strategy]:
    """Return the arms of a topic.

    Args:
        topic: a key of ``TOPICS``.
        recovery: training after each technique that needs it.
        runtime: runtime in which layers are timed, for techniques based on latency.

    Raises:
        PlanError: there is no such topic.
    """
    if topic not in TOPICS:
        raise PlanError(f"there is no topic {topic!r}", f"topics are {', '.join(TOPICS)}", "for example --topic pruning")
    return TOPICS[topic](recovery, runtime)
