"""Data-centric tools: cross-validation, label issues, learning curves, few-shot probes, retraining."""
