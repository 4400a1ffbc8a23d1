"""Metrics of each task, thresholds, calibration, robustness."""
