"""Techniques that make a network smaller and faster."""

from planish.compression.binarize import Binarize
from planish.compression.block_pruning import BlockPruning
from planish.compression.channel_pruning import ChannelPruning
from planish.compression.factorize import Factorize
from planish.compression.half_precision import HalfPrecision
from planish.compression.int8 import Int8
from planish.compression.iterative_pruning import IterativePruning
from planish.compression.latency_pruning import LatencyPruning
from planish.compression.learned_rounding import LearnedRounding
from planish.compression.nm_pruning import NMPruning
from planish.compression.quantize_aware import QuantizeAware
from planish.compression.resolution import Resolution
from planish.compression.simplify import Simplify
from planish.compression.unstructured_pruning import UnstructuredPruning
from planish.compression.weight_sharing import WeightSharing
from planish.compression.width import Width

__all__ = [
    "Binarize",
    "BlockPruning",
    "ChannelPruning",
    "Factorize",
    "HalfPrecision",
    "Int8",
    "IterativePruning",
    "LatencyPruning",
    "LearnedRounding",
    "NMPruning",
    "QuantizeAware",
    "Resolution",
    "Simplify",
    "UnstructuredPruning",
    "WeightSharing",
    "Width",
]
