"""What a model gets wrong, by kind and cost, and which labels are probably wrong."""
