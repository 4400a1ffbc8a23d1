"""What the images themselves allow: folds, label issues, learning curves, few-shot probes, retraining."""
