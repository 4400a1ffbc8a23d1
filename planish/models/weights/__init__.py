"""Checkpoints of any kind, read and matched to a network."""
