"""Metrics of each task, decision thresholds, calibration, and robustness to corruptions."""
