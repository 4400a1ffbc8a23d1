"""Checks that an exported file computes the same as PyTorch."""
