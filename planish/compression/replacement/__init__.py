"""Another input size, width, or a simpler graph in place of the original."""
