"""Experiment trackers: MLflow, TensorBoard, Weights & Biases and Trackio get the numbers and files of a job."""
