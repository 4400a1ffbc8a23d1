"""What a model is worth: metrics, latency, size, and the statistics behind each interval."""
