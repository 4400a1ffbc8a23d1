"""Techniques that make a network smaller and faster."""

from planish.compression.channel_pruning import ChannelPruning
from planish.compression.factorize import Factorize
from planish.compression.int8 import Int8
from planish.compression.resolution import Resolution

__all__ = ["ChannelPruning", "Factorize", "Int8", "Resolution"]
