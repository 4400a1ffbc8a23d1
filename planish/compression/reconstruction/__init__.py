"""Least-squares reconstruction of layer outputs after pruning or factorization."""
