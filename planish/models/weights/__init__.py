"""Reading checkpoints of any kind and matching them to a network."""
