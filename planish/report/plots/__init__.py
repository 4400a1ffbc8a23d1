"""Plots as inline SVG, and images embedded in pages."""
