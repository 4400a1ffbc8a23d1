"""Bundles on a port."""
