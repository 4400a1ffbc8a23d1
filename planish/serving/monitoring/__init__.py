"""Prediction log, drift detection, and selection of images to label."""
