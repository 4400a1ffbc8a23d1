"""Confidence intervals, paired tests, power laws, and sequential tests that may be checked after every observation."""
