"""Pruning of channels, blocks and single weights."""
