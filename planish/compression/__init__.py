"""Techniques that make a network smaller and faster."""

from planish.compression.binarize import Binarize
from planish.compression.channel_pruning import ChannelPruning
from planish.compression.int8 import Int8
from planish.compression.learned_rounding import LearnedRounding
from planish.compression.quantize_aware import QuantizeAware
from planish.compression.resolution import Resolution

__all__ = ["Binarize", "ChannelPruning", "Int8", "LearnedRounding", "QuantizeAware", "Resolution"]
