"""Data sources (folders, manifests and built-in data sets) and their inventories."""
