"""Findings: why a model is slow or inaccurate, and how to fix it."""
