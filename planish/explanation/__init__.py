"""Explain where a model's latency and quantization error come from, and how to reduce them."""
