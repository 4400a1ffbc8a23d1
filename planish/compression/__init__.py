"""Techniques that make a network smaller and faster."""

from planish.compression.channel_pruning import ChannelPruning
from planish.compression.int8 import Int8
from planish.compression.resolution import Resolution

__all__ = ["ChannelPruning", "Int8", "Resolution"]
