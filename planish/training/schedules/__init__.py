"""Learning rate, length, layer freezing and weight averaging over the course of a training."""
