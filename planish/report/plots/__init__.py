"""Plots as inline SVG, and images in pages."""
