"""Whether an exported file computes what PyTorch computes."""
