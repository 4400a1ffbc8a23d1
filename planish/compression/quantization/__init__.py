"""Quantization: post-training, quantization-aware training, learned rounding, binary and 16-bit weights."""
