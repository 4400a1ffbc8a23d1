"""Intervals, paired tests, power laws, and tests that may be looked at again and again."""
