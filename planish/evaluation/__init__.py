"""Evaluation of models: metrics, latency, size, and the statistics behind each interval."""
