"""Techniques that make files smaller, not faster."""
