"""A network taught by another."""
