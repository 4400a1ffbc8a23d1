"""Commands on datasets: description, tiling, cross-validation, label issues, learning curves, few-shot accuracy and retraining."""
