"""Techniques that make a network smaller and faster."""

from planish.compression.factorization.factorize import Factorize
from planish.compression.pruning.block_pruning import BlockPruning
from planish.compression.pruning.channel_pruning import ChannelPruning
from planish.compression.pruning.iterative_pruning import IterativePruning
from planish.compression.pruning.latency_pruning import LatencyPruning
from planish.compression.pruning.nm_pruning import NMPruning
from planish.compression.pruning.unstructured_pruning import UnstructuredPruning
from planish.compression.quantization.binarize import Binarize
from planish.compression.quantization.half_precision import HalfPrecision
from planish.compression.quantization.int8 import Int8
from planish.compression.quantization.learned_rounding import LearnedRounding
from planish.compression.quantization.quantization_aware_training import QuantizeAware
from planish.compression.replacement.block_replacement import BlockReplacement
from planish.compression.replacement.resolution import Resolution
from planish.compression.replacement.simplify import Simplify
from planish.compression.replacement.width import Width
from planish.compression.storage.weight_sharing import WeightSharing

__all__ = [
    "Binarize",
    "BlockPruning",
    "BlockReplacement",
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
