"""Pruning of channels, residual blocks and individual weights."""
