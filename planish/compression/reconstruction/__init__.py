"""Layers fitted by least squares to what they computed before a cut."""
