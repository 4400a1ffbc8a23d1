"""Recompute the numbers of a run from its predictions and timings."""
