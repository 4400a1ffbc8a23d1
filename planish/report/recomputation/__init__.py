"""The numbers of a run computed again from its predictions and timings."""
